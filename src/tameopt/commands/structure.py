"""`tameopt structure`: what kind of function a loss is, with the proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Seed, Target, emit_json, terminal

if TYPE_CHECKING:
    from tameopt.problem import Problem


def structure(
    target: Target = "digits-mlp",
    operations: Annotated[
        bool, typer.Option("--operations", help="Every operation with its line, its row and what is known after it.")
    ] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="The derivation: modules, their operators, what follows.")
    ] = False,
    pieces: Annotated[
        Path | None, typer.Option("--pieces", help="Draw the pieces of a tiny ReLU loss on a plane; .svg or .png.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Certify the loss: tame or not, smooth or not, what autodiff computes; with a proof that replays."""
    from tameopt.audit.targets import resolve
    from tameopt.structure import certify
    from tameopt.structure.derivation import derivation, lines

    problem = resolve(target, seed).problem
    if problem is None:
        raise ValueError(f"{target} does not say which problem it was: name the problem, or FILE.py:factory.")
    found = certify(problem, seed=seed)
    if pieces is not None:
        _draw_pieces(problem, pieces, seed)
    if as_json:
        document = found.to_json()
        document["operations"] = [vars(operation) for operation in found.operations] if operations else []
        emit_json(document)
        return
    console = terminal()
    console.print(found.summary)
    rows = [
        ("class", f"{found.definable}" + (f", degree {found.degree}" if found.degree is not None else "")),
        (
            "smoothness",
            found.smoothness + ("" if found.total or found.definable == "unknown" else ", where it is defined"),
        ),
        ("autodiff", found.autodiff),
        ("bounded below", "not shown" if found.lower_bound is None else f"by {found.lower_bound:.6g}"),
        ("convex", found.shape if found.shape in ("convex", "affine") else "not shown"),
        ("verdict", str(found.verdict)),
    ]
    for name, text in rows:
        console.print(f"  {name:<14}{text}")
    for way in found.ways:
        console.print(f"  way: {way}", soft_wrap=True, markup=False, highlight=False)
    for item in found.obstructions:
        console.print(f"  missing: {item}")
    gaps = [
        f"  kink or gap: {operation.operator} at {operation.line or 'module ' + (operation.module or '?')} "
        f"({operation.smoothness}, {operation.autodiff})"
        for operation in found.kinks
    ]
    for gap in dict.fromkeys(gaps):
        console.print(gap)
    for note in found.notes:
        console.print(f"  note: {note}")
    if operations:
        for operation in found.operations:
            where = operation.line or f"module {operation.module or '?'}"
            console.print(f"  {operation.operator:<24}{operation.result:<60}{where}")
    if tree:
        for line in lines(derivation(found)):
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)


def _draw_pieces(problem: Problem, path: Path, seed: int) -> None:
    from tameopt.report.plots import draw
    from tameopt.structure.plane_pieces import plane_pieces

    figure: Any = draw(plane_pieces(problem, seed=seed).picture()).figure
    figure.savefig(path)


ENTRY = Command("structure", Panel.TOOLS, structure)
