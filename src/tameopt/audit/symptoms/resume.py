"""Resume discontinuity: the loss jumps where a run was taken up from a checkpoint."""

from __future__ import annotations

import math

import numpy as np

from tameopt.audit.symptoms.history import History
from tameopt.evidence import Finding, Scope, measured, refuted

CLAIM = "run.resume_jump"
_WINDOW = 30
_DEVIATIONS = 6.0
_TIMES = 1.2


def find(history: History) -> Finding:
    """run.resume_jump, at every event "resumed" of the record."""
    steps = [int(event["step"]) for event in history.run.events("resumed")]
    if not steps:
        return refuted(
            CLAIM,
            "The run was never resumed.",
            {"resumed": 0},
            method="the record's events",
            scope=Scope.RUN,
        )
    jumps = [(step, *_jump(history, step)) for step in steps]
    step, deviations, times = max(jumps, key=lambda one: one[1] if math.isfinite(one[1]) else -1.0)
    how = f"{_WINDOW} losses before and the worst 5-step mean after each of {len(steps)} resumptions"
    if not (deviations > _DEVIATIONS and times > _TIMES):
        return refuted(
            CLAIM,
            f"The loss goes on smoothly where the run was resumed (at most {deviations:.2g} standard deviations).",
            {"deviations": deviations, "ratio": times, "step": step},
            method=how,
            scope=Scope.RUN,
        )
    return measured(
        CLAIM,
        f"Where the run was resumed at step {step:,} the loss jumped {times:.3g}-fold, {deviations:.3g} standard "
        f"deviations. {_cause(history, step)}",
        deviations,
        method=how,
        error_kind="in standard deviations of the losses before",
        scope=Scope.RUN,
        sample_size=2 * _WINDOW,
        witness={"step": step, "ratio": times, "deviations": deviations},
    )


def _jump(history: History, step: int) -> tuple[float, float]:
    """(height in standard deviations, ratio) of the worst level soon after the step against the level before."""
    losses = history.batch
    before = losses.values[(losses.steps >= step - _WINDOW) & (losses.steps < step)]
    after = losses.values[(losses.steps >= step) & (losses.steps < step + _WINDOW)]
    if before.size < 5 or after.size < 5:
        return 0.0, 1.0
    x = np.arange(before.size)
    line = np.polyfit(x, before, 1)
    scale = float((before - np.polyval(line, x)).std(ddof=2))
    level = float(before[-5:].mean())
    worst = float(max(after[i : i + 5].mean() for i in range(after.size - 4)))
    deviation = (worst - level) / max(scale * math.sqrt(2 / 5), 1e-9 * abs(level), 1e-300)
    return deviation, worst / level if level > 0 else math.inf


def _cause(history: History, step: int) -> str:
    rates = history.series("lr")
    before, after = rates.values[rates.steps < step], rates.values[rates.steps >= step]
    if before.size and after.size:
        ratio = after[0] / before[-1] if before[-1] > 0 else math.inf
        if not 0.8 < ratio < 1.25:
            return (
                f"The step size changed there from {before[-1]:.4g} to {after[0]:.4g}: the scheduler was "
                f"not restored."
            )
    name = str((history.meta.get("optimizer") or {}).get("name", "the optimizer"))
    return (
        f"The step size goes on smoothly, so the state of {name} (its moments), the data order or the "
        f"loss scale was lost."
    )
