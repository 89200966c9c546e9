"""When will the loss reach a target? Decay laws extended, as far as they foretold the record itself.

`kl.fit` asks which law a run obeys, and most real runs obey none for ever. A target some way ahead needs less: any
curve that follows the run there. So laws fitted to tails of several lengths are asked together, each weighing as much
as it foretold the later parts of the record from its earlier ones, over the same share of the past as is asked for.
What they missed there on average is taken off; how much they scatter, there and among themselves, is the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tameopt.kl.decay_law import fit_law
from tameopt.kl.series import LossSeries, loss_series
from tameopt.run import Run

# Chosen on 245 forecasts of the runs of `benchmarks/kl_steps_to_target.py tuning` (two seeds each) for numbers in as
# many as possible with about nine of ten within 20%, and intervals that hold 95%.
_TAILS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # where the fitted tail begins, as a share of what is known
_TRIALS = (0.8, 0.9, 1.0)  # when it is asked earlier: as shares of the latest moment that can be judged
_SHARPNESS = 1.5  # weights fall like that power of the mean square of the trials' errors
_FLOOR = 0.02  # no forecast is trusted better than that
_QUANTILE = 3.1  # half the 95% interval of the logarithm, in units of the error
_LARGEST = 0.25  # error of the logarithm beyond which nothing is promised
_FEWEST = 12
_SMOOTH = 7  # recorded points in a running median of a noisy record
_FARTHEST = 2.0  # no farther ahead than twice what the record reaches back
_MISSED = 2.0  # what counts for a trial without an answer, as the error of its logarithm


@dataclass(frozen=True)
class Forecast:
    """Steps after the last recorded one until F <= target.

    steps: NaN where nothing is promised, with the reason. interval: 95%, as calibrated on real runs. trials: relative
    errors of the same forecast from earlier parts of the record, the latest last. error: of log(steps), as the trials
    and the scatter of the laws tell it. how: in words.
    """

    target: float
    steps: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    trials: tuple[float, ...] = ()
    error: float = math.nan
    how: str = ""
    reason: str = ""


def forecast(run: Run | LossSeries, target: float, *, lower: float | None = None) -> Forecast:
    """Steps until F <= target, as far as this record can be extended.

    lower: a known lower bound of F. Cost: no gradients; two dozens of small fits, about half a second.

    Raises ValueError when the run has no finite loss series.
    """
    series = run if isinstance(run, LossSeries) else loss_series(run)
    if not math.isfinite(target):
        raise ValueError(f"the target must be a finite number, got {target}.")
    if lower is not None and target <= lower:
        return Forecast(target, reason=f"the target is not above {lower:.4g}, below which F cannot fall")
    if series.size < 2 * _FEWEST:
        return Forecast(
            target, reason=f"the record holds {series.size} of the {2 * _FEWEST} losses that a forecast needs"
        )
    clock, values = series.clock - series.clock[0], smoothed(series)
    if values[-1] <= target:
        return Forecast(target, 0.0, (0.0, 0.0), how="F is there already")
    scatter = float(np.std((series.values - values)[-series.size // 4 :]))
    if float(values[-1]) - target < scatter:
        reason = f"the target is within the scatter of F, {scatter:.2g}: when it is met is a matter of chance"
        return Forecast(target, reason=reason)
    laws = [(share, _ahead(clock, values, share, lower, target)) for share in _TAILS]
    reaching = [(share, ahead) for share, ahead in laws if 0 < ahead < math.inf]
    if len(reaching) < 2:
        return Forecast(target, reason="no decay law reaches the target from here")
    if float(np.median([ahead for _, ahead in reaching])) > _FARTHEST * clock[-1]:
        return Forecast(target, reason="the target is farther ahead than twice what the record reaches back")
    logs = np.log([ahead for _, ahead in reaching])
    missed = np.array([_trials(clock, values, share, lower, ahead / clock[-1]) for share, ahead in reaching])
    weights = (np.mean(missed**2, axis=1) + _FLOOR**2) ** -_SHARPNESS
    weights /= weights.sum()
    trials = weights @ missed
    centre = float(weights @ logs)
    error = math.sqrt(float(np.mean(trials**2)) + float(weights @ (logs - centre) ** 2) + _FLOOR**2)
    relative = tuple(float(x) for x in np.expm1(trials))
    how = f"{len(logs)} laws fitted to tails of the record, each weighing as much as it foretold its later part"
    if not error <= _LARGEST:
        return Forecast(target, trials=relative, error=error, how=how, reason=_why(trials, logs))
    rate = float((series.steps[-1] - series.steps[-2]) / (series.clock[-1] - series.clock[-2]))
    steps = math.exp(centre - float(np.mean(trials))) * rate
    wide = math.exp(_QUANTILE * error)
    return Forecast(target, steps, (steps / wide, steps * wide), relative, error, how)


def _why(trials: np.ndarray, logs: np.ndarray) -> str:
    """Why the laws are not extended: what they missed before, or how they disagree."""
    worst = float(trials[np.argmax(np.abs(trials))])
    if abs(worst) < 0.5 * float(np.ptp(logs)):
        return (
            f"the laws of longer and shorter parts of the record disagree by a factor {math.exp(np.ptp(logs)):.2g}: "
            "the decay changes along the record"
        )
    if abs(worst) >= _MISSED * 0.99:
        return "from earlier parts of the record the laws would never have reached what came"
    if np.all(trials > 0) or np.all(trials < 0):
        kind = "speeds up" if worst > 0 else "slows down"
        return (
            f"from earlier parts of the record the laws missed what came by {100 * math.expm1(worst):+.0f}%, always "
            f"on one side: the decay {kind} beyond any law"
        )
    return f"from earlier parts of the record the laws missed what came by {100 * math.expm1(worst):+.0f}%"


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


def _ahead(clock: np.ndarray, values: np.ndarray, share: float, lower: float | None, target: float) -> float:
    """Time from the last point until the law fitted to the tail reaches the target; inf for never, NaN for no law."""
    start = min(int(np.searchsorted(clock, share * clock[-1])), clock.size - _FEWEST)
    t, y = clock[start:], values[start:]
    law = fit_law(t, y, lower, quick=True)
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
    clock: np.ndarray, values: np.ndarray, share: float, lower: float | None, reach: float
) -> tuple[float, ...]:
    """Errors of log(steps) of the same forecast, made earlier about levels that the record has since reached.

    A trial without an answer counts as one that missed by `_MISSED`, and none as worse.
    """
    latest = clock[-1] / (1 + reach)
    errors = []
    for part in _TRIALS:
        cut = int(np.searchsorted(clock, part * latest, side="right"))
        end = int(np.searchsorted(clock, clock[cut - 1] * (1 + reach), side="left"))
        end = min(max(end, cut), clock.size - 1)
        said = math.nan
        if cut >= _FEWEST + 4 and end >= cut:
            said = _ahead(clock[:cut], values[:cut], share, lower, float(values[end]))
        taken = float(clock[end] - clock[cut - 1])
        answered = 0 < said < math.inf and taken > 0
        errors.append(min(max(math.log(said / taken), -_MISSED), _MISSED) if answered else _MISSED)
    return tuple(errors)
