"""When will the loss reach a target? A decay law extended, promised only where it would have come true before.

`kl.fit` asks which law a run obeys, and most real runs obey none for ever. A target some way ahead needs less: any
curve that follows the run there. So laws fitted to tails of several lengths compete in foretelling the later parts of
the record from its earlier ones, over the same share of the past as is asked for now; the best is extended if it has
foretold all of them well enough, and its errors there say how far to trust it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tameopt.kl.decay_law import fit_law
from tameopt.kl.series import LossSeries, loss_series
from tameopt.run import Run

_TAILS = (0.0, 0.2, 0.4, 0.6, 0.75)  # our choice: where the fitted tail begins, as a share of what is known
_TRIALS = 4  # our choice: earlier moments at which the same question is asked
_TOLERANCE = 0.12  # our choice: a promise is useful within 20%; the trials have to be better than that
_FEWEST = 12
_SMOOTH = 7  # recorded points in a running median of a noisy record
_FARTHEST = 1.0  # our choice: no farther ahead than the record reaches back


@dataclass(frozen=True)
class Forecast:
    """Steps after the last recorded one until F <= target.

    steps: NaN where nothing is promised, with the reason. interval: steps with twice the largest error of the trials
    (at least 2%). trials: relative errors of the same forecast from earlier parts of the record, the latest last.
    how: the law that foretold best, in words.
    """

    target: float
    steps: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    trials: tuple[float, ...] = ()
    how: str = ""
    reason: str = ""


def forecast(run: Run | LossSeries, target: float, *, lower: float | None = None) -> Forecast:
    """Steps until F <= target, as far as this record can be extended.

    lower: a known lower bound of F. Cost: no gradients; some dozens of small fits.

    Raises ValueError when the run has no finite loss series.
    """
    series = run if isinstance(run, LossSeries) else loss_series(run)
    if not math.isfinite(target):
        raise ValueError(f"the target must be a finite number, got {target}.")
    if lower is not None and target <= lower:
        return Forecast(target, reason=f"the target is not above {lower:.4g}, below which F cannot fall")
    if series.size < 2 * _FEWEST:
        return Forecast(target, reason=f"the loss was recorded {series.size} times, a forecast needs {2 * _FEWEST}")
    clock, values = series.clock - series.clock[0], smoothed(series)
    if values[-1] <= target:
        return Forecast(target, 0.0, (0.0, 0.0), how="F is there already")
    best: tuple[float, float, tuple[float, ...], str] | None = None
    refused = "no decay law reaches the target from here"
    for share in _TAILS:
        for curvature in (None, 0.0):
            ahead = _ahead(clock, values, share, curvature, lower, target)
            if not 0 < ahead < math.inf:
                continue
            if ahead > _FARTHEST * clock[-1]:
                refused = "the target is farther ahead than the record reaches back"
                continue
            errors = _trials(clock, values, share, curvature, lower, ahead / clock[-1])
            worst = max(map(abs, errors), default=math.inf)
            if best is None or worst < best[0]:
                law = "exponential" if curvature == 0.0 else "power or exponential"
                best = worst, ahead, errors, f"{law} law from {100 * share:.0f}% of the record on"
    if best is None:
        return Forecast(target, reason=refused)
    worst, ahead, errors, how = best
    if not worst <= _TOLERANCE:
        missed = f"{100 * worst:.0f}%" if math.isfinite(worst) else "more than the record"
        return Forecast(
            target,
            trials=errors,
            how=how,
            reason=f"from earlier parts of the record the best law missed what came by {missed}",
        )
    rate = float((series.steps[-1] - series.steps[-2]) / (series.clock[-1] - series.clock[-2]))
    steps, wide = ahead * rate, 2 * max(worst, 0.01)
    return Forecast(target, steps, (steps * (1 - wide), steps * (1 + wide)), errors, how)


def smoothed(series: LossSeries) -> np.ndarray:
    """(m,) the values, or their running median where mini-batches make them jitter."""
    values = series.values.astype(np.float64)
    if series.deterministic or series.size < 4 * _SMOOTH:
        return values
    result = values.copy()
    half = _SMOOTH // 2
    result[half:-half] = np.median(np.lib.stride_tricks.sliding_window_view(values, _SMOOTH), axis=1)
    for i in range(half):  # shorter windows at the ends
        result[i] = np.median(values[: 2 * i + 1])
        result[-1 - i] = np.median(values[-2 * i - 1 :])
    return result


def _ahead(
    clock: np.ndarray, values: np.ndarray, share: float, s: float | None, lower: float | None, target: float
) -> float:
    """Time from the last point until the law fitted to the tail reaches the target; inf for never, NaN for no law."""
    start = min(int(np.searchsorted(clock, share * clock[-1])), clock.size - _FEWEST)
    t, y = clock[start:], values[start:]
    law = fit_law(t, y, lower, s)
    if law is None:
        return math.nan
    F_star = law.F_star
    if target <= F_star:
        return math.inf
    # (1 + s b T)^(-1/s) = (target - F*)/A
    log_ratio = float(law.x[1]) + math.log(law.scale) - math.log(target - F_star)
    if law.s * log_ratio > 600:
        return math.inf
    T = (math.expm1(law.s * log_ratio) / law.s if law.s > 1e-9 else log_ratio) / law.b
    return (T - 1.0) * float(t[-1] - t[0])


def _trials(
    clock: np.ndarray, values: np.ndarray, share: float, s: float | None, lower: float | None, reach: float
) -> tuple[float, ...]:
    """Relative errors of the same forecast, made at earlier times about levels that the record has reached since."""
    latest = clock[-1] / (1 + reach)
    errors = []
    for part in np.linspace(0.6, 1.0, _TRIALS):
        cut = int(np.searchsorted(clock, part * latest, side="right"))
        end = int(np.searchsorted(clock, clock[cut - 1] * (1 + reach), side="left"))
        end = min(max(end, cut), clock.size - 1)
        if cut < 2 * _FEWEST or end < cut:
            continue
        taken = float(clock[end] - clock[cut - 1])
        said = _ahead(clock[:cut], values[:cut], share, s, lower, float(values[end]))
        errors.append(said / taken - 1 if math.isfinite(said) else math.inf)
    return tuple(errors) if len(errors) == _TRIALS else ()
