"""The KL exponent as a run sees it: the slope of log norm(grad F) on log(F - F*)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.kl.bootstrap import resample
from tameopt.kl.series import LossSeries

_NONE = (float("nan"), float("nan"))


@dataclass(frozen=True)
class GradientLaw:
    """norm(grad F) = c (F - F*)^theta along the recorded path, c = exp(log_c).

    theta and F_star with 95% block-bootstrap intervals; decades: log10 of the range of F - F* that was seen;
    points: how many recorded points; scatter: standard deviation of log norm(grad F) about the line;
    mask: which points of the series were used.

    The run sees its own arc: theta is a lower estimate of the exponent at the limit point (the exponent is the
    largest over all arcs), never a certificate.
    """

    theta: float
    theta_interval: tuple[float, float]
    log_c: float
    F_star: float
    F_star_interval: tuple[float, float]
    decades: float
    points: int
    scatter: float
    mask: np.ndarray

    @property
    def usable(self) -> bool:
        """Whether F - F* spanned a decade and the interval is narrower than 1/2 (our choices)."""
        return self.decades >= 1.0 and self.theta_interval[1] - self.theta_interval[0] <= 0.5


def _regress(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slopes, intercepts and residual sums of y (R, m) on each row of x (G, m): (G, R) each."""
    mean_x = x.mean(axis=1, keepdims=True)
    centred = x - mean_x
    power = (centred**2).sum(axis=1)
    mean_y = y.mean(axis=1)
    slopes = (centred @ y.T) / np.maximum(power, 1e-300)[:, None]
    intercepts = mean_y[None] - slopes * mean_x
    sums = ((y - mean_y[:, None]) ** 2).sum(axis=1)[None] - slopes**2 * power[:, None]
    return slopes, intercepts, np.maximum(sums, 0.0)


def _gaps(values: np.ndarray, lower: float | None) -> np.ndarray:
    """Candidate distances min F - F*, geometric, down to F's rounding and no further than the lower bound."""
    least, spread = float(values.min()), float(np.ptp(values))
    near = max(spread * 1e-14, 8 * np.finfo(np.float64).eps * float(np.abs(values).max()))
    far = 10 * spread if lower is None else max(min(10 * spread, least - lower), 2 * near)
    return np.geomspace(near, far, 60)


def _best_gap(values: np.ndarray, y: np.ndarray, lower: float | None) -> np.ndarray:
    """(90,) gaps around the best one: the coarse grid narrowed three times about its least residual sum."""
    gaps = _gaps(values, lower)
    far = gaps[-1]
    for width in (8.0, 1.5, 1.1):
        sums = _regress(_log_excess(values, gaps), y[None])[2][:, 0]
        best = gaps[int(np.argmin(sums))]
        gaps = np.minimum(np.geomspace(best / width, best * width, 45), far)
    return np.unique(np.concatenate([gaps, _gaps(values, lower)]))


def _log_excess(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    excess: np.ndarray = np.log((values - values.min())[None] + gaps[:, None])
    return excess


def gradient_law(
    series: LossSeries,
    *,
    lower: float | None = None,
    F_star: float | None = None,
    seed: int = 0,
    replicates: int = 300,
) -> GradientLaw | None:
    """Fit log norm(grad F) = log c + theta log(F - F*), F* profiled; None with fewer than 10 usable points.

    series: a tail of the record with its gradient norms. lower: a known lower bound of F. F_star: a limit
    value fitted before; points within rounding of it are left out.
    """
    mask = np.isfinite(series.gradient_norms) & (series.gradient_norms > 0) & np.isfinite(series.values)
    if F_star is not None:
        # below that F - F* is mostly rounding, and its logarithm noise
        mask &= series.values - F_star > 1e3 * np.finfo(np.float64).eps * np.abs(series.values)
    if int(mask.sum()) < 10 or float(np.ptp(series.values[mask])) == 0.0:
        return None
    values, y = series.values[mask], np.log(series.gradient_norms[mask])
    gaps = _best_gap(values, y, lower)
    candidates = float(values.min()) - gaps
    x = _log_excess(values, gaps)
    slopes, intercepts, sums = (array[:, 0] for array in _regress(x, y[None]))
    best = int(np.argmin(sums))
    fitted = intercepts[best] + slopes[best] * x[best]
    residuals = y - fitted
    generator = np.random.default_rng(seed)
    draws = fitted + resample(residuals, replicates, generator, 3)
    boot_slopes, _, boot_sums = _regress(x, draws)
    chosen = np.argmin(boot_sums, axis=0)
    thetas = boot_slopes[chosen, np.arange(replicates)]
    low, high = np.quantile(thetas, [0.025, 0.975])
    star_low, star_high = np.quantile(candidates[chosen], [0.025, 0.975])
    excess = values - candidates[best]
    return GradientLaw(
        float(slopes[best]),
        (float(low), float(high)),
        float(intercepts[best]),
        float(candidates[best]),
        (float(star_low), float(star_high)),
        float(np.log10(excess.max() / excess.min())),
        int(mask.sum()),
        float(residuals.std()),
        mask,
    )
