"""A run as it stands while it is being recorded: one snapshot, and how it looks."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tameopt.report.numbers import pretty, seconds
from tameopt.report.text import literal
from tameopt.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

_RECENT = 600  # our choice: recorded steps of the curve; a poll stays cheap however long the run is
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Snapshot:
    """What is known of a run now.

    state: "running", "finished", "interrupted", "diverged", or "stopped" (it says running, but its writer is gone).
    latest: name -> (step, number) of each recorded scalar. recent: the last losses, oldest first.
    steps_per_second: since the previous snapshot, NaN without one; events: the last few.
    """

    path: str
    state: str
    step: int
    planned: int
    latest: dict[str, tuple[int, float]]
    recent: tuple[float, ...]
    steps_per_second: float
    events: tuple[dict[str, Any], ...]
    taken: float

    @property
    def seconds_left(self) -> float:
        """Until the planned end at the present speed; NaN when it cannot be told."""
        if self.planned <= 0 or not self.steps_per_second > 0:
            return math.nan
        return max(0.0, (self.planned - self.step) / self.steps_per_second)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.state != "running"


def snapshot(run: Run, before: Snapshot | None = None) -> Snapshot:
    """Read a run as it stands; `before` is the previous snapshot, for the speed."""
    now = time.time()
    meta = run.meta
    step = run.last_step
    latest = {}
    for name in run.names:
        since = max(0, step - _RECENT)
        steps, numbers = run.series(name, since=since)
        if len(steps) == 0:
            steps, numbers = run.series(name)
        if len(steps):
            latest[name] = (int(steps[-1]), float(numbers[-1]))
    _, losses = run.series("loss", since=max(0, step - _RECENT))
    speed = math.nan
    if before is not None and now > before.taken:
        speed = (step - before.step) / (now - before.taken)
    state = run.status
    if state == "running" and not _writer_lives(run):
        state = "stopped"
    planned = meta.get("steps_planned")
    return Snapshot(
        str(run.path),
        state,
        step,
        int(planned) if isinstance(planned, (int, float)) else -1,
        latest,
        tuple(float(loss) for loss in losses),
        speed,
        tuple(run.events()[-3:]),
        now,
    )


def _writer_lives(run: Run) -> bool:
    """Whether the process that writes the run still exists, as far as this machine can tell."""
    try:
        owner = int((run.path / "writer.lock").read_text().strip() or "0")
        os.kill(owner, 0)
    except (OSError, ValueError) as error:
        return isinstance(error, PermissionError)  # it exists and is someone else's
    return owner > 0


def sparkline(numbers: Sequence[float], width: int = 60) -> str:
    """The course of some numbers in block letters, oldest first; logarithmic when all are positive.

    >>> sparkline([1, 10, 100, 1000], 4)
    '▁▃▆█'
    """
    finite = [number for number in numbers if math.isfinite(number)]
    if not finite:
        return ""
    if min(finite) > 0:
        finite = [math.log(number) for number in finite]
    count = min(width, len(finite))
    cuts = [round(i * len(finite) / count) for i in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def line(shot: Snapshot) -> str:
    """A snapshot on one line, for logs."""
    of = f" of {shot.planned:,}" if shot.planned > 0 else ""
    parts = [f"{literal(shot.path)}: {shot.state}, step {max(shot.step, 0):,}{of}"]
    parts += [
        f"{name} {pretty(number)}" for name, (_, number) in shot.latest.items() if name in ("loss", "full_loss")
    ]
    if shot.steps_per_second > 0:
        parts.append(f"{pretty(shot.steps_per_second)} steps/s")
    if math.isfinite(shot.seconds_left) and not shot.over:
        parts.append(f"{seconds(shot.seconds_left)} left")
    return ", ".join(parts)


def event_line(event: dict[str, Any]) -> str:
    """An event in words, with what was proved when something was.

    >>> event_line({"kind": "diverged", "step": 1200, "data": {}})
    'diverged at step 1,200'
    """
    data = event["data"]
    proof = f": {data['verdict']}  {data['statement']}" if {"verdict", "statement"} <= set(data) else ""
    return f"{event['kind']} at step {event['step']:,}{proof}"


_WORDS = {
    "loss": "mini-batch loss",
    "full_loss": "F, all samples",
    "gradient_norm": "norm of the mini-batch gradient",
    "gradient_norm_before_clipping": "its norm before clipping",
    "full_gradient_norm": "norm(grad F)",
    "lr": "step size",
}


def panel(shot: Snapshot) -> RenderableType:
    """A snapshot as the live view shows it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    style = {"running": "bold cyan", "finished": "bold green", "diverged": "bold red"}.get(shot.state, "bold yellow")
    head = Text(f"{shot.state.upper()}  ", style).append(literal(shot.path), "bold default")
    table = Table.grid(padding=(0, 2, 0, 0))
    of = f" of {shot.planned:,} ({100 * shot.step / shot.planned:.0f}%)" if shot.planned > 0 else ""
    table.add_row("step", f"{max(shot.step, 0):,}{of}")
    if shot.steps_per_second > 0:
        left = f", {seconds(shot.seconds_left)} left" if math.isfinite(shot.seconds_left) and not shot.over else ""
        table.add_row("speed", f"{pretty(shot.steps_per_second)} steps a second{left}")
    for name, (step, number) in shot.latest.items():
        at = "" if step == shot.step else f"  (step {step:,})"
        table.add_row(Text(literal(_WORDS.get(name, name))), Text(pretty(number, 4)).append(at, "dim"))
    if shot.recent:
        table.add_row("recent loss", sparkline(shot.recent))
    for event in shot.events:
        table.add_row(Text("event"), Text(literal(event_line(event))))
    if shot.state == "stopped":
        table.add_row("", Text("The process that wrote it is gone; what was recorded can be audited.", "yellow"))
    return Group(head, table)
