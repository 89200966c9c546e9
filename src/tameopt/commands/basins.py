"""`tameopt basins`: which start goes where under gradient descent, for problems of two parameters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Quiet, Seed, Target, emit_json, progress, say, terminal
from tameopt.commands._pictures import PictureFile, write_pictures


def basins(
    target: Target = "saddle",
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Step; half of 1/L on the grid by default.", show_default=False)
    ] = None,
    extent: Annotated[float, typer.Option("--extent", help="Starts with both coordinates within this.")] = 2.0,
    points: Annotated[int, typer.Option("--points", help="Starts an axis.")] = 200,
    num_steps: Annotated[int, typer.Option("--steps", help="Steps to wait for each start.")] = 20_000,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Basins of attraction of gradient descent on a problem with two parameters."""
    import torch

    from tameopt import curvature, dynamics
    from tameopt.commands._points import point_of
    from tameopt.dynamics.iterate import steepest

    problem, _, _ = point_of(target, None, seed)
    if problem.dim != 2:
        raise ValueError(f"basins are drawn for two parameters, {problem.name} has {problem.dim:,}.")
    if points < 2 or not extent > 0:
        raise ValueError(f"--points must be at least 2 and --extent > 0, got {points} and {extent}.")
    axis = torch.linspace(-extent, extent, points, dtype=torch.float64)
    with progress(quiet) as show:
        if alpha is None:
            coarse = torch.linspace(-extent, extent, 9, dtype=torch.float64)
            L = steepest(problem, torch.cartesian_prod(coarse, coarse))
            if not 0 < L < float("inf"):  # NaN included
                raise ValueError(f"L must be positive and finite on the grid, got {L}: give the step by --alpha.")
            alpha = 0.5 / L
        found = dynamics.basins(
            dynamics.GradientMap(problem, alpha),
            (axis, axis),
            num_steps=num_steps,
            generator=torch.Generator().manual_seed(seed),
            notify=show,
        )
    document: dict[str, Any] = {
        "problem": problem.name,
        "alpha": alpha,
        "extent": extent,
        "points": points,
        "attractors": [
            {"theta": one.point.tolist(), "share": share, "radius": one.radius, "rate": one.rate}
            for one, share in zip(found.attractors, found.fractions, strict=True)
        ],
        "none": found.share(-1),
        "left": found.share(-2),
        "elsewhere": found.share(-3),
        "still_moving": found.share(-4),
        "boundary_share": found.boundary_share,
    }
    if picture is not None:
        map_ = dynamics.GradientMap(problem, alpha)
        starts = torch.cartesian_prod(*([torch.linspace(-extent, extent, 7, dtype=torch.float64)] * 2))
        critical = curvature.find_critical_points(problem, starts)
        saddles = [one.theta for one in critical if one.index == 1 and float(one.theta.abs().max()) <= extent]
        write_pictures([dynamics.portrait(found, map_, saddles, f"Basins of {problem.name}")], picture)
        say(f"written: {picture}", quiet)
    if as_json:
        emit_json(document)
    else:
        _print(document)
    return None


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    console = terminal()
    console.print(f"{document['problem']}, gradient descent with step {document['alpha']:.4g}", style="bold")
    table = Table(box=None, header_style="bold")
    for title in ("Goes to", "Share", "Factor a step"):
        table.add_column(title, justify="left" if title == "Goes to" else "right")
    for row in document["attractors"]:
        place = ", ".join(f"{number:.4g}" for number in row["theta"])
        table.add_row(f"({place})", f"{row['share']:.4f}", f"{row['rate']:.4f}")
    for name, words in (
        ("none", "none in time"),
        ("left", "infinity, or out of where F is a number"),
        ("elsewhere", "no isolated minimum"),
        ("still_moving", "still moving, ever slower: none"),
    ):
        if document[name] > 0:
            table.add_row(words, f"{document[name]:.4f}", "")
    console.print(table)
    console.print(f"{100 * document['boundary_share']:.1f}% of the starts lie next to another basin.")


ENTRY = Command("basins", Panel.TOOLS, basins)
