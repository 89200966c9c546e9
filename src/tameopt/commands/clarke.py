"""`tameopt clarke`: the four subdifferentials of a formula at a point, or the kinks of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Progress, Quiet, Seed, emit_json, progress, terminal
from tameopt.commands._kink_influence import influence as measure_influence


def clarke(
    source: Annotated[
        str, typer.Argument(metavar="FORMULA or TARGET", help='"abs(x) - abs(y)", or a problem or run.')
    ] = "digits-mlp",
    at: Annotated[
        str | None,
        typer.Option("--at", help="The point, as in 0,1/2 (variables sorted; zeros by default).", metavar="X,Y,…"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="Write the picture here: the four sets or, with --flow, the curve (up to two variables)."
        ),
    ] = None,
    flow: Annotated[
        float | None,
        typer.Option("--flow", help="Follow the subgradient flow of a formula to this time.", metavar="T"),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="With --flow: the subgradient steps beside it.")] = 0.1,
    influence: Annotated[
        bool, typer.Option("--influence", help="Measure what the value chosen at a network's kinks changes.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", help="With --influence: mini-batches of each training.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", help="With --influence: trainings of each choice.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Subdifferentials of a formula, exactly; or who sits on a kink in a network and what backprop is worth there."""
    from tameopt import problems

    is_target = source in problems.names() or ".py:" in source or Path(source).exists()
    if influence:
        if not is_target:
            raise ValueError(f"--influence needs a network (a problem, FILE.py:factory or run), got {source!r}.")
        measure_influence(source, steps, repeats, seed, plot, as_json)
        return None
    if is_target:
        with progress(quiet) as show:
            document, lines = _target(source, seed, show)
    else:
        document, lines = _formula(source, at, plot, flow, alpha)
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


def _formula(
    text: str, at: str | None, plot: Path | None, time: float | None, alpha: float
) -> tuple[dict[str, Any], list[str]]:
    from fractions import Fraction

    import torch

    from tameopt.nonsmooth import all_subdifferentials, check_backprop
    from tameopt.nonsmooth.expression import parse

    variables, F = parse(text)
    try:
        x = [Fraction(part.strip()) for part in at.split(",")] if at else [Fraction(0)] * len(variables)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"--at must be numbers such as 0,1/2, got {at!r}.") from error
    if len(x) != len(variables):
        raise ValueError(f"--at must have {len(variables)} numbers, for {', '.join(variables)}, got {len(x)}.")
    sets = all_subdifferentials(F, x)
    backprop = check_backprop(F, torch.tensor([float(entry) for entry in x], dtype=torch.float64))
    least = sets["clarke"].min_norm()
    document: dict[str, Any] = {
        "formula": text, "variables": list(variables), "at": [str(entry) for entry in x],
        "kinks": sets["clarke"].kinks, "backprop": backprop.gradient.tolist(),
        "backprop_is_clarke": {"verdict": str(backprop.verdict), "reason": backprop.reason},
        "distance_to_0": least.distance, "least_norm": [str(entry) for entry in least.point],
    }  # fmt: skip
    lines = [f"{text} at ({', '.join(map(str, x))}): {sets['clarke'].kinks} active kinks"]
    for kind, found in sets.items():
        pieces = [[[str(entry) for entry in corner] for corner in piece.corners] for piece in found.pieces]
        document[kind] = {"status": found.status, "reason": found.reason, "pieces": pieces}
        words = " and ".join(_words(piece) for piece in pieces) or ("empty" if found.empty else repr(found))
        note = "" if found.status == "exact" else f"   ({found.status.replace('_', ' ')}: {found.reason})"
        lines.append(f"  {kind:9}  {words}{note}")
    critical = "0 is in it" if least.distance == 0 else f"0 is {least.distance:.6g} away"
    lines.append(f"  Clarke critical: {critical}")
    lines.append(f"  backprop returns {backprop.gradient.tolist()}: {backprop.verdict}, {backprop.reason}")
    if time is not None:
        followed = _flow(F, x, variables, time, alpha)
        document["flow"] = {
            "status": followed.flow.status, "unique": followed.flow.unique, "events": followed.flow.events,
            "energy_defect": followed.flow.energy_defect, "error": followed.flow.error,
            "alpha": alpha, "iterates": followed.iterates.tolist(),
            "distance": followed.distance,
        }  # fmt: skip
        lines += _flow_words(followed)
    if plot is not None:
        if time is not None:
            followed.plot().figure.savefig(plot, dpi=150)
        else:
            _draw(sets, text, plot, backprop.gradient)
        lines.append(f"  picture: {plot}")
    return document, lines


def _words(corners: list[list[str]]) -> str:
    points = [f"({', '.join(corner)})" if len(corner) > 1 else corner[0] for corner in corners]
    if len(points) == 1:
        return points[0]
    if len(points) == 2 and len(corners[0]) == 1:
        return f"[{points[0]}, {points[1]}]"
    return f"hull of {', '.join(points)}"


def _draw(sets: dict[str, Any], text: str, path: Path, backprop: Any) -> None:
    from tameopt.nonsmooth.side_by_side import side_by_side

    figure = side_by_side(sets, backprop=backprop).flat[0].figure
    figure.suptitle(text)
    figure.savefig(path, dpi=150)


def _flow(F: Any, x: list[Any], names: tuple[str, ...], time: float, alpha: float) -> Any:
    from tameopt.nonsmooth.subgradient_steps import subgradient_steps

    return subgradient_steps(F, x, time, alpha, names=names)


def _flow_words(found: Any) -> list[str]:
    near = f", within {found.flow.error:.3g} if F is convex" if found.flow.status == "bundle" else ""
    near = f", estimated error {found.flow.error:.1g}" if found.flow.status == "integrated" else near
    lines = [f"  flow to t = {found.flow.times[-1]:g} ({found.flow.status}{near}):"]
    for event in found.flow.events:
        at, velocity = (", ".join(map(str, point)) for point in (event.x, event.velocity))
        others = f", or {len(event.alternatives)} other velocities" if event.alternatives else ""
        lines.append(f"    t = {event.t}: at ({at}), leaves with velocity ({velocity}){others}")
    count = "one solution" if found.flow.unique else "one of several solutions"
    lines.append(f"    energy identity: defect {found.flow.energy_defect:g}; {count}")
    lines.append(
        f"  {len(found.iterates) - 1} subgradient steps of {found.alpha:g}: at most {found.distance:.3g} from it"
    )
    return lines


def _target(target: str, seed: int, show: Progress) -> tuple[dict[str, Any], list[str]]:
    import torch

    from tameopt.analysis import Context
    from tameopt.audit.targets import resolve
    from tameopt.nonsmooth.findings import ANALYSES

    found = resolve(target, seed)
    if found.problem is None:
        raise ValueError(f"{target} does not say which problem it was recorded with: its kinks need its network.")
    problem = found.problem.to(torch.float64)
    theta = problem.theta
    steps: list[int] = found.run.vector_steps("theta").tolist() if found.run is not None else []
    if found.run is not None and steps:
        theta = found.run.vector(int(steps[-1])).to(torch.float64)
    context = Context(problem, found.run, theta, seed, notify=show)
    document: dict[str, Any] = {"target": target, "findings": [], "facts": {}}
    lines = [f"{problem.name}, d = {problem.dim:,}, n = {problem.n:,}"]
    for analysis in ANALYSES:
        reason = analysis.skip(context)
        if reason:
            lines.append(f"  skipped {analysis.name}: {reason}")
            continue
        show(analysis.question)
        answer = analysis.analyse(context)
        document["facts"] |= answer.facts
        for finding in answer.findings:
            document["findings"].append(
                {"claim": finding.claim, "verdict": str(finding.verdict), "statement": finding.statement}
            )
            lines.append(f"  {finding.verdict!s:8}  {finding.statement}")
    return document, lines


ENTRY = Command("clarke", Panel.TOOLS, clarke)
