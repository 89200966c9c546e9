"""Profile-likelihood intervals of a fitted decay: where a parameter may lie, the others following.

The likelihood of (F*, A, b, s) is a long curved valley, so that standard errors mean little; the set of values that
are not much less likely than the best one follows the valley (Venzon and Moolgavkar 1988).
"""

from __future__ import annotations

import math

import numpy as np

from tameopt.kl.decay_law import (
    F_STAR,
    LOG_A,
    LOG_B,
    Chart,
    DecayLaw,
    S,
    identity,
    maximise,
    score_covariance,
    shape,
    shape_slopes,
)
from tameopt.student import student_quantile


def worth(law: DecayLaw) -> float:
    """Degrees of freedom: independent points that the correlated ones are worth, less the parameters."""
    m, r = law.y.size, law.correlation
    return max(3.0, m * (1 - r) / (1 + r) - 5.0)


def threshold(law: DecayLaw, two_sided: bool = True) -> float:
    """How much twice the log likelihood may fall within the 95% set.

    For a linear regression m log(1 + t^2/(m - q)) with Student's t is exact; correlation costs degrees of freedom.
    """
    m = law.y.size
    quantile = (
        student_quantile(round(worth(law))) if two_sided else 1.645 * student_quantile(round(worth(law))) / 1.96
    )
    return float(m * math.log1p(quantile**2 / max(m - 5, 3)))


def heavy_tails(law: DecayLaw, j: int, fixed: tuple[int, ...], jacobian: np.ndarray | None = None) -> float:
    """How much more a coordinate's estimate varies than normal noise would let it, at least 1.

    The factor of Kent (1982) by which the fall of the profile likelihood is too steep when the noise is not that of
    the model: with H the information and V the covariance of the score, (H^-1 V H^-1)_jj / (H^-1)_jj.
    """
    J = np.eye(5) if jacobian is None else jacobian
    free = [k for k in range(5) if k not in fixed]
    H = (J.T @ law.information @ J)[np.ix_(free, free)]
    V = (J.T @ score_covariance(law) @ J)[np.ix_(free, free)]
    row = np.linalg.pinv(H, hermitian=True)[free.index(j)]
    return max(float(row @ V @ row) / max(float(row[free.index(j)]), 1e-300), 1.0)


def interval(law: DecayLaw, coordinate: int, fixed: tuple[int, ...] = ()) -> tuple[float, float]:
    """The 95% profile interval of a coordinate of law.x, with the coordinates `fixed` held all along.

    Its ends are those of the coordinate's range where the likelihood never falls enough.
    """
    ends = [_end(law, law.x, coordinate, fixed, side, identity) for side in (-1.0, 1.0)]
    return ends[0], ends[1]


def _end(
    law: DecayLaw, start: np.ndarray, j: int, fixed: tuple[int, ...], side: float, chart: Chart, width: float = 0.0
) -> float:
    """The end of the interval on one side: outward in growing steps, then the secant of the signed root."""
    jacobian = None if chart is identity else chart(start)[1]
    limit = threshold(law) * heavy_tails(law, j, fixed, jacobian)
    width = width or _width(law.information, j, fixed)
    width = min(width, 1.0) if j != F_STAR else width
    edge = _edge(law, j, side) if chart is identity else side * 1e3

    def fall(value: float, near: np.ndarray) -> tuple[float, np.ndarray]:
        trial = near.copy()
        trial[j] = value
        u, cost, _ = maximise(trial, law.t, law.y, law.correlation, law.lower, (*fixed, j), chart, 25, 1e-3)
        return 2 * (cost - law.cost), u

    inside, at_inside, near = float(start[j]), 0.0, start
    for attempt in range(30):
        outside = inside + side * width * (1.0 if attempt < 4 else 2.0 ** (attempt - 3))
        if side * (outside - edge) >= 0:
            outside = edge
        at_outside, u = fall(outside, near)
        if at_outside >= limit:
            break
        if outside == edge:
            return edge
        inside, at_inside, near = outside, at_outside, u
    else:
        return edge
    for _ in range(12):
        low, high = math.sqrt(max(at_inside, 0.0)), math.sqrt(at_outside) if math.isfinite(at_outside) else math.inf
        share = (math.sqrt(limit) - low) / (high - low) if math.isfinite(high) and high > low else 0.5
        middle = inside + (outside - inside) * min(max(share, 0.08), 0.92)
        at_middle, u = fall(middle, near)
        if abs(at_middle - limit) < 0.04 * limit or abs(outside - inside) < 1e-12 * (1 + abs(inside)):
            return middle
        if at_middle < limit:
            inside, at_inside, near = middle, at_middle, u
        else:
            outside, at_outside = middle, at_middle
    return (inside + outside) / 2


def _edge(law: DecayLaw, j: int, side: float) -> float:
    if j == F_STAR:
        # no lower than a thousand falls below; no higher than the record
        return max(law.lower, -1000.0) if side < 0 else 1.0
    low, high = {LOG_A: (-80.0, 80.0), LOG_B: (math.log(3e-3), math.log(1e6)), S: (0.0, 8.0)}[j]
    return low if side < 0 else high


def constant(law: DecayLaw, span: float, fixed: tuple[int, ...] = ()) -> tuple[float, tuple[float, float]]:
    """c of (F - F*)' = -c^2 (F - F*)^(1+s), with its 95% profile interval; the window is `span` long in the clock."""
    shift = math.log(law.scale)

    def chart(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, jacobian = u.copy(), np.eye(5)
        x[LOG_B] = u[LOG_B] + u[S] * (u[LOG_A] + shift)
        jacobian[LOG_B] = [0.0, u[S], 1.0, u[LOG_A] + shift, 0.0]
        return x, jacobian

    start = law.x.copy()
    start[LOG_B] -= law.s * (law.x[LOG_A] + shift)
    jacobian = chart(start)[1]
    width = _width(jacobian.T @ law.information @ jacobian, LOG_B, fixed)
    ends = [_end(law, start, LOG_B, fixed, side, chart, width) for side in (-1.0, 1.0)]
    c, low, high = (math.exp(0.5 * min(value, 1400.0)) / math.sqrt(span) for value in (start[LOG_B], *ends))
    return c, (low, high)


def standard_error(law: DecayLaw, t: np.ndarray, fixed: tuple[int, ...] = ()) -> np.ndarray:
    """(m,) standard error of the curve at times t in windows, by the delta method, in the units of F."""
    excess = np.exp(law.x[LOG_A]) * shape(law.x[LOG_B], np.array(law.s), t)
    in_b, in_s = shape_slopes(law.x[LOG_B], law.s, t)
    rows = np.stack([np.ones_like(t), excess, excess * in_b, excess * in_s, np.zeros_like(t)], axis=1)
    free = [k for k in range(5) if k not in fixed]
    covariance = np.linalg.pinv(law.information[np.ix_(free, free)], hermitian=True)
    rows = rows[:, free]
    result: np.ndarray = law.scale * np.sqrt(np.maximum(np.einsum("mi,ij,mj->m", rows, covariance, rows), 0.0))
    return result


def _width(information: np.ndarray, j: int, fixed: tuple[int, ...]) -> float:
    """The standard error of coordinate j."""
    free = [k for k in range(5) if k not in fixed]
    covariance = np.linalg.pinv(information[np.ix_(free, free)], hermitian=True)
    return math.sqrt(max(float(covariance[free.index(j), free.index(j)]), 1e-24))


def reaching(law: DecayLaw, target: float) -> Chart:
    """The chart in which log b is replaced by the logarithm of the time at which F reaches the target.

    target: in the units of x, above F*. From A (1 + s b T)^(-1/s) = target - F*: b = expm1(s log R)/(s T), with
    R = A/(target - F*).
    """

    def chart(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, jacobian = u.copy(), np.eye(5)
        gap = target - u[F_STAR]
        if not gap > 0:
            return np.full(5, np.nan), jacobian
        log_R, s = u[LOG_A] - math.log(gap), u[S]
        if not log_R > 0:
            return np.full(5, np.nan), jacobian

        def log_of(curvature: float) -> float:
            return math.log(log_R if curvature * log_R < 1e-9 else math.expm1(curvature * log_R) / curvature)

        s = max(s, 0.0)
        if s * log_R > 600:
            return np.full(5, np.nan), jacobian
        x[S], x[LOG_B] = s, log_of(s) - u[LOG_B]
        slope = math.exp(s * log_R - log_of(s))
        jacobian[LOG_B] = [slope / gap, slope, -1.0, (log_of(s + 1e-6) - log_of(s)) / 1e-6, 0.0]
        return x, jacobian

    return chart


def time_to(law: DecayLaw, target: float, fixed: tuple[int, ...] = ()) -> tuple[float, tuple[float, float]]:
    """When F reaches a target, in windows from the window's start, with its 95% profile interval; inf for never.

    target: in the units of F.
    """
    level = (target - law.base) / law.scale
    chart = reaching(law, level)
    gap, farthest = level - law.x[F_STAR], math.log(1e9)
    if gap > 0:
        log_R, s = max(float(law.x[LOG_A]) - math.log(gap), 1e-12), law.s
        log_T = math.log(log_R if s * log_R < 1e-9 else math.expm1(min(s * log_R, 700.0)) / s) - float(law.x[LOG_B])
        start = law.x.copy()
        start[LOG_B] = log_T
        jacobian = chart(start)[1]
        width = min(_width(jacobian.T @ law.information @ jacobian, LOG_B, fixed), 0.7)
        ends = [_time_end(law, start, fixed, side, chart, width, farthest) for side in (-1.0, 1.0)]
        return math.exp(min(log_T, 700.0)), (math.exp(ends[0]), math.exp(ends[1]) if ends[1] < farthest else math.inf)
    return math.inf, (math.inf, math.inf)


def _time_end(
    law: DecayLaw, start: np.ndarray, fixed: tuple[int, ...], side: float, chart: Chart, width: float, farthest: float
) -> float:
    """As `_end`, in the logarithm of the time."""
    limit = threshold(law) * heavy_tails(law, LOG_B, fixed, chart(start)[1])

    def fall(log_T: float, near: np.ndarray) -> tuple[float, np.ndarray]:
        trial = near.copy()
        trial[LOG_B] = log_T
        u, cost, _ = maximise(trial, law.t, law.y, law.correlation, law.lower, (*fixed, LOG_B), chart, 25, 1e-3)
        return 2 * (cost - law.cost), u

    inside, near = float(start[LOG_B]), start
    outside = inside
    for attempt in range(40):
        outside = inside + side * width * (1.0 if attempt < 4 else 1.5 ** (attempt - 3))
        if not -12.0 < outside < farthest:
            return farthest if side > 0 else -12.0
        at_outside, u = fall(outside, near)
        if at_outside >= limit:
            break
        inside, near = outside, u
    for _ in range(14):
        middle = (inside + outside) / 2
        at_middle, u = fall(middle, near)
        if at_middle < limit:
            inside, near = middle, u
        else:
            outside = middle
    return (inside + outside) / 2
