"""`tameopt problems`: the ready problems."""

from __future__ import annotations

from typing import Any

from tameopt.commands._common import Command, Json, Panel, emit_json, terminal


def problems(as_json: Json = False) -> None:
    """List the ready problems that `tameopt audit` takes by name."""
    from rich.table import Table

    from tameopt import problems as catalogue

    rows: list[dict[str, Any]] = []
    for name in catalogue.names():
        entry = catalogue.entry(name)
        problem = entry.load()
        samples = None if problem.is_function else problem.n
        rows.append(
            {
                "name": name,
                "title": entry.title,
                "parameters": problem.dim,
                "samples": samples,
                "training": dict(entry.training),
                "source": entry.source,
            }
        )
    if as_json:
        emit_json({"problems": rows})
        return
    table = Table(box=None, header_style="bold")
    table.add_column("Name")
    table.add_column("Parameters", justify="right")
    table.add_column("Samples", justify="right")
    table.add_column("What it is")
    for row in rows:
        count = "—" if row["samples"] is None else f"{row['samples']:,}"
        table.add_row(row["name"], f"{row['parameters']:,}", count, row["title"])
    terminal().print(table)


ENTRY = Command("problems", Panel.REFERENCE, problems)
