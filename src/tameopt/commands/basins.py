"""`tameopt basins`: which start goes where under gradient descent, on a grid or by a random sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Quiet, Seed, Target, emit_json, progress, say, terminal
from tameopt.commands._pictures import PictureFile, write_pictures

if TYPE_CHECKING:
    import torch

    from tameopt.dynamics.basin_labels import Basins
    from tameopt.problem import Problem

_MOST_PARAMETERS = 100  # our choice: a ball of contraction takes the whole Jacobian at some hundred points


def basins(
    target: Target = "saddle",
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Step; half of 1/L on the box by default.", show_default=False)
    ] = None,
    extent: Annotated[float, typer.Option("--extent", help="Starts with all coordinates within this.")] = 2.0,
    points: Annotated[
        int, typer.Option("--points", help="Starts an axis; random starts where there are not two parameters.")
    ] = 200,
    num_steps: Annotated[int, typer.Option("--steps", help="Steps to wait for each start.")] = 20_000,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Basins of attraction of gradient descent: a grid of starts for two parameters, a random sample for others."""
    import torch

    from tameopt import dynamics
    from tameopt.commands._points import as_predicted, point_of

    if points < 2 or not 0 < extent < math.inf or num_steps < 1:
        raise ValueError(
            "--points must be at least 2, --extent > 0 and finite and --steps at least 1, got "
            f"{points}, {extent} and {num_steps}."
        )
    problem, _, _ = point_of(target, None, seed)
    if problem.dim > _MOST_PARAMETERS:
        raise ValueError(
            f"basins are found for up to {_MOST_PARAMETERS} parameters, {problem.name} has {problem.dim:,}, and "
            "minima of networks are rarely isolated: `tameopt critical` says what kind of point a run came to."
        )
    if picture is not None and problem.dim != 2:
        raise ValueError(f"a picture of basins needs two parameters, {problem.name} has {problem.dim:,}.")
    generator = torch.Generator().manual_seed(seed)
    starts = _starts(problem.dim, extent, points, generator)
    with progress(quiet) as show:
        step = _step(problem, extent, generator) if alpha is None else alpha
        found = dynamics.basins(
            dynamics.GradientMap(problem, step), starts, num_steps=num_steps, generator=generator, notify=show
        )
    if picture is not None:
        write_pictures([_portrait(problem, found, step, extent)], picture)
        say(f"written: {picture}", quiet)
    document = _document(problem, found, step, extent, points)
    if as_json:
        emit_json(document)
    else:
        _print(document, found, as_predicted(problem))
    return None


def _starts(
    dim: int, extent: float, points: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
    import torch

    if dim == 2:
        axis = torch.linspace(-extent, extent, points, dtype=torch.float64)
        return axis, axis
    return extent * (2 * torch.rand(points, dim, generator=generator, dtype=torch.float64) - 1)


def _step(problem: Problem, extent: float, generator: torch.Generator) -> float:
    """Half of 1/L as seen on the box."""
    import torch

    from tameopt.dynamics.iterate import steepest

    sides = _starts(problem.dim, extent, 9 if problem.dim == 2 else 50, generator)
    L = steepest(problem, sides if isinstance(sides, torch.Tensor) else torch.cartesian_prod(*sides))
    if L == 0:
        raise ValueError("F has no curvature at the starts, so that no step is too long: give the step by --alpha.")
    if not math.isfinite(L):
        raise ValueError(
            f"F must have a finite gradient and Hessian at some start within {extent:g}, it has none (L is {L}): "
            "give the step by --alpha, or another --extent."
        )
    return 0.5 / L


def _portrait(problem: Problem, found: Basins, alpha: float, extent: float) -> Any:
    import torch

    from tameopt import curvature, dynamics

    starts = torch.cartesian_prod(*([torch.linspace(-extent, extent, 7, dtype=torch.float64)] * 2))
    critical = curvature.find_critical_points(problem, starts)
    saddles = [one.theta for one in critical if one.index == 1 and float(one.theta.abs().max()) <= extent]
    return dynamics.portrait(
        found, dynamics.GradientMap(problem, alpha), saddles, f"Basins of {problem.name}, step {alpha:.3g}"
    )


def _document(problem: Problem, found: Basins, alpha: float, extent: float, points: int) -> dict[str, Any]:
    sample = not found.axes
    return {
        "problem": problem.name,
        "alpha": alpha,
        "extent": extent,
        "points": points,
        "starts": found.labels.numel(),
        "attractors": [
            {"theta": one.point.tolist(), "share": share, "radius": one.radius, "rate": one.rate}
            | ({"interval": found.interval(number)} if sample else {})
            for number, (one, share) in enumerate(zip(found.attractors, found.fractions, strict=True))
        ],
        "none": found.share(-1),
        "left": found.share(-2),
        "elsewhere": found.share(-3),
        "still_moving": found.share(-4),
        "boundary_share": None if sample else found.boundary_share,
    }


_ENDS = {
    "none": "none in time",
    "left": "infinity, or out of where F is a number",
    "elsewhere": "stands still elsewhere",
    "still_moving": "still moving, ever slower",
}

_MEANINGS = {
    "none": "None in time: followed to no attractor in the steps given (--steps), or going round for ever: a step "
    "(--alpha) of 2/L or more jumps to and fro.",
    "elsewhere": "Stands still elsewhere: its steps fell below 1e-10 at no isolated minimum that draws in: at a "
    "saddle, in a family of minima, or on a plateau; with a tiny step (--alpha) that happens anywhere.",
    "still_moving": "Still moving: its steps become ever shorter, and too slowly to come to rest in time, as towards "
    "the minimum of x^4.",
}


def _print(document: dict[str, Any], found: Basins, remark: str) -> None:
    from rich.table import Table

    console = terminal()
    kind = "starts on a grid" if found.axes else "random starts"
    where = f"{document['starts']:,} {kind} within {document['extent']:g}"
    console.print(f"{document['problem']}, gradient descent with step {document['alpha']:.4g}, {where}", style="bold")
    if remark:
        console.print(remark)
    table = Table(box=None, header_style="bold")
    for title in ("Goes to", "Share", *(() if found.axes else ("95% interval",)), "Factor a step"):
        table.add_column(title, justify="left" if title == "Goes to" else "right")
    for number, row in enumerate(document["attractors"]):
        # what Newton's method leaves of a zero coordinate is no digit of it
        size = max(1.0, *(abs(number) for number in row["theta"]))
        numbers = [0.0 if abs(one) <= 1e-12 * size else one for one in row["theta"]]
        place = ", ".join(f"{one:.4g}" for one in numbers[:6]) + (", …" if len(numbers) > 6 else "")
        middle = () if found.axes else ("{:.3f} to {:.3f}".format(*found.interval(number)),)
        table.add_row(f"({place})", f"{row['share']:.4f}", *middle, f"{row['rate']:.4f}")
    for label, (name, words) in zip((-1, -2, -3, -4), _ENDS.items(), strict=True):
        if document[name] > 0:
            middle = () if found.axes else ("{:.3f} to {:.3f}".format(*found.interval(label)),)
            table.add_row(words, f"{document[name]:.4f}", *middle, "")
    console.print(table)
    if found.axes:
        console.print(f"{100 * document['boundary_share']:.1f}% of the starts lie next to one that goes elsewhere.")
    for name, words in _MEANINGS.items():
        if document[name] > 0:
            console.print(words)


ENTRY = Command("basins", Panel.TOOLS, basins)
