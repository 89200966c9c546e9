"""`tameopt theorems`: what the theorems ask for, what they conclude, and how to cite them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, terminal

if TYPE_CHECKING:
    from tameopt.theorems import Theorem


def theorems(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One theorem in full; all of them without.")] = "",
    as_json: Json = False,
) -> None:
    """List the theorems that an audit judges, or print one with its hypotheses and BibTeX."""
    from tameopt import theorems as catalogue

    chosen = [catalogue.entry(name)] if name else [catalogue.entry(one) for one in catalogue.names()]
    if as_json:
        emit_json({"theorems": [_plain(one) for one in chosen]})
    elif name:
        _print_one(chosen[0])
    else:
        _print_list(chosen)


def _plain(theorem: Theorem) -> dict[str, Any]:
    return {
        "name": theorem.name,
        "title": theorem.title,
        "chapter": theorem.chapter,
        "source": theorem.source,
        "hypotheses": [
            {
                "claim": one.claim,
                "statement": one.statement,
                "scope": one.scope.value,
                "local_suffices": one.local_suffices,
                "implied_by": [{"claims": list(way.claims), "reason": way.reason} for way in one.implied_by],
            }
            for one in theorem.hypotheses
        ],
        "conclusion": theorem.conclusion,
        "remark": theorem.remark,
        "bibtex": theorem.bibtex,
    }


def _print_list(chosen: list[Theorem]) -> None:
    from rich.table import Table

    console = terminal()
    chapters: dict[str, list[Theorem]] = {}
    for theorem in chosen:
        chapters.setdefault(theorem.chapter, []).append(theorem)
    for chapter in sorted(chapters):
        console.print(chapter, style="bold")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        for theorem in chapters[chapter]:
            table.add_row(theorem.name, theorem.title)
        console.print(table)
    console.print("\ntameopt theorems NAME prints one in full.")


def _print_one(theorem: Theorem) -> None:
    console = terminal()
    console.print(theorem.title, style="bold")
    console.print(theorem.source)
    console.print("\nHypotheses", style="bold")
    for one in theorem.hypotheses:
        console.print(f"  - {one.statement}   ({one.claim}, {one.scope.value})")
        for way in one.implied_by:
            console.print(f"      or {' and '.join(way.claims)}: {way.reason}")
        if one.local_suffices:
            console.print(f"      locally enough: {one.local_suffices}")
    console.print("\nConclusion", style="bold")
    console.print(f"  {theorem.conclusion}")
    if theorem.remark:
        console.print(f"\n{theorem.remark}")
    console.print("\nTo cite it", style="bold")
    console.print(theorem.bibtex, soft_wrap=True)


ENTRY = Command("theorems", Panel.REFERENCE, theorems)
