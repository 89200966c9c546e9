"""Progress on stderr: a live bar on a terminal, one plain line an interval elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """What a long computation reports to.

    Calls are cheap and may come at every step of a training: the bar redraws ten times a second, a plain line
    is written at most once an interval.
    """

    _show: Callable[[str, float | None, float | None], None] = field(default=lambda text, done, total: None)

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Say what is going on; `done` of `total` moves the bar.

        Usable as `Context.notify`.
        """
        self._show(text, done, total)


class _PlainLines:
    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self.clock = clock
        self.begun = clock()
        self.last = -float("inf")

    def show(self, text: str, done: float | None, total: float | None) -> None:
        now = self.clock()
        if now - self.last < self.interval:
            return
        self.last = now
        share = f" {100 * done / total:.0f}%" if done is not None and total else ""
        sys.stderr.write(f"[{now - self.begun:5.0f} s]{share} {text}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    console = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
    description = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), description, BarColumn(24), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(text: str, done: float | None, total: float | None) -> None:
            settings: dict[str, Any] = {"description": Text(text).plain, "total": total}
            if done is not None:
                settings["completed"] = done
            bar.update(task, **settings)

        yield Progress(show)


@contextlib.contextmanager
def progress(quiet: bool = False, interval: float | None = None) -> Iterator[Progress]:
    """Progress for the time of a `with`.

    interval: seconds between plain lines; by default TAMEOPT_PROGRESS_SECONDS or 5 (our choice: a CI log of an
    hour keeps under a thousand lines).
    """
    if quiet:
        yield Progress()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as shown:
            yield shown
    else:
        seconds = float(os.environ.get("TAMEOPT_PROGRESS_SECONDS", "5")) if interval is None else interval
        yield Progress(_PlainLines(seconds).show)
