"""`kl.fit(run)`: does the loss decay linearly, like a power, sit at its noise floor, or can't one tell?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tameopt.kl.bootstrap import Replicates, block_length, bootstrap_decay
from tameopt.kl.decay_models import SHAPES, Decay, fit_decay
from tameopt.kl.series import FULL_LOSS, LossSeries, loss_series
from tameopt.kl.trend import Trend, student_quantile, trend
from tameopt.run import Run

Regime = Literal["linear", "sublinear", "noise floor", "at rest", "undecided"]
Interval = tuple[float, float]
_FEWEST = 12  # our choice: two models with up to four parameters need three points each at least
_NO_INTERVAL: Interval = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Fit:
    """How F(theta_k) approaches its limit value, as far as one run shows it.

    regime: "linear" (F - F* ~ q^k), "sublinear" (~ k^-p), "noise floor" (no trend left, fluctuations remain),
        "at rest" (no change beyond rounding), or "undecided", with the reason.
    first, last: the recorded steps that the fit used.
    F_star, excess: limit value and F - F* at the last step; factor: q a step (a unit of the clock, when the step
        size varies); power: p; each with its 95% block-bootstrap interval (NaN where the regime has none).
    theta: the KL exponent that the decay corresponds to for gradient descent: 1/2 when linear, (1+p)/(2p) when
        sublinear, with its interval.
    preference: log likelihood of "linear" above "sublinear" in standard errors (Vuong's statistic).
    series: what was fitted; curve: (m,) the fitted values on its tail.
    """

    regime: Regime
    reason: str
    first: int
    last: int
    F_star: float = float("nan")
    F_star_interval: Interval = _NO_INTERVAL
    excess: float = float("nan")
    factor: float = float("nan")
    factor_interval: Interval = _NO_INTERVAL
    power: float = float("nan")
    power_interval: Interval = _NO_INTERVAL
    theta: float = float("nan")
    theta_interval: Interval = _NO_INTERVAL
    preference: float = float("nan")
    points: int = 0
    seed: int = 0
    trend: Trend | None = None
    series: LossSeries | None = field(default=None, repr=False)
    decay: Decay | None = field(default=None, repr=False)
    replicates: Replicates | None = field(default=None, repr=False)

    def steps_to(self, target: float) -> tuple[float, Interval]:
        """Steps after the last recorded one until F <= target, and the 95% interval; inf when F* is above it.

        Raises ValueError when the regime has no curve to extend.
        """
        if self.regime not in ("linear", "sublinear") or self.decay is None or self.replicates is None:
            raise ValueError(
                f"steps to a target need a linear or sublinear fit, this run's is {self.regime!r}: {self.reason}."
            )
        assert self.series is not None
        tail = self.series.tail(self.series.size - self.points)
        span = float(tail.clock[-1] - tail.clock[0])
        # steps a unit of the clock, from the last recorded pair: 1 when the clock counts steps
        rate = float((tail.steps[-1] - tail.steps[-2]) / (tail.clock[-1] - tail.clock[-2]))
        decay, draws = self.decay, self.replicates
        here = _time_to(
            decay.kind, np.array([decay.F_star]), np.array([decay.amplitude]), decay.parameters[None], target
        )
        spread = _time_to(decay.kind, draws.F_star, draws.amplitude, draws.shape, target)
        ahead = np.maximum((np.concatenate([here, spread]) - 1.0) * span * rate, 0.0)
        low, high = np.quantile(ahead[1:], [0.025, 0.975], method="inverted_cdf")
        return float(ahead[0]), (float(low), float(high))

    def predict(self, clock: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(m,) the fitted curve and the ends of its pointwise 95% band at clock times (m,).

        Raises ValueError when the regime has no curve.
        """
        if self.decay is None or self.replicates is None or self.series is None:
            raise ValueError(f"only a linear or sublinear fit has a curve, this run's is {self.regime!r}.")
        tail = self.series.tail(self.series.size - self.points)
        t = (np.asarray(clock, dtype=np.float64) - tail.clock[0]) / float(tail.clock[-1] - tail.clock[0])
        shape = SHAPES[self.decay.kind]
        draws = self.replicates
        curves = draws.F_star[:, None] + draws.amplitude[:, None] * shape(draws.shape, t)
        low, high = np.quantile(curves, [0.025, 0.975], axis=0)
        return self.decay.F_star + self.decay.amplitude * shape(self.decay.parameters, t), low, high


def _time_to(kind: str, F_star: np.ndarray, amplitude: np.ndarray, shape: np.ndarray, target: float) -> np.ndarray:
    """When F* + A s(t) = target, in spans of the fitted window; inf when it never is."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = (target - F_star) / amplitude
        if kind == "linear":
            time = -np.log(ratio) / np.exp(shape[:, 0])
        else:
            time = np.exp(shape[:, 1]) * (ratio ** (-np.exp(-shape[:, 0])) - 1.0)
    return np.where(ratio > 0, time, np.inf)


def fit(
    run: Run | LossSeries, *, lower: float | None = None, seed: int = 0, replicates: int = 400, name: str = FULL_LOSS
) -> Fit:
    """Fit how the loss of a run approaches its limit value.

    The longest tail is used on which a decay leaves no systematic misfit. Linear and sublinear decays are fitted
    with their noise by pseudo-likelihood (F* profiled), and compared by Vuong's test; a run with fluctuations is
    first asked whether it still has a trend at all. Nothing is extrapolated from an undecided run.

    run: a recorded run, or a LossSeries. lower: a known lower bound of F (0 for least squares). seed, replicates:
    of the bootstrap. Cost: no gradients; about 0.5 s for 200 recorded points.

    Raises ValueError when the run has no finite loss series of that name.
    """
    series = run if isinstance(run, LossSeries) else loss_series(run, name)
    m = series.size
    if m < _FEWEST:
        reason = f"the loss was recorded {m} times, a fit needs {_FEWEST}"
        return replace(_blank(series, 0, seed), reason=reason)
    settled = _settled(series, seed)
    if settled is not None:
        return settled
    generator = np.random.default_rng(seed)
    start, decays = _choose_tail(series, lower)
    return _decide(series, start, decays, lower, generator, replicates, seed)


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


def _misfit(decay: Decay) -> float:
    """How far the residuals are from unstructured: their lag-1 autocorrelation."""
    r = decay.residuals - decay.residuals.mean()
    power = float(r @ r)
    return float(r[:-1] @ r[1:]) / power if power > 0 else 0.0


def _choose_tail(series: LossSeries, lower: float | None) -> tuple[int, dict[str, Decay | None]]:
    """The longest tail on which one of the decays leaves unstructured or negligible residuals, else the last half."""
    m = series.size
    starts = sorted({int(m * share) for share in (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7)})
    best: tuple[float, int, dict[str, Decay | None]] | None = None
    for start in starts:
        if m - start < _FEWEST:
            break
        tail = series.tail(start)
        decays: dict[str, Decay | None] = {
            kind: fit_decay(kind, tail.clock, tail.values, lower) for kind in ("linear", "sublinear")
        }
        fitted = [decay for decay in decays.values() if decay is not None]
        if not fitted:
            continue
        likely = max(fitted, key=lambda decay: float(decay.loglik.sum()))
        relative = np.abs(tail.values - likely.fitted) / np.maximum(likely.fitted - likely.F_star, 1e-300)
        size = float(np.median(relative))
        # noise may well be correlated; a curve of the wrong shape leaves residuals with 0.9 and more
        if abs(_misfit(likely)) < 0.75 or size < 1e-3:
            return start, decays
        if best is None or size < best[0]:
            best = (size, start, decays)
    if best is None:
        return m // 2, {"linear": None, "sublinear": None}
    return best[1], best[2]


def _vuong(first: Decay, second: Decay) -> float:
    """Mean log likelihood ratio over its standard error, with blocks for the dependence (Vuong 1989)."""
    gain = first.loglik - second.loglik
    m = gain.size
    length = max(block_length(first.residuals), block_length(second.residuals))
    count = max(2, m // length)
    means = np.array([part.mean() for part in np.array_split(gain, count)])
    error = float(means.std(ddof=1) / np.sqrt(count))
    return float(gain.mean() / error) if error > 0 else 0.0


def _decide(
    series: LossSeries,
    start: int,
    decays: dict[str, Decay | None],
    lower: float | None,
    generator: np.random.Generator,
    replicates: int,
    seed: int,
) -> Fit:
    tail = series.tail(start)
    blank = _blank(series, start, seed)
    linear, power = decays["linear"], decays["sublinear"]
    if linear is None and power is None:
        return replace(blank, reason="the loss does not fall over the fitted window")
    preference = float("inf") if power is None else float("-inf")
    if linear is not None and power is not None:
        preference = _vuong(linear, power)
    # Two-sided 5% level with the block count's Student quantile, at least the normal 1.96.
    sure = abs(preference) > student_quantile(max(1, tail.size // 8))
    chosen = linear if preference > 0 else power
    assert chosen is not None
    draws = bootstrap_decay(chosen, tail.clock, generator, replicates, lower)
    excess = float(chosen.fitted[-1] - chosen.F_star)
    found = replace(
        blank, excess=excess, F_star=chosen.F_star, F_star_interval=_interval(draws.F_star), preference=preference
    )
    if not sure:
        return replace(
            found, reason=f"exponential and power decay fit equally well (Vuong statistic {preference:.2f})"
        )
    low, high = found.F_star_interval
    if high - low > 2 * float(np.ptp(tail.values)) + 4 * excess:
        return replace(
            found,
            reason="the record is too short to place the limit value: its interval is wider than twice the fall",
        )
    drift = _drift(chosen, draws, tail, lower, generator)
    if drift:
        return replace(found, reason=drift)
    span = float(tail.clock[-1] - tail.clock[0])
    found = replace(found, decay=chosen, replicates=draws)
    if chosen.kind == "linear":
        return replace(
            found,
            regime="linear",
            reason=f"exponential decay is {preference:.1f} standard errors more likely than a power",
            factor=float(np.exp(-np.exp(chosen.parameters[0]) / span)),
            factor_interval=_interval(np.exp(-np.exp(draws.shape[:, 0]) / span)),
            theta=0.5,
            theta_interval=(0.5, 0.5),
        )
    p = float(np.exp(chosen.parameters[0]))
    p_low, p_high = _interval(np.exp(draws.shape[:, 0]))
    return replace(
        found,
        regime="sublinear",
        reason=f"a power is {-preference:.1f} standard errors more likely than exponential decay",
        power=p,
        power_interval=(p_low, p_high),
        theta=(1 + p) / (2 * p),
        theta_interval=((1 + p_high) / (2 * p_high), (1 + p_low) / (2 * p_low)),
    )


def _drift(
    decay: Decay, draws: Replicates, tail: LossSeries, lower: float | None, generator: np.random.Generator
) -> str:
    """Why the decay may not be extended: its last half alone points to another limit. "" when it does not.

    A law that holds gives the same F* from a part of the record. A run that slows down for ever (a logarithm, a
    flat spiral) fits an exponential everywhere, each time with another limit.
    """
    half = tail.tail(tail.size // 2)
    if half.size < _FEWEST:
        return ""
    other = fit_decay(decay.kind, half.clock, half.values, lower)
    if other is None:
        # it no longer falls: fine when it has arrived, to within the noise
        about = float(np.std(half.values - decay.fitted[tail.size // 2 :])) + 1e-12 * abs(decay.F_star)
        return "" if abs(float(half.values.mean()) - decay.F_star) < 3 * about else "the last half does not fall"
    spread = bootstrap_decay(other, half.clock, generator, 200, lower)
    low, high = _interval(spread.F_star)
    own_low, own_high = _interval(draws.F_star)
    slack = 0.05 * float(decay.fitted[-1] - decay.F_star) + 1e-12 * abs(decay.F_star)
    if max(low, own_low) <= min(high, own_high) + slack:
        return ""
    return (
        f"the decay changes along the record: its limit is {decay.F_star:.4g} from all of it and {other.F_star:.4g} "
        "from the last half"
    )


def _interval(draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
