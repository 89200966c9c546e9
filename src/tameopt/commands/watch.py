"""`tameopt watch`: follow a run from another terminal while it is being recorded."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, terminal

if TYPE_CHECKING:
    from tameopt.run import Run

Where = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that a run is being recorded in.")]
Interval = Annotated[
    float, typer.Option("--interval", help="Seconds between looks (on a terminal); 10 times that elsewhere.")
]
Once = Annotated[bool, typer.Option("--once", help="Look once and stop.")]


def watch(run: Where, interval: Interval = 1.0, once: Once = False, as_json: Json = False) -> int | None:
    """Follow a run while it trains: step, speed, loss, gradient, events. Ends when the run does.

    It only reads; the training does not notice. With --json, one document of how the run stands now.
    """
    from tameopt.report import live
    from tameopt.run import Run

    if not interval > 0:
        raise ValueError(f"--interval must be > 0 seconds, got {interval}.")
    with Run.open(run) as record:
        if once or as_json:
            shot = live.snapshot(record)
            if as_json:
                emit_json(shot)
            else:
                terminal().print(live.panel(shot))
            return None
        if sys.stdout.isatty():
            _follow_on_terminal(record, interval)
        else:
            _follow_in_lines(record, 10 * interval)
    return None


def _follow_on_terminal(record: Run, interval: float) -> None:
    from rich.live import Live

    from tameopt.report import live

    shot = live.snapshot(record)
    with Live(live.panel(shot), console=terminal(), refresh_per_second=4) as view:
        while not shot.over:
            time.sleep(interval)
            shot = live.snapshot(record, shot)
            view.update(live.panel(shot))


def _follow_in_lines(record: Run, interval: float) -> None:
    from tameopt.report import live

    shot = live.snapshot(record)
    typer.echo(live.line(shot))
    while not shot.over:
        time.sleep(interval)
        shot = live.snapshot(record, shot)
        typer.echo(live.line(shot))


ENTRY = Command("watch", Panel.RUNS, watch)
