"""What the record itself shows, before any analysis: levels, trends, and the first thing that went wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tameopt.analysis import Context
from tameopt.run import Run

_BLOW_UP = 10.0  # our choice: a loss ten times its start before the end is a blow-up, not an accident


@dataclass(frozen=True)
class Signals:
    """Numbers read from the record. NaN where the record does not say.

    first_loss, last_loss: full losses (mini-batch means where no full loss was recorded). alpha: the last step
    size. falling: the loss of the last third lies below that of the middle third beyond their spread.
    broken_at, broken_name: the first number that is not finite, -1 and "" when all are.
    """

    steps_done: int
    first_loss: float
    last_loss: float
    worst_loss: float
    first_gradient_norm: float
    last_gradient_norm: float
    alpha: float
    broken_at: int
    broken_name: str
    blew_up: bool
    falling: bool
    trend_words: tuple[str, ...]

    def stable_step(self, steepest: float | None) -> tuple[str, str]:
        """A step that would not diverge, in words, and why: 1/L where L was measured, else a tenth."""
        if steepest is not None and steepest > 0 and math.isfinite(steepest) and 1.0 / steepest < self.alpha:
            return (
                f"{1.0 / steepest:.3g}",
                f"below 1/L with L = {steepest:.4g} as measured, where gradient descent descends",
            )
        return f"{self.alpha / 10:.3g}", "a tenth of the step; how much is enough was not measured"


def signals(context: Context) -> Signals:
    """Read the record of a context; a problem that was never trained has steps_done = 0."""
    run = context.run
    if run is None:
        nothing = math.nan
        return Signals(0, nothing, nothing, nothing, nothing, nothing, nothing, -1, "", False, False, ())
    losses = _losses(run)
    finite = losses[np.isfinite(losses)]
    _, norms = run.series("full_gradient_norm")
    if not norms.size:
        _, norms = run.series("gradient_norm")
    _, alphas = run.series("lr")
    broken_at, broken_name = _first_broken(run)
    diverged = run.events("diverged")
    if diverged and broken_at < 0:
        broken_at, broken_name = int(diverged[0]["step"]), "loss"
    _, batch_losses = run.series("loss")
    seen = np.concatenate([finite, batch_losses[np.isfinite(batch_losses)]])
    first = float(finite[0]) if finite.size else math.nan
    worst = float(seen.max()) if seen.size else math.nan
    falling, words = _trend(finite)
    return Signals(
        steps_done=int(run.meta.get("steps_done", run.last_step + 1)),
        first_loss=first,
        last_loss=float(finite[-1]) if finite.size else math.nan,
        worst_loss=worst,
        first_gradient_norm=float(norms[0]) if norms.size else math.nan,
        last_gradient_norm=float(norms[-1]) if norms.size else math.nan,
        alpha=float(alphas[-1]) if alphas.size else math.nan,
        broken_at=broken_at,
        broken_name=broken_name,
        blew_up=bool(seen.size and worst > _BLOW_UP * max(abs(first), 1e-12)),
        falling=falling,
        trend_words=words,
    )


def _losses(run: Run) -> np.ndarray:
    _, losses = run.series("full_loss")
    if losses.size:
        return losses
    return run.series("loss")[1]


def _first_broken(run: Run) -> tuple[int, str]:
    first, culprit = -1, ""
    for name in run.names:
        steps, numbers = run.series(name)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size and (first < 0 or steps[bad[0]] < first):
            first, culprit = int(steps[bad[0]]), name
    return first, culprit


def _trend(losses: np.ndarray) -> tuple[bool, tuple[str, ...]]:
    """Whether the last third lies below the middle third by more than their standard errors allow."""
    if losses.size < 12:
        return False, ()
    third = losses.size // 3
    middle, last = losses[third : 2 * third], losses[2 * third :]
    drop = float(middle.mean() - last.mean())
    error = math.sqrt(float(middle.var() / middle.size + last.var() / last.size))
    words = f"F averaged {middle.mean():.4g} over the middle and {last.mean():.4g} over the last third of the record."
    return drop > 3 * error > 0, (words,)
