"""How many more steps until half of what is left is gone, promised only where the same promise would have come true.

A fitted decay describes the record; whether it may be extended is another question (a network's loss follows one
power for a while and then another). So the promise is tried on the record itself: the fit of its first part, up to
where twice the present distance to the limit was left, has to foretell when the run arrived where it is now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tameopt.evidence import Finding, Scope, measured, unknown
from tameopt.kl.fit import Fit, fit
from tameopt.kl.series import LossSeries

CLAIM = "rate.steps_to_target"
_SHARE = 0.5  # our choice: half of what is left, so that the extension is no longer than what could be tried
_TOLERANCE = 0.15  # our choice: a promise is useful within 25%; the trial has to be better than that
_USUAL = 0.25  # what labelled runs missed by at most, but for 1 in 30 (docs/verdicts.md)
_ONE_TRIAL = 12.7  # 97.5% quantile of Student's t with one degree of freedom: one trial says that little


@dataclass(frozen=True)
class Trial:
    """The promise that the record up to `step` would have made about the present level, against what happened.

    promised, taken: steps from `step` to the end of the record. reason: why no promise could be made, else "".
    """

    step: int
    taken: int
    promised: float = math.nan
    reason: str = ""

    @property
    def error(self) -> float:
        """Relative error of the promise, signed; NaN without one."""
        return self.promised / self.taken - 1.0


def steps_finding(fitted: Fit, series: LossSeries, lower: float | None = None) -> Finding:
    """rate.steps_to_target: steps until F is half as far from its fitted limit as now."""
    if fitted.regime not in ("linear", "sublinear"):
        return _silent(
            "No number of steps can be promised while the rate is open.", "a decay that the record decides"
        )
    target = fitted.F_star + _SHARE * fitted.excess
    steps, (low, high) = fitted.steps_to(target)
    if not (math.isfinite(steps) and math.isfinite(high) and steps > 0):
        return _silent(
            f"No number of steps to F = {target:.2g}, half of what is left, can be promised: the interval of the "
            "fitted limit reaches past it.",
            "a limit value known better than the distance to it",
        )
    trial = try_on_record(fitted, series, lower)
    if trial.reason or not abs(trial.error) <= _TOLERANCE:
        promise = "never to reach the present level"
        if math.isfinite(trial.promised):
            promise = f"{trial.promised:,.0f} steps to the present level"
        why = trial.reason or (
            f"the record up to step {trial.step:,} would have promised {promise}, it took {trial.taken:,}"
        )
        return _silent(
            f"No number of steps can be promised: {why}.", "a decay that foretold the last part of this record"
        )
    off = abs(trial.error)
    wide = min(_ONE_TRIAL * off, _USUAL)
    # the first whole step at or below the target
    low, high = math.floor(min(low, steps * (1 - wide))), math.ceil(max(high, steps * (1 + wide)))
    steps = math.ceil(steps)
    return measured(
        CLAIM,
        f"F reaches {target:.6g}, half of its present distance to the limit, in {steps:,} more steps "
        f"[{low:,}, {high:,}].",
        float(steps),
        method=f"the fitted {fitted.regime} decay extended; from step {trial.step:,} it foretold the present level "
        f"within {100 * off:.0f}%",
        error_kind="95% block-bootstrap interval, widened by what the error of one trial allows, 25% at most",
        interval=(float(low), float(high)),
        scope=Scope.RUN,
        sample_size=fitted.points,
        seed=fitted.seed,
    )


def try_on_record(fitted: Fit, series: LossSeries, lower: float | None = None) -> Trial:
    """Fit the record up to where twice the present excess was left; compare its promise with the rest."""
    tail = series.tail(series.size - fitted.points)
    curve = fitted.predict(tail.clock)[0]
    before = np.flatnonzero(curve >= fitted.F_star + fitted.excess / _SHARE)
    if not before.size:
        return Trial(
            int(tail.steps[0]), int(tail.steps[-1] - tail.steps[0]), reason="the fitted fall is not yet half"
        )
    cut = series.size - fitted.points + int(before[-1]) + 1
    first = LossSeries(
        series.steps[:cut],
        series.clock[:cut],
        series.values[:cut],
        series.gradient_norms[:cut],
        series.clock_name,
        series.deterministic,
    )
    step, taken = int(first.steps[-1]), int(series.steps[-1] - first.steps[-1])
    early = fit(first, lower=lower, seed=fitted.seed)
    if early.regime not in ("linear", "sublinear"):
        return Trial(step, taken, reason=f"the record up to step {step:,} did not yet show a rate ({early.reason})")
    return Trial(step, taken, early.steps_to(float(curve[-1]))[0])


def _silent(sentence: str, missing: str) -> Finding:
    return unknown(
        CLAIM, sentence, missing=missing, remedy="Fit.steps_to(target) for a target of yours", scope=Scope.RUN
    )
