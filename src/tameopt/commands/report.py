"""`tameopt report`: show a finished audit again, in the form that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, printable, say, terminal

Where = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an audited run, or its diagnosis.json.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write the HTML page to this file.", show_default=False, metavar="FILE")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")]
Full = Annotated[bool, typer.Option("--full", help="Print every theorem with its hypotheses.")]


def report(
    run: Where,
    html: Html = None,
    markdown: Markdown = False,
    full: Full = False,
    as_json: Json = False,
) -> int | None:
    """Show the diagnosis of an audited run again: as text, HTML, Markdown or JSON. Nothing is computed anew."""
    from tameopt.audit.diagnosis import Diagnosis
    from tameopt.report import save_html, show, to_markdown

    diagnosis = Diagnosis.load(run)
    written = ""
    if html is not None:
        written = str(save_html(diagnosis, html))
    elif run.is_dir() and (run / "report.html").exists():
        written = str(run / "report.html")
    if as_json:
        emit_json(diagnosis.to_json())
    elif markdown:
        typer.echo(to_markdown(diagnosis), nl=False)
    elif html is not None:
        say(f"written: {printable(written)}")
    else:
        show(diagnosis, terminal(), written, full)
    return None


ENTRY = Command("report", Panel.RUNS, report)
