"""`tameopt prox`: proximal maps of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Seed, emit_json, progress, terminal
from tameopt.commands._pictures import PictureFile, write_pictures


def prox(
    name: Annotated[str | None, typer.Argument(help="An entry; without it the catalogue is listed.")] = None,
    v: Annotated[str | None, typer.Argument(metavar="V1,V2,…", help="The point; rows by ';' for a matrix.")] = None,
    t: Annotated[float, typer.Option("--t", help="The step t > 0.")] = 1.0,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as in lam=0.5.", metavar="NAME=NUMBER")
    ] = None,
    path: Annotated[
        str | None,
        typer.Option("--path", help="Train this problem with growing strengths of it.", metavar="TARGET"),
    ] = None,
    strengths: Annotated[
        str, typer.Option("--strengths", help="With --path: the strengths, growing.", metavar="L1,L2,…")
    ] = "1e-4,3e-4,1e-3,3e-3,1e-2,3e-2",
    steps: Annotated[int, typer.Option("--steps", help="With --path: mini-batches a strength.")] = 300,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> int | None:
    """argmin_x f(x) + norm(x - v)^2 / (2 t) for a function f of the catalogue; or a network trained with f."""
    if path is not None:
        if name is None:
            raise ValueError("--path needs the name of a regulariser, as in: tameopt prox l1 --path digits-mlp.")
        levels = [_number(part) for part in strengths.split(",")]
        document, lines = _path(name, path, levels, steps, _given(options), seed, picture, as_json)
    elif name is None:
        document, lines = _listed()
    else:
        document, lines = _computed(name, v, t, _given(options), picture)
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


def _listed() -> tuple[dict[str, Any], list[str]]:
    from tameopt.nonsmooth import prox as catalogue

    entries = [catalogue.entry(name) for name in catalogue.names()]
    document = {
        "entries": [
            {
                "name": e.name,
                "formula": e.formula,
                "kind": e.kind,
                "acts_on": e.acts_on,
                "parameters": dict(e.parameters),
            }
            for e in entries
        ]
    }
    return document, [f"{e.name:14} {e.kind:14} {e.acts_on:9} {e.formula}" for e in entries]


def _path(
    name: str,
    target: str,
    strengths: list[float],
    steps: int,
    given: dict[str, Any],
    seed: int,
    picture: Path | None,
    quiet: bool,
) -> tuple[dict[str, Any], list[str]]:
    from tameopt.audit.targets import resolve
    from tameopt.nonsmooth.sparsity_path import sparsity_path

    problem = resolve(target, seed).problem
    if problem is None:
        raise ValueError(f"{target} does not say which problem it was recorded with: its network is needed.")
    with progress(quiet) as show:
        found = sparsity_path(problem, name, strengths, options=given, steps=steps, seed=seed, notify=show)
    lines = [f"{problem.name} with lambda times {name} on {', '.join(found.parameters)}"]
    lines.append(
        f"{'lambda':>9} {'not 0':>8} {'rows':>8} {'rank':>8} {'loss':>10} {'accuracy':>9}   last full passes"
    )
    for point in found.points:
        held = "yes" if point.report.step_hypothesis_holds else f"{point.report.violations} times not"
        lines.append(
            f"{point.strength:9.2g} {point.nonzero:8.1%} {point.rows:8.1%} {point.rank:8.1%} {point.loss:10.4g} "
            f"{point.accuracy:9.1%}   length {point.report.length:.3g}, descent inequality: {held}"
        )
    if picture is not None:
        write_pictures([found.picture()], picture)
        lines.append(f"written: {picture}")
    return {"problem": problem.name, "path": found}, lines


def _given(options: list[str] | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options or []:
        key, equals, number = option.partition("=")
        if not equals:
            raise ValueError(f"--set must be NAME=NUMBER, got {option!r}.")
        given[key] = int(number) if number.strip().lstrip("-").isdigit() else _number(number)
    return given


def _computed(
    name: str, text: str | None, t: float, given: dict[str, Any], picture: Path | None
) -> tuple[dict[str, Any], list[str]]:
    import torch

    from tameopt.nonsmooth import prox as catalogue

    found = catalogue.entry(name)
    if picture is not None:
        write_pictures([found.picture(t, **given)], picture)
    if text is None:
        words = ", ".join(f"{key}={value}" for key, value in found.parameters.items()) or "none"
        return {"name": name, "formula": found.formula, "parameters": dict(found.parameters)}, [
            f"{found!r}", f"  parameters: {words}", f"  source: {found.source or 'elementary'}"
        ]  # fmt: skip
    rows = [[_number(part) for part in row.split(",")] for row in text.split(";")]
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"the rows of v must have equal lengths, got {[len(row) for row in rows]}.")
    point = torch.tensor(rows if len(rows) > 1 else rows[0], dtype=torch.float64)
    x = found(point, t, **given)
    value = found.evaluate(x, **given)
    several = _several(found, point, t, given)
    document = {"name": name, "v": point.tolist(), "t": t, "x": x.tolist(), "f": float(value), "several": several}
    lines = [f"{x.tolist()}", f"  f = {float(value):.6g}"]
    for what, minimisers in several.items():
        lines.append(f"  not unique: {what} has the minimisers {' and '.join(map(str, minimisers))}")
    return document, lines


def _several(found: Any, point: Any, t: float, given: dict[str, Any]) -> dict[str, list[Any]]:
    """All minimisers of each number of v, or of v, that has more than one."""
    parts = (
        {f"{float(number):g}": number for number in point.reshape(-1)} if found.acts_on == "entries" else {"v": point}
    )
    if found.minimisers is None or (found.acts_on == "vectors" and point.ndim > 1):
        return {}
    listed = {what: found.all_minimisers(part, t, **given) for what, part in parts.items()}
    return {what: [x.tolist() for x in all_of] for what, all_of in listed.items() if len(all_of) > 1}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"numbers separated by commas are needed, got {text.strip()!r}.") from error


ENTRY = Command("prox", Panel.TOOLS, prox)
