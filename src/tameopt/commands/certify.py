"""`tameopt certify`: is it proved that gradient descent reaches zero training loss from here?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tameopt.commands._common import Command, ExitCode, Json, Panel, Quiet, emit_json, say, terminal

if TYPE_CHECKING:
    from tameopt.kl import FlowCertificate, MarginCertificate, TrapCertificate
    from tameopt.kl.held_out import HeldOut
    from tameopt.problem import Problem
    from tameopt.run import Run

CheckFile = Annotated[
    Path | None, typer.Option("--check", help="Replay a saved certificate from its weights and data.", metavar="FILE")
]
Where = Annotated[
    str,
    typer.Argument(
        metavar="[TARGET]",
        help="A problem's name, FILE.py:factory, or the folder of a recorded run; the digits example by default.",
    ),
]


def certify(
    target: Where = "",
    check: CheckFile = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the certificate here.", metavar="FILE")] = None,
    step: Annotated[float | None, typer.Option("--step", help="The step size to certify.")] = None,
    n: Annotated[int, typer.Option("--samples", help="Digits of the built-in example.")] = 20,
    width: Annotated[int, typer.Option("--width", help="Neurons of the built-in example.")] = 2**15,
    gain: Annotated[float, typer.Option("--gain", help="Gain of the built-in example.")] = 2.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the example's weights.")] = 0,
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="Certify exact gradient descent from the initial weights, by shadowing."),
    ] = False,
    most: Annotated[int, typer.Option("--most", help="Steps before --from-start gives up.")] = 20_000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Prove that gradient descent reaches zero training loss, or say which number fails.

    Without a target it certifies a one-hidden-layer network on handwritten digits at initialisation. Exit code 1
    when nothing is certified, or when a checked certificate does not hold.
    """
    if check is not None:
        return _check(check, as_json)
    from tameopt.kl.trap import TrapCertificate

    say("certifying and replaying the proof", quiet)
    problem, run, preprocessing = _problem(target, n, width, gain, seed)
    certificate, at_step, tried = _certificate(problem, run, step, from_start, most)
    if save is not None and certificate.data is not None:
        certificate.save(save)
    finding = certificate.finding(at_step) if _small(certificate) else None
    lines = [f"{certificate.verdict}  {finding.statement if finding else certificate.reason}"]
    if len(tried) == 1 and not certificate.holds:
        lines.append(f"  tried at step {tried[0]:,}, the saved weights of least loss")
    if finding is not None and not certificate.holds and finding.evidence.remedy:
        lines.append(f"  what would help: {finding.evidence.remedy}")
    document: dict[str, Any] = {
        name: getattr(certificate, name)
        for name in certificate.__dataclass_fields__
        if name not in ("data", "verdict")
    }
    document |= {
        "verdict": str(certificate.verdict),
        "from_step": at_step,
        "tried": list(tried),
        "samples": problem.n,
    }
    if isinstance(certificate, TrapCertificate) and certificate.holds:
        from tameopt.kl.held_out import held_out

        theta = None if run is None or at_step is None else run.vector(at_step).to(problem.dtype)
        more, numbers = _scale(certificate, preprocessing, held_out(problem, theta))
        lines += more
        document |= numbers
    if save is not None and certificate.holds:
        lines.append(f"  saved: tameopt certify --check {save}")
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None if certificate.holds else ExitCode.FINDING


def _problem(target: str, n: int, width: int, gain: float, seed: int) -> tuple[Problem, Run | None, str]:
    from tameopt.kl.digits_trap import PREPROCESSING, digits_trap

    if not target:
        return digits_trap(n, width, gain, seed=seed), None, PREPROCESSING
    from tameopt.audit.targets import resolve

    found = resolve(target, seed)
    if found.problem is None:
        raise ValueError(f"{target} does not say which problem it was recorded with: certify needs its network.")
    return found.problem, found.run, "as given"


def _certificate(
    problem: Problem, run: Run | None, step: float | None, from_start: bool, most: int
) -> tuple[TrapCertificate | FlowCertificate | MarginCertificate, int | None, tuple[int, ...]]:
    """The certificate that this problem's loss and network admit, the recorded step it is about, and those tried."""
    from tameopt.kl.margin import classification_loss, margin_certificate
    from tameopt.kl.online import online_certificate, online_flow, why_no_flow
    from tameopt.kl.relu_flow import flow_certificate
    from tameopt.kl.shadowing import shadow_certificate
    from tameopt.kl.trap import trap_certificate

    if from_start:
        first = None
        if run is not None:
            if 0 not in run.vector_steps("theta"):
                raise ValueError("the run must have saved theta at step 0 to be certified from the start.")
            first = run.vector(0).to(problem.dtype)
        return shadow_certificate(problem, first, step, most), None, ()
    if not classification_loss(problem):
        at = None if run is None else int(run.vector_steps("theta")[-1])
        theta = None if run is None or at is None else run.vector(at).to(problem.dtype)
        return margin_certificate(problem, theta), at, ()
    if not why_no_flow(problem):
        if run is None:
            return flow_certificate(problem), None, ()
        flow = online_flow(problem, run)
        return flow.certificate, flow.step, flow.steps
    if run is None:
        return trap_certificate(problem, step=step), None, ()
    online = online_certificate(problem, run)
    return online.certificate, online.step, online.steps


def _scale(
    certificate: TrapCertificate, preprocessing: str, measured: HeldOut | None
) -> tuple[list[str], dict[str, Any]]:
    from tameopt.kl.honest_scale import du_width, honest_scale, network_of

    net = network_of(certificate)
    if net is None:
        return [], {}
    scale, wanted = honest_scale(net, certificate, preprocessing, measured), du_width(net.X)
    lines = [f"  {line}" for line in scale.lines()]
    if certificate.before:
        lines[-2] += f", after step {certificate.before:,}"
    lines.append(f"  Du et al. 2019 would ask for {wanted:.2g} neurons here (constant 1, delta 0.1)")
    return lines, {"scale": scale.to_json(), "du_et_al_width": wanted}


def _small(certificate: Any) -> bool:
    data = certificate.data
    return data is None or sum(array.nbytes for array in data["arrays"].values()) <= 64 << 20


def _check(path: Path, as_json: bool) -> int | None:
    from tameopt.kl.check_file import check_file

    holds = check_file(path)
    if as_json:
        emit_json({"file": str(path), "holds": holds})
    else:
        words = (
            "PROVED: every step of the proof was replayed" if holds else "REJECTED: a step of the proof does not hold"
        )
        terminal().print(f"{path}  {words}")
    return None if holds else ExitCode.FINDING


ENTRY = Command("certify", Panel.TOOLS, certify)
