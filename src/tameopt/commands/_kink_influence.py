"""What `tameopt clarke --influence` prints: the influence of the value chosen at 0, by precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tameopt.commands._common import emit_json, progress, say, terminal
from tameopt.commands._pictures import write_pictures


def influence(target: str, steps: int, repeats: int, seed: int, picture: Path | None, as_json: bool) -> None:
    """Measure and print.

    Raises ValueError where the target is no network with samples, relu or max-pooling.
    """
    from tameopt.audit.targets import resolve
    from tameopt.nonsmooth import kink_influence

    found = resolve(target, seed)
    if found.problem is None:
        raise ValueError(f"{target} does not say which problem it was recorded with: its kinks need its network.")
    with progress(as_json) as show:
        measured = kink_influence(found.problem, steps=steps, repeats=repeats, seed=seed, notify=show)
    if picture is not None:
        write_pictures([measured.picture()], picture)
        say(f"written: {picture}", as_json)
    if as_json:
        emit_json({"target": target, "influence": measured})
    else:
        _print(found.problem, measured)


def _print(problem: Any, measured: Any) -> None:
    from rich.table import Table

    console = terminal()
    console.print(
        f"{problem.name}, d = {problem.dim:,}: {measured.steps} mini-batches of {measured.batch_size}, "
        f"{measured.repeats} trainings a choice, lr {measured.lr:g}, seed {measured.seed}",
        style="bold",
    )
    for name in measured.active:
        (active, entries), (ties, windows) = measured.active[name], measured.ties[name]
        pools = f"; {ties:.1f} of {windows:,} windows tied" if windows else ""
        console.print(f"  {name}: a mini-batch has {active:.2f} of {entries:,} ReLU inputs exactly at 0{pools}")
    table = Table(box=None, header_style="bold")
    for title in ("Precision", "Choice", "Differ", "Beyond rounding", "Typically", "At most", "Drift", "Accuracy"):
        table.add_column(title, justify="left" if title in ("Precision", "Choice") else "right")
    for row in measured.rows:
        mean, spread = row.accuracy
        seen = f"{100 * mean:.1f}%" + (f" ± {100 * spread:.1f}" if math.isfinite(spread) else "")
        compared = (
            (f"{row.differing}/{row.batches}", str(row.beyond_rounding), f"{row.typical:.1e}", f"{row.largest:.1e}")
            if row.batches
            else ("", "", "", "")
        )
        drift = sum(row.drifts) / len(row.drifts)
        table.add_row(row.dtype, row.choice, *compared, f"{drift:.1e}", "" if math.isnan(mean) else seen)
    console.print(table)
    console.print(
        "Differ: mini-batches whose gradient is another than PyTorch's choice gives, at the same theta; typically "
        "and at most: by how much of its norm. Drift: how far training with the choice ends from training as "
        "PyTorch, over the way trained. A drift or accuracy like the control's is rounding, not the choice."
    )
