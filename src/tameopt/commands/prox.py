"""`tameopt prox`: proximal maps of the catalogue."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, terminal


def prox(
    name: Annotated[str | None, typer.Argument(help="An entry; without it the catalogue is listed.")] = None,
    v: Annotated[str | None, typer.Argument(metavar="V1,V2,…", help="The point; rows by ';' for a matrix.")] = None,
    t: Annotated[float, typer.Option("--t", help="The step t > 0.")] = 1.0,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as in lam=0.5.", metavar="NAME=NUMBER")
    ] = None,
    as_json: Json = False,
) -> int | None:
    """argmin_x f(x) + norm(x - v)^2 / (2 t) for a function f of the catalogue."""
    document, lines = _listed() if name is None else _computed(name, v, t, options or [])
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


def _computed(name: str, text: str | None, t: float, options: list[str]) -> tuple[dict[str, Any], list[str]]:
    import torch

    from tameopt.nonsmooth import prox as catalogue

    found = catalogue.entry(name)
    if text is None:
        words = ", ".join(f"{key}={value}" for key, value in found.parameters.items()) or "none"
        return {"name": name, "formula": found.formula, "parameters": dict(found.parameters)}, [
            f"{found!r}", f"  parameters: {words}", f"  source: {found.source or 'elementary'}"
        ]  # fmt: skip
    rows = [[_number(part) for part in row.split(",")] for row in text.split(";")]
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"the rows of v must have equal lengths, got {[len(row) for row in rows]}.")
    point = torch.tensor(rows if len(rows) > 1 else rows[0], dtype=torch.float64)
    given: dict[str, Any] = {}
    for option in options:
        key, equals, number = option.partition("=")
        if not equals:
            raise ValueError(f"--set must be NAME=NUMBER, got {option!r}.")
        given[key] = int(number) if number.strip().lstrip("-").isdigit() else _number(number)
    x = found(point, t, **given)
    value = found.evaluate(x, **given)
    document = {"name": name, "v": point.tolist(), "t": t, "x": x.tolist(), "f": float(value)}
    return document, [f"{x.tolist()}", f"  f = {float(value):.6g}"]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"v must be numbers separated by commas, got {text.strip()!r}.") from error


ENTRY = Command("prox", Panel.TOOLS, prox)
