"""`tameopt compare`: several recorded runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, printable, terminal

if TYPE_CHECKING:
    from tameopt.report.compare import Comparison

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of recorded runs, at least two.")]
Html = Annotated[
    Path | None,
    typer.Option("--html", help="Write the comparison as one HTML file.", show_default=False, metavar="FILE"),
]


def compare(runs: Runs, html: Html = None, as_json: Json = False) -> int | None:
    """Say which of several runs ends lower, whether that is more than fluctuation, and what was set differently.

    Audited runs bring their verdicts and answers; others only their records.
    """
    from tameopt.audit.diagnosis import Diagnosis
    from tameopt.report import compare as side_by_side
    from tameopt.run import Run

    names = _names(runs)
    contestants = []
    for path, name in zip(runs, names, strict=True):
        diagnosis = Diagnosis.load(path) if (path / "diagnosis.json").exists() else None
        with Run.open(path) as run:
            contestants.append(side_by_side.contestant(run, name, diagnosis))
    found = side_by_side.compare(contestants)
    if html is not None:
        from tameopt.report.html import comparison_html, write_page

        write_page(comparison_html(found), html)
    if as_json:
        emit_json(found)
    else:
        _print(found)
    return None


def _names(paths: list[Path]) -> list[str]:
    """Folder names where they differ, whole paths where they do not."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _print(found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    console.print(Text(printable(found.sentence), "bold"))
    if len(found.pairs) > 1:
        for pair in found.pairs:
            console.print(Text(printable(pair)))
    for title, rows in (("Set differently", found.differing), ("Side by side", found.rows)):
        if not rows:
            continue
        console.print()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column(title, ratio=2)
        for name in found.names:
            table.add_column(printable(name), ratio=3)
        for key, values in rows:
            table.add_row(Text(printable(key)), *(Text(printable(value)) for value in values))
        console.print(table)


ENTRY = Command("compare", Panel.RUNS, compare)
