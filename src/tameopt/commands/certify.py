"""`tameopt certify`: is it proved that gradient descent reaches zero training loss from here?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, ExitCode, Json, Panel, Quiet, emit_json, say, terminal

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
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Prove that gradient descent reaches zero training loss, or say which number fails.

    Without a target it certifies a one-hidden-layer network on handwritten digits at initialisation. Exit code 1
    when nothing is certified, or when a checked certificate does not hold.
    """
    if check is not None:
        return _check(check, as_json)
    from tameopt.kl.digits_trap import digits_trap
    from tameopt.kl.honest_scale import du_width, honest_scale
    from tameopt.kl.online import online_certificate
    from tameopt.kl.shallow import recognise
    from tameopt.kl.trap import trap_certificate

    say("certifying and replaying the proof", quiet)
    at_step = None
    if target:
        from tameopt.audit.targets import resolve

        found = resolve(target, seed)
        if found.problem is None:
            raise ValueError(f"{target} does not say which problem it was recorded with: certify needs its network.")
        problem = found.problem
        if found.run is not None:
            online = online_certificate(problem, found.run)
            certificate, at_step = online.certificate, online.step
        else:
            certificate = trap_certificate(problem, step=step)
    else:
        problem = digits_trap(n, width, gain, seed=seed)
        certificate = trap_certificate(problem, step=step)
    if save is not None and certificate.data is not None:
        certificate.save(save)
    finding = certificate.finding(at_step) if _small(certificate) else None
    document: dict[str, Any] = {
        "holds": certificate.holds, "verdict": str(certificate.verdict), "reason": certificate.reason,
        "network": certificate.network, "samples": certificate.n, "h": certificate.h, "radius": certificate.radius,
        "step": certificate.step, "rate": certificate.rate, "target": certificate.target, "steps": certificate.steps,
        "from_step": at_step,
    }  # fmt: skip
    lines = [f"{certificate.verdict}  {finding.statement if finding else certificate.reason}"]
    if certificate.holds:
        net = recognise(problem)
        if not isinstance(net, str):
            scale = honest_scale(net, certificate)
            document |= {"scale": scale.to_json(), "du_et_al_width": du_width(net.X)}
            lines += [f"  {line}" for line in scale.lines()]
            lines.append(f"  Du et al. 2019 would ask for {du_width(net.X):.2g} neurons here (constant 1, delta 0.1)")
        if save is not None:
            lines.append(f"  saved: tameopt certify --check {save}")
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None if certificate.holds else ExitCode.FINDING


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
