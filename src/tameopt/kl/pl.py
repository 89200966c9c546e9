"""The Polyak-Lojasiewicz constant on a path: the largest mu with norm(grad F)^2 >= 2 mu (F - F*) there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.kl.fit import fit
from tameopt.kl.series import LossSeries, loss_series
from tameopt.run import Run


@dataclass(frozen=True)
class PathPL:
    """The PL constant along a recorded path.

    mu: the least norm(grad F)^2 / (2 (F - F*)) over the points used; interval: over the interval of F*;
    step: where it is attained; mu_at: (m,) the ratio at each point (NaN where F - F* is within rounding).
    """

    mu: float
    interval: tuple[float, float]
    step: int
    mu_at: np.ndarray


def _ratios(series: LossSeries, F_star: float) -> np.ndarray:
    excess = series.values - F_star
    floor = 64 * np.finfo(np.float64).eps * np.abs(series.values)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = series.gradient_norms**2 / (2 * excess)
    return np.where(excess > floor, ratio, np.nan)


def path_pl(series: LossSeries, F_star: float, F_star_interval: tuple[float, float]) -> PathPL | None:
    """The PL constant on the recorded path, or None when no point has a gradient and an excess beyond rounding.

    Larger F* gives larger ratios, so the interval of F* maps to an interval of mu end by end; an upper end of F*
    above the least value is cut there.
    """
    at = _ratios(series, F_star)
    if not np.any(np.isfinite(at)):
        return None
    worst = int(np.nanargmin(at))
    ends = []
    for end in F_star_interval:
        ratios = _ratios(series, min(end, float(series.values.min())))
        ends.append(float(np.nanmin(ratios)) if np.any(np.isfinite(ratios)) else float(at[worst]))
    return PathPL(float(at[worst]), (min(ends[0], at[worst]), max(ends[1], at[worst])), int(series.steps[worst]), at)


@dataclass(frozen=True)
class Constants:
    """PL, error-bound and quadratic-growth constants along a path, with the limit point in place of the minimisers.

    pl: least norm(grad F)^2 / (2 (F - F*)); error_bound: least norm(grad F) / distance; growth: least
    2 (F - F*) / distance^2; each over `steps` recorded points. pl implies growth >= pl, and error_bound >= pl
    (Karimi, Nutini and Schmidt 2016; the distance is to the set of minimisers, at most the distance used here).
    """

    pl: float
    error_bound: float
    growth: float
    steps: int


def pl_constant(
    source: Run | LossSeries, F_star: float | None = None, F_star_interval: tuple[float, float] | None = None
) -> PathPL:
    """The PL constant on a recorded path: the largest mu with norm(grad F)^2 >= 2 mu (F - F*) there.

    F_star: the limit value when you know it (0 for interpolation); else the one that `kl.fit` finds, with its
    interval.

    Raises ValueError when F* is neither given nor decided by the fit, or no point has a gradient and an excess.
    """
    series = loss_series(source) if isinstance(source, Run) else source
    if F_star is None:
        fitted = fit(series)
        if fitted.regime not in ("linear", "sublinear", "at rest"):
            raise ValueError(f"F_star must be given: the run's fit is {fitted.regime!r}, {fitted.reason}.")
        series = series.tail(series.size - fitted.points)
        F_star, F_star_interval = fitted.F_star, fitted.F_star_interval
    found = path_pl(series, F_star, F_star_interval or (F_star, F_star))
    if found is None:
        raise ValueError("the run must have recorded full_gradient_norm at a step above F_star; it has none.")
    return found


def path_constants(series: LossSeries, distances: np.ndarray, F_star: float) -> Constants:
    """PL, error-bound and quadratic-growth constants over the recorded points, in one pass.

    distances: (m,) to the limit point, at the series' steps.

    Raises ValueError when no point has a gradient, an excess and a distance.
    """
    excess = series.values - F_star
    use = (excess > 1e-12 * np.abs(series.values)) & (distances > 0) & np.isfinite(series.gradient_norms)
    if not use.any():
        raise ValueError("no recorded point has a gradient, an excess above F_star and a distance to the limit.")
    norms, excess, distances = series.gradient_norms[use], excess[use], distances[use]
    return Constants(
        float((norms**2 / (2 * excess)).min()),
        float((norms / distances).min()),
        float((2 * excess / distances**2).min()),
        int(use.sum()),
    )
