"""The Polyak-Lojasiewicz constant on a path: the largest mu with norm(grad F)^2 >= 2 mu (F - F*) there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.kl.series import LossSeries


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
