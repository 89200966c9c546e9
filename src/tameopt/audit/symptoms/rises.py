"""Rising late: the loss had fallen, then rose and stayed up."""

from __future__ import annotations

import numpy as np

from tameopt.audit.symptoms.history import History, spread
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

CLAIM = "run.rises"
_TIMES = 3.0  # at the end F is at least this many times its least value (above its fluctuation)
_SHARE = 0.02  # and has given back at least this share of what it had won


def find(history: History) -> Finding:
    """run.rises, from F on the grid."""
    series = history.level
    if series.size < 20:
        return unknown(
            CLAIM,
            "Whether F rises again cannot be told.",
            missing=f"at least 20 recorded values of F, {series.size} are there",
            remedy="record full_loss on a finer grid",
        )
    values = series.values
    tail = values[-max(5, values.size // 10) :]
    # the lowest level it held for a while, not a lucky dip
    width = max(3, values.size // 20)
    held = np.convolve(values, np.ones(width) / width, mode="valid")
    bottom = int(np.argmin(held))
    least, step = float(held[bottom]), int(series.steps[bottom + width // 2])
    end, low_end = float(np.median(tail)), float(np.quantile(tail, 0.1))
    won = float(values[0]) - least
    noise = spread(np.diff(values[: bottom + width])) + spread(tail - end)
    rose = (
        won > 0
        and low_end - least > _SHARE * won
        and low_end - least > 3 * noise
        and low_end > _TIMES * max(least, 0.0)
        and bottom + width < 0.9 * values.size
    )
    how = f"least {width}-point mean against the last tenth, {values.size} recorded values of F"
    if not rose:
        return refuted(
            CLAIM,
            f"F does not rise in the end: {end:.4g} over the last tenth, least level {least:.4g}.",
            {"end": end, "least": least, "step_of_least": step},
            method=how,
            scope=Scope.RUN,
        )
    return measured(
        CLAIM,
        f"F fell to {least:.4g} by step {step:,} and has since risen to {end:.4g}.",
        end / least if least > 0 else float("inf"),
        method=how,
        error_kind="ratio of recorded values",
        scope=Scope.RUN,
        sample_size=int(values.size),
        witness={"end": end, "least": least, "step_of_least": step, "start": float(values[0])},
    )
