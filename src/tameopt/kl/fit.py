"""`kl.fit(run)`: how fast does the loss approach its limit: linearly, like a power, not at all, or can't one tell?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tameopt.kl.decay_law import F_STAR, LOG_B, DecayLaw, S, fit_law, held
from tameopt.kl.pieces import Piece, pieces
from tameopt.kl.profile import constant, interval, standard_error, time_to, worth
from tameopt.kl.series import FULL_LOSS, LossSeries, loss_series
from tameopt.kl.trend import Trend, trend
from tameopt.run import Run
from tameopt.student import student_quantile

Regime = Literal["linear", "sublinear", "converging", "noise floor", "at rest", "undecided"]
Interval = tuple[float, float]
FEWEST = 12  # our choice: the law has four parameters, its noise two, and each needs two points at least
_NO_INTERVAL: Interval = (math.nan, math.nan)
# No analytic F has an exponent strictly between 1/2 and 2/3: where the multiplicity is at least 3 it is at least 2/3;
# where it is 2, the splitting lemma leaves either a nondegenerate part alone (1/2) or one of multiplicity at least 3.
_GAP = 1 / 3  # s = 2 theta - 1 at theta = 2/3


@dataclass(frozen=True)
class Fit:
    """How F(theta_k) approaches its limit value, as far as one run shows it.

    regime: "linear" (F - F* ~ q^k), "sublinear" (~ k^-p), "converging" (the limit value is placed, the rate is not),
        "noise floor" (no trend left, fluctuations remain), "at rest" (no change beyond rounding), or "undecided",
        with the reason.
    first, last: the recorded steps that the fit used.
    F_star, excess: limit value and F - F* at the last step; theta: the exponent for which the law is the gradient
        flow's, (F - F*)' = -c^2 (F - F*)^(2 theta), in the series' clock, with its c; factor: q a step (a unit of the
        clock, when the step size varies) when linear; power: p = 1/(2 theta - 1) when sublinear; each with its 95%
        profile-likelihood interval (NaN where the regime has none).
    pieces: what the record shows before the fitted tail, and the tail.
    series: what was fitted; law: the fitted curve with its noise.
    """

    regime: Regime
    reason: str
    first: int
    last: int
    F_star: float = math.nan
    F_star_interval: Interval = _NO_INTERVAL
    excess: float = math.nan
    factor: float = math.nan
    factor_interval: Interval = _NO_INTERVAL
    power: float = math.nan
    power_interval: Interval = _NO_INTERVAL
    theta: float = math.nan
    theta_interval: Interval = _NO_INTERVAL
    c: float = math.nan
    c_interval: Interval = _NO_INTERVAL
    points: int = 0
    pieces: tuple[Piece, ...] = ()
    seed: int = 0
    trend: Trend | None = None
    series: LossSeries | None = field(default=None, repr=False)
    law: DecayLaw | None = field(default=None, repr=False)

    @property
    def _held(self) -> tuple[int, ...]:
        return (S,) if self.regime == "linear" else ()

    def steps_to(self, target: float) -> tuple[float, Interval]:
        """Steps after the last recorded one until F <= target, and the 95% interval; inf when F* is above it.

        Raises ValueError when the regime has no curve to extend.
        """
        if self.regime not in ("linear", "sublinear") or self.law is None or self.series is None:
            raise ValueError(
                f"steps to a target need a linear or sublinear fit, this run's is {self.regime!r}: {self.reason}."
            )
        tail = self.series.tail(self.series.size - self.points)
        span = float(tail.clock[-1] - tail.clock[0])
        # steps a unit of the clock, from the last recorded pair: 1 when the clock counts steps
        rate = float((tail.steps[-1] - tail.steps[-2]) / (tail.clock[-1] - tail.clock[-2]))
        here, ends = time_to(self.law, target, self._held)
        ahead = [max((time - 1.0) * span * rate, 0.0) for time in (here, *ends)]
        return ahead[0], (ahead[1], ahead[2])

    def predict(self, clock: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(m,) the fitted curve and the ends of its pointwise 95% band (by the delta method) at clock times (m,).

        Raises ValueError when the regime has no curve.
        """
        if self.law is None or self.series is None:
            raise ValueError(f"only a linear or sublinear fit has a curve, this run's is {self.regime!r}.")
        tail = self.series.tail(self.series.size - self.points)
        t = (np.asarray(clock, dtype=np.float64) - tail.clock[0]) / float(tail.clock[-1] - tail.clock[0])
        curve = self.law.curve(t)
        half = student_quantile(round(worth(self.law))) * standard_error(self.law, t, self._held)
        return curve, curve - half, curve + half


def fit(run: Run | LossSeries, *, lower: float | None = None, seed: int = 0, name: str = FULL_LOSS) -> Fit:
    """Fit how the loss of a run approaches its limit value.

    The longest tail is used on which the decay of a KL function leaves no systematic misfit; its exponent, constant
    and limit value are fitted with the noise by maximum likelihood, and their intervals are profiled. A run with
    fluctuations is first asked whether it still has a trend at all. Nothing is extrapolated from an undecided run.

    run: a recorded run, or a LossSeries. lower: a known lower bound of F (0 for least squares). seed: recorded with
    the result; the fit draws nothing. Cost: no gradients; about 0.2 s for 100 recorded points.

    Raises ValueError when the run has no finite loss series of that name.
    """
    series = run if isinstance(run, LossSeries) else loss_series(run, name)
    if series.size < FEWEST:
        reason = f"the record holds {series.size} of the {FEWEST} losses that a fit needs"
        return replace(_blank(series, 0, seed), reason=reason)
    found = _settled(series, seed)
    if found is None:
        start, law = _choose_tail(series, lower)
        found = _decide(series, start, law, lower, seed)
    kind = found.regime if found.regime != "undecided" else "falling"
    return replace(found, pieces=pieces(series, series.size - found.points, found.law, kind))


def _blank(series: LossSeries, start: int, seed: int) -> Fit:
    """An undecided fit of the tail from index `start` on, to be filled in."""
    steps = series.steps[start:]
    return Fit("undecided", "", int(steps[0]), int(steps[-1]), points=int(steps.size), seed=seed, series=series)


def _settled(series: LossSeries, seed: int) -> Fit | None:
    """A fit that says "noise floor" or "at rest", or None when the loss still moves or moves smoothly."""
    half = series.tail(series.size // 2)
    blank = _blank(series, series.size // 2, seed)
    scale = float(np.abs(half.values).max())
    drop = float(series.values.max() - half.values.mean())
    if float(np.ptp(half.values)) <= 1e-13 * max(scale, np.finfo(np.float64).tiny):
        return replace(
            blank,
            regime="at rest",
            reason="the loss has not changed beyond rounding over the second half of the record",
            F_star=float(half.values[-1]),
            F_star_interval=(float(half.values.min()), float(half.values.max())),
            excess=0.0,
        )
    rises = float(np.mean(np.diff(half.values) > 0))
    if series.deterministic or rises < 0.15:
        return None
    drift = trend(half.clock, half.values)
    ahead = -drift.interval[0] * float(half.clock[-1] - half.clock[0])
    # No trend, and none hidden in the interval that would matter over another window as long.
    if drift.flat and ahead <= max(drift.fluctuation, 0.01 * drop):
        return replace(
            blank,
            regime="noise floor",
            reason=f"over steps {blank.first} to {blank.last} the loss has no trend",
            F_star=drift.level,
            F_star_interval=drift.level_interval,
            trend=drift,
        )
    return None


def _choose_tail(series: LossSeries, lower: float | None) -> tuple[int, DecayLaw | None]:
    """The longest tail on which the law leaves unstructured or negligible residuals, else the best one."""
    m = series.size
    best: tuple[float, int, DecayLaw] | None = None
    starts = [
        s for s in sorted({int(m * share) for share in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7)}) if m - s >= FEWEST
    ]
    if series.deterministic:
        # without noise a small misfit is a wrong law all the same: the tail that foretells its own end best
        start = min(starts, key=lambda start: _foretold(series, start, lower))
        tail = series.tail(start)
        return start, fit_law(tail.clock, tail.values, lower)
    for start in starts:
        tail = series.tail(start)
        law = fit_law(tail.clock, tail.values, lower)
        if law is None:
            continue
        size = float(np.median(np.abs(tail.values - law.fitted) / np.maximum(law.fitted - law.F_star, 1e-300)))
        # noise may well be correlated; a curve of the wrong shape leaves residuals with 0.9 and more
        if abs(law.correlation) < 0.75 or size < 1e-3:
            return start, law
        if best is None or size < best[0]:
            best = (size, start, law)
    return (m // 2, None) if best is None else (best[1], best[2])


def _foretold(series: LossSeries, start: int, lower: float | None) -> float:
    """How well a law fitted from `start` to four fifths of the record foretells the rest, relative to the fall there.

    Equal to four digits counts as equal, so that the longer of two good tails is taken.
    """
    cut = series.size - max(3, series.size // 5)
    if cut - start < FEWEST:
        return math.inf
    clock, values = series.clock[start:cut], series.values[start:cut]
    law = fit_law(clock, values, lower)
    if law is None:
        return math.inf
    ahead = law.curve((series.clock[cut:] - clock[0]) / float(clock[-1] - clock[0]))
    fall = max(abs(float(values[-1] - series.values[-1])), 1e-12 * abs(float(values[-1])), 1e-300)
    return max(float(np.abs(ahead - series.values[cut:]).max()) / fall, 1e-4)


def _decide(series: LossSeries, start: int, law: DecayLaw | None, lower: float | None, seed: int) -> Fit:
    tail = series.tail(start)
    found = _blank(series, start, seed)
    if law is None:
        return replace(found, reason="the loss does not fall over the fitted window")
    s_low, s_high = interval(law, S)
    theta_interval = ((1 + s_low) / 2, (1 + s_high) / 2)
    linear = s_high < _GAP and s_low < _GAP / 3
    chosen = held(law, 0.0) if linear else law
    fixed = (S,) if linear else ()
    found = replace(
        found, F_star=chosen.F_star, F_star_interval=_values(chosen, F_STAR, fixed), excess=chosen.excess,
        theta=0.5 if linear else (1 + law.s) / 2, theta_interval=theta_interval,
    )  # fmt: skip
    words = f"the exponent is {(1 + law.s) / 2:.3f} [{theta_interval[0]:.3f}, {theta_interval[1]:.3f}]"
    if not linear and not s_low > 0:
        return _converging(found, f"exponential and power decay fit equally well: {words}", lower)
    if not linear and s_high < _GAP:
        reason = f"{words}, between linear (1/2) and any power that an analytic F has (from 2/3 on)"
        return _converging(found, reason, lower)
    misfit = float(np.median(np.abs(tail.values - chosen.fitted) / np.maximum(chosen.fitted - chosen.F_star, 1e-300)))
    if abs(chosen.correlation) > 0.75 and misfit > 0.01:
        reason = (
            f"no decay law fits: the best is off by {100 * misfit:.2g}% of F - F*, in long waves and not by noise"
        )
        return _converging(found, reason, lower)
    low, high = found.F_star_interval
    fall = float(np.ptp(tail.values))
    # a power slower than 1/k leaves its limit to extrapolation: most of the fall must have been seen
    if high - low > 2 * fall + 4 * found.excess or found.excess > (0.5 if s_low > 1 else 2.0) * fall:
        reason = "the record is too short to place the limit value: it may be further off than twice the fall"
        return _converging(found, reason, lower)
    drift = _drift(chosen, found.F_star_interval, (s_low, s_high), tail, lower)
    if drift:
        return _converging(found, drift, lower)
    span = float(tail.clock[-1] - tail.clock[0])
    c, c_interval = constant(chosen, span, fixed)
    found = replace(found, law=chosen, c=c, c_interval=c_interval)
    if linear:
        slow, fast = interval(chosen, LOG_B, fixed)
        return replace(
            found,
            regime="linear",
            reason=f"{words}, and 1/2 is the only one below 2/3 that an analytic F has",
            factor=math.exp(-chosen.b / span),
            factor_interval=(math.exp(-math.exp(fast) / span), math.exp(-math.exp(slow) / span)),
        )
    return replace(
        found,
        regime="sublinear",
        reason=f"{words}: above 1/2",
        power=1 / law.s,
        power_interval=(1 / s_high, 1 / s_low),
    )


def _values(law: DecayLaw, coordinate: int, fixed: tuple[int, ...]) -> Interval:
    low, high = interval(law, coordinate, fixed)
    return law.base + law.scale * low, law.base + law.scale * high


def _converging(found: Fit, reason: str, lower: float | None) -> Fit:
    """Undecided, unless what may still be lost is small against what was: then the limit is placed, the rate is not.

    A twentieth (our choice) of the whole fall may be left, down to the known lower bound or, failing one, to the
    lower end of F*; with a law that changes along the record that end means nothing.
    """
    assert found.series is not None
    values = found.series.values
    quarter = max(3, values.size // 4)
    last, before = float(np.median(values[-quarter:])), float(np.median(values[-2 * quarter : -quarter]))
    end = float(values[-quarter:].max())
    floor = lower if lower is not None else (-math.inf if "changes along" in reason else found.F_star_interval[0])
    if not (last <= before and math.isfinite(floor) and end - floor <= 0.05 * (float(values[0]) - end)):
        return replace(found, reason=reason)
    low, high = found.F_star_interval
    if "equally well" in reason:
        low, high = max(low, floor), min(high, float(values.min()))
    else:
        # no law holds, so that its interval of F* means nothing
        low, high = floor, float(values.min())
    return replace(
        found,
        regime="converging",
        reason=f"F has fallen to {100 * (end - floor) / (float(values[0]) - floor):.2g}% of what it can lose "
        f"at most; at which rate is open: {reason}",
        F_star_interval=(min(low, high), high),
    )


def _drift(law: DecayLaw, own: Interval, own_s: Interval, tail: LossSeries, lower: float | None) -> str:
    """Why the decay may not be extended: its last half alone shows another limit or exponent. "" when it does not.

    A law that holds gives the same F* and the same exponent from a part of the record. A run that slows down for
    ever (a logarithm, a flat spiral) fits the law everywhere, each time with another limit.
    """
    half = tail.tail(tail.size // 2)
    if half.size < FEWEST:
        return ""
    linear = law.s == 0.0
    other = fit_law(half.clock, half.values, lower, 0.0 if linear else None)
    if other is None:
        # it no longer falls: fine when it has arrived, to within the noise
        about = float(np.std(half.values - law.fitted[tail.size // 2 :])) + 1e-12 * abs(law.F_star)
        return "" if abs(float(half.values.mean()) - law.F_star) < 3 * about else "the last half does not fall"
    low, high = _values(other, F_STAR, (S,) if linear else ())
    slack = 0.05 * law.excess + 1e-12 * abs(law.F_star)
    if max(low, own[0]) <= min(high, own[1]) + slack:
        if linear:
            return ""
        s_low, s_high = interval(other, S)
        if max(s_low, own_s[0]) <= 1.1 * min(s_high, own_s[1]) + 0.05:
            return ""
        return (
            f"the decay changes along the record: its exponent is {(1 + law.s) / 2:.3g} from all of it and "
            f"{(1 + other.s) / 2:.3g} from the last half"
        )
    return (
        f"the decay changes along the record: its limit is {law.F_star:.4g} from all of it and {other.F_star:.4g} "
        "from the last half"
    )
