"""How F - F* decays under a KL inequality, fitted with its noise by maximum likelihood.

If norm(grad F) = c (F - F*)^theta along gradient flow, r = F - F* solves r' = -c^2 r^(2 theta), so

    r(t) = A (1 + s b t)^(-1/s),   s = 2 theta - 1,   b = c^2 A^s:

exponential for theta = 1/2 (s = 0), the power t^(-1/s) above. One family holds both, and the interval of s says
which. The noise may be additive (a floor), proportional to the excess (interpolation, multiplicative noise) or both,
Var_i = sigma^2 (rho^2 + r_i^2), and correlated like a first-order autoregression along the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tameopt.kl.bootstrap import lag_one

# Coordinates of the parameter vector x.
F_STAR, LOG_A, LOG_B, S, LOG_RHO = range(5)
LARGEST_S = 8.0  # theta <= 4.5, beyond any exponent: the bound never decides
_LOW = np.array([-np.inf, -80.0, np.log(3e-3), 0.0, -36.0])
_HIGH = np.array([np.inf, 80.0, np.log(1e6), LARGEST_S, 7.0])
_GRID = np.stack(
    np.meshgrid(
        np.log(np.geomspace(0.05, 2e4, 44)), np.array([0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0]), indexing="ij"
    ),
    axis=-1,
).reshape(-1, 2)

Chart = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def shape(log_b: np.ndarray, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(1 + s b t)^(-1/s), and exp(-b t) at s = 0; log_b and s broadcast against t.

    >>> shape(np.array(0.0), np.array([0.0, 1.0]), np.array(1.0)).round(4).tolist()
    [0.3679, 0.5]
    """
    bt = np.exp(log_b) * t
    small = s < 1e-9
    safe = np.where(small, 1.0, s)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # before its pole, at s b t <= -1, a power law has no value: NaN
        result: np.ndarray = np.exp(-np.where(small, bt, np.log1p(safe * bt) / safe))
    return result


def shape_slopes(log_b: float, s: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The derivatives of log shape in log b and in s."""
    bt = np.exp(log_b) * t
    u = s * bt
    # (log(1+u) - u/(1+u)) / s^2, by its series where the difference cancels
    series = bt**2 * (0.5 - u * (2 / 3 - 0.75 * u))
    exact = (np.log1p(u) - u / (1 + u)) / max(s, 1e-300) ** 2 if s > 0 else series
    return -bt / (1 + u), np.where(u < 1e-3, series, exact)


@dataclass(frozen=True)
class DecayLaw:
    """A fitted law F = F* + A (1 + s b t)^(-1/s), t = (clock - clock[0]) / span.

    x: (F*, log A, log b, s, log rho), F* and A in units of `scale` above `base`. correlation: of neighbouring noise.
    fitted: (m,) the curve. residuals: (m,) standardised. cost: minus log likelihood. information: (5, 5) Fisher
    information of x. t, y: (m,) as it was fitted. lower: the known lower bound of F, in the units of x.
    """

    x: np.ndarray
    correlation: float
    fitted: np.ndarray
    residuals: np.ndarray
    cost: float
    information: np.ndarray
    t: np.ndarray
    y: np.ndarray
    base: float
    scale: float
    lower: float

    @property
    def F_star(self) -> float:
        """The limit value."""
        return self.base + self.scale * float(self.x[F_STAR])

    @property
    def excess(self) -> float:
        """F - F* at the end of the window."""
        return float(self.fitted[-1]) - self.F_star

    @property
    def s(self) -> float:
        """2 theta - 1."""
        return float(self.x[S])

    @property
    def b(self) -> float:
        """The rate b, per window."""
        return float(np.exp(self.x[LOG_B]))

    def curve(self, t: np.ndarray) -> np.ndarray:
        """F at times t in windows."""
        values: np.ndarray = self.F_star + self.scale * np.exp(self.x[LOG_A]) * shape(
            self.x[LOG_B], np.array(self.s), t
        )
        return values


def identity(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chart in which the coordinates are x itself."""
    return x, np.eye(5)


def likelihood(
    x: np.ndarray, t: np.ndarray, y: np.ndarray, correlation: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Minus the log likelihood with sigma eliminated, its gradient (5,) and the Fisher information (5, 5)."""
    cost, gradient, (from_mean, from_variance), _ = _likelihood(x, t, y, correlation)
    return cost, gradient, from_mean + from_variance


def _likelihood(
    x: np.ndarray, t: np.ndarray, y: np.ndarray, correlation: float
) -> tuple[float, np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """(cost, gradient, information that the mean carries and that the variance carries, innovations (m,))."""
    m = y.size
    log_slopes = shape_slopes(x[LOG_B], x[S], t)
    excess = np.exp(x[LOG_A]) * shape(x[LOG_B], np.array(x[S]), t)
    floor2 = np.exp(2 * x[LOG_RHO])
    variance = floor2 + excess**2
    root = np.sqrt(variance)
    mean = np.zeros((5, m))
    mean[F_STAR], mean[LOG_A], mean[LOG_B], mean[S] = 1.0, excess, excess * log_slopes[0], excess * log_slopes[1]
    log_variance = 2 * excess * mean / variance
    log_variance[F_STAR], log_variance[LOG_RHO] = 0.0, 2 * floor2 / variance
    z = (y - x[F_STAR] - excess) / root
    e = _whiten(z, correlation)
    scaled = mean / root
    d_e = _whiten(-scaled - 0.5 * z * log_variance, correlation)
    power = max(float(e @ e), m * 1e-300)
    cost = 0.5 * (m * np.log(power / m) + np.log(variance).sum())
    gradient = (m / power) * (d_e @ e) + 0.5 * log_variance.sum(axis=1)
    white = _whiten(scaled, correlation)
    about = log_variance - log_variance.mean(axis=1, keepdims=True)
    return float(cost), gradient, ((m / power) * (white @ white.T), 0.5 * (about @ about.T)), e


def score_covariance(law: DecayLaw) -> np.ndarray:
    """(5, 5) what the score varies by, where the noise need not be normal.

    The size of z^2 tells as much about a variance as normal noise would allow; with the kurtosis kappa of the
    innovations that part of the score varies (kappa - 1)/2 times as much. Lighter tails than the normal's are not
    used: the intervals never shrink by it.
    """
    _, _, (from_mean, from_variance), e = _likelihood(law.x, law.t, law.y, law.correlation)
    power = float(np.mean(e**2))
    kurtosis = float(np.mean(e**4)) / power**2 if power > 0 else 3.0
    return from_mean + max((kurtosis - 1) / 2, 1.0) * from_variance


def _whiten(rows: np.ndarray, correlation: float) -> np.ndarray:
    first = rows[..., :1] * np.sqrt(1 - correlation**2)
    return np.concatenate([first, rows[..., 1:] - correlation * rows[..., :-1]], axis=-1)


def maximise(
    u: np.ndarray,
    t: np.ndarray,
    y: np.ndarray,
    correlation: float,
    lower: float,
    fixed: tuple[int, ...] = (),
    chart: Chart = identity,
    steps: int = 60,
    enough: float = 1e-7,
) -> tuple[np.ndarray, float, np.ndarray]:
    """(u, cost, information) of the most likely u with the coordinates `fixed` held: damped Fisher scoring.

    chart: from u to x with its Jacobian (5, 5). steps, enough: it stops after so many steps, or when one gains less
    than `enough` in log likelihood. A coordinate on its bound that wants to leave is held for that step.
    """
    low, high = _LOW.copy(), _HIGH.copy()
    low[F_STAR] = lower
    free = np.array([j for j in range(5) if j not in fixed])
    own_low, own_high = low.copy(), high.copy()
    if chart is not identity:
        # a chart replaces log b alone, whose bounds `evaluate` sees to
        own_low[LOG_B], own_high[LOG_B] = -np.inf, np.inf
    u = np.clip(u, own_low, own_high)

    def evaluate(at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        x, jacobian = chart(at)
        if not np.all(np.isfinite(x)) or np.any(x < low - 1e-12) or np.any(x > high + 1e-12):
            return np.inf, np.zeros(5), np.eye(5)
        cost, gradient, information = likelihood(x, t, y, correlation)
        return cost, jacobian.T @ gradient, jacobian.T @ information @ jacobian

    cost, gradient, information = evaluate(u)
    damping = 1e-4
    for _ in range(steps):
        pressed = ((u <= own_low) & (gradient > 0)) | ((u >= own_high) & (gradient < 0))
        move = np.array([j for j in free if not pressed[j]], dtype=int)
        if not move.size:
            break
        block = information[np.ix_(move, move)]
        diagonal = np.diag(np.maximum(np.diag(block), 1e-10))
        gained = 0.0
        for _ in range(12):
            step = np.zeros(5)
            try:
                step[move] = np.linalg.solve(block + (damping + 1e-14) * diagonal, -gradient[move])
            except np.linalg.LinAlgError:
                damping *= 6  # more of the ridge makes it regular
                continue
            step[1:] = np.clip(step[1:], -1.5, 1.5)
            trial = np.clip(u + step, own_low, own_high)
            found = evaluate(trial)
            if found[0] < cost:
                gained = cost - found[0]
                u, (cost, gradient, information) = trial, found
                damping = max(damping / 5, 1e-9)
                break
            damping *= 6
            if damping > 1e8:
                break
        if gained < enough:
            break
    return u, cost, information


def _projected(
    candidates: np.ndarray, t: np.ndarray, y: np.ndarray, weights: np.ndarray, lower: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residual sums (G,) of candidates (G, 2) for (log b, s), and (G, 2) their best (F*, A)."""
    shapes = shape(candidates[:, :1], candidates[:, 1:], t)
    w = weights / weights.sum()
    mean_s, mean_y = shapes @ w, float(y @ w)
    centred = shapes - mean_s[:, None]
    variance = np.einsum("gm,gm,m->g", centred, centred, w)
    amplitude = centred @ (w * (y - mean_y)) / np.maximum(variance, 1e-300)
    F_star = mean_y - amplitude * mean_s
    clipped = F_star < lower
    if clipped.any():
        through = ((shapes * w) @ (y - lower)) / np.maximum(np.einsum("gm,gm,m->g", shapes, shapes, w), 1e-300)
        amplitude, F_star = np.where(clipped, through, amplitude), np.where(clipped, lower, F_star)
    residuals = y - F_star[:, None] - amplitude[:, None] * shapes
    sums = np.einsum("gm,gm,m->g", residuals, residuals, weights)
    return np.where(amplitude > 0, sums, np.inf), np.stack([F_star, amplitude], axis=1)


def _starts(t: np.ndarray, y: np.ndarray, lower: float, s: float | None) -> list[np.ndarray]:
    """Points to start from: the best of a grid with constant and with proportional noise."""
    grid = _GRID if s is None else np.array([[log_b, s] for log_b in np.unique(_GRID[:, 0])])
    found = []
    weights = np.ones_like(y)
    for _ in range(3):
        sums, linear = _projected(grid, t, y, weights, lower)
        best = int(np.argmin(sums))
        if not np.isfinite(sums[best]):
            break
        (F_star, A), (log_b, curvature) = linear[best], grid[best]
        excess = A * shape(log_b, np.array(curvature), t)
        spread = float(np.std(y - F_star - excess))
        # additive noise as large as the residuals, or a tenth of the smallest excess for proportional noise
        found += [
            np.array([F_star, np.log(A), log_b, curvature, np.log(max(rho, 1e-15))])
            for rho in (spread / 0.05, 0.1 * float(excess.min()) + 1e-12)
        ]
        weights = 1 / (excess**2 + (0.1 * excess.min() + 1e-12) ** 2)
    return found


def fit_law(
    clock: np.ndarray, values: np.ndarray, lower: float | None = None, s: float | None = None, quick: bool = False
) -> DecayLaw | None:
    """The most likely law, or None when the series does not fall.

    clock, values: (m,). lower: a known lower bound of F, which F* then respects. s: hold s there (0: exponential).
    quick: from two starting points instead of six, and to 1e-3 of log likelihood: a quarter of the time.
    The correlation of the noise is estimated from the residuals of an uncorrelated fit, corrected for its bias, and
    then held; `_honest` says which part of it is used.
    """
    t = (clock - clock[0]) / float(clock[-1] - clock[0])
    scale, base = float(np.ptp(values)), float(values.min())
    if scale == 0.0 or not np.isfinite(scale):
        return None
    y = (values - base) / scale
    bound = -np.inf if lower is None else min((lower - base) / scale, 0.0)
    fixed = () if s is None else (S,)
    starts = _starts(t, y, bound, s)[-2 if quick else 0 :]
    if not starts:
        return None
    x = _best(starts, t, y, 0.0, bound, fixed, quick)
    for _ in range(1 if quick else 2):
        correlation = _honest(lag_one(_residuals(x, t, y), 4 if s is None else 3), t.size)
        x, cost, information = maximise(x, t, y, correlation, bound, fixed, enough=1e-3 if quick else 1e-7)
    excess = np.exp(x[LOG_A]) * shape(x[LOG_B], np.array(x[S]), t)
    fitted = base + scale * (x[F_STAR] + excess)
    return DecayLaw(
        x, correlation, fitted, _residuals(x, t, y), cost, information, t, y, base, scale, bound
    )  # fmt: skip


def _honest(correlation: float, m: int) -> float:
    """The estimate from m points, or 0 where it is negative and within two standard errors of 0.

    Negative correlation makes low frequencies, and with them the law, better known than independent noise does. Of
    independent noise half of the estimates are negative, and intervals narrowed by chance cover too little: with
    Student's t noise, 84% of those narrowed so instead of 95%.
    """
    return 0.0 if -2 / m**0.5 < correlation < 0 else correlation


def _best(
    starts: list[np.ndarray],
    t: np.ndarray,
    y: np.ndarray,
    correlation: float,
    lower: float,
    fixed: tuple[int, ...],
    quick: bool = False,
) -> np.ndarray:
    """The most likely x from several starts: a few steps from each, then on from the two that lead (quick: one)."""
    tries = [maximise(x, t, y, correlation, lower, fixed, steps=6, enough=1e-2) for x in starts]
    tries = sorted(tries, key=lambda found: found[1])[: 1 if quick else 2]
    enough = 1e-2 if quick else 1e-4
    tries = [maximise(x, t, y, correlation, lower, fixed, enough=enough) for x, _, _ in tries]
    return min(tries, key=lambda found: found[1])[0]


def _residuals(x: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
    excess = np.exp(x[LOG_A]) * shape(x[LOG_B], np.array(x[S]), t)
    residuals: np.ndarray = (y - x[F_STAR] - excess) / np.sqrt(np.exp(2 * x[LOG_RHO]) + excess**2)
    return residuals


def held(law: DecayLaw, s: float) -> DecayLaw:
    """The most likely law with that s, and the same correlation of the noise."""
    start = law.x.copy()
    start[S] = s
    starts = [start, *_starts(law.t, law.y, law.lower, s)]
    x = _best(starts, law.t, law.y, law.correlation, law.lower, (S,))
    x, cost, information = maximise(x, law.t, law.y, law.correlation, law.lower, (S,))
    excess = np.exp(x[LOG_A]) * shape(x[LOG_B], np.array(x[S]), law.t)
    fitted = law.base + law.scale * (x[F_STAR] + excess)
    return replace(law, x=x, cost=cost, information=information, fitted=fitted, residuals=_residuals(x, law.t, law.y))
