"""How the noise grows: tr Sigma <= A + B norm(grad F)^2 + C (F - F*) over the iterates of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.extras import require
from tameopt.noise._display import HtmlText

_ROUNDS = 3  # our choice: a fourth moved no coverage by more than the simulation's error
_LEAST_FIT = 0.05  # our choice: share of the mean fit below which a weight grows no further


@dataclass(frozen=True)
class GrowthModel(HtmlText):
    """A fitted growth model.

    A, B, C: >= 0, least squares of relative errors; intervals: of the three, which hold all at once, nominally in 95%
    of fits. explained: share of the variance of tr Sigma that it explains (0 where it is worse than the mean).
    factor: what multiplies the fit to bound every point that was fitted, so that
    factor * (A + B norm(grad F)^2 + C (F - F*)) is a bound on those points (and only those).
    """

    A: float
    B: float
    C: float
    intervals: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    explained: float
    factor: float
    sample_size: int

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} = {number:.3g} [{low:.3g}, {high:.3g}]"
            for name, number, (low, high) in zip("ABC", (self.A, self.B, self.C), self.intervals, strict=True)
        )
        return f"GrowthModel({parts}; {self.explained:.0%} explained, {self.sample_size} points)"


def growth_model(traces: np.ndarray, gradient_squares: np.ndarray, gaps: np.ndarray) -> GrowthModel:
    """Fit tr Sigma = A + B norm(grad F)^2 + C (F - F*) with A, B, C >= 0.

    traces, gradient_squares, gaps: (m,) at the iterates, m >= 6; gaps are F - F* >= 0 with F* a lower bound or the
    least value seen (then C and A trade off). tr Sigma falls by decades along a run and its errors fall with it:
    least squares with weights 1/fit^2, found in three rounds. The intervals are those of the fit without the bounds,
    right for errors of any size: HC2 (MacKinnon and White 1985), Student's t with the degrees of freedom that the
    leverages leave (Bell and McCaffrey 2002), each at 98.3% so that the three hold together (Bonferroni), cut off
    at 0. With m - 3 degrees of freedom and no weights, a few points with large leverage and large errors decide, and
    the intervals hold in 88% to 93% of fits; simulated, these hold in 93% to 98% at 20 and 60 independent
    points (`benchmarks/noise_tests.py growth`). Points of one run are dependent: then they are more
    optimistic.

    Raises ValueError for fewer points or negative numbers, MissingExtraError without scipy.
    """
    columns = [np.asarray(column, dtype=np.float64) for column in (traces, gradient_squares, gaps)]
    m = columns[0].size
    if m < 6 or any(column.shape != (m,) for column in columns):
        raise ValueError(
            f"at least 6 points are needed, all of one length, got {[column.size for column in columns]}."
        )
    if any((column < 0).any() or not np.isfinite(column).all() for column in columns):
        raise ValueError("traces, squared gradients and gaps must be finite and >= 0.")
    y = columns[0]
    design = np.stack([np.ones(m), columns[1], columns[2]], axis=1)
    scale = np.maximum(design.max(0), 1e-300)
    scaled, size = design / scale, max(float(y.max()), 1e-300)
    best, weights = _fit(scaled, y / size)
    low, high = _intervals(scaled * weights[:, None], y / size * weights, best) * size / scale
    best = best * size / scale
    predicted = design @ best
    spread = float(np.square(y - y.mean()).sum())
    explained = 1.0 - float(np.square(y - predicted).sum()) / spread if spread > 0 else 1.0
    factor = float((y / np.maximum(predicted, 1e-300)).max()) if y.max() > 0 else 1.0
    intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    A, B, C = (float(number) for number in best)
    return GrowthModel(A, B, C, (intervals[0], intervals[1], intervals[2]), max(0.0, explained), factor, m)


def _fit(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((3,) coefficients >= 0, (m,) root weights 1/fit) of y on design: (m, 3)."""
    nnls = require("scipy.optimize", "the growth model").nnls
    weights = np.ones(y.size)
    for _ in range(_ROUNDS):
        predicted = design @ np.asarray(nnls(design * weights[:, None], y * weights)[0])
        weights = 1.0 / np.maximum(predicted, max(_LEAST_FIT * float(predicted.mean()), 1e-300))
        weights /= weights.max()
    return np.asarray(nnls(design * weights[:, None], y * weights)[0]), weights


def _intervals(design: np.ndarray, y: np.ndarray, best: np.ndarray, level: float = 0.95) -> np.ndarray:
    """(2, 3) lower and upper ends for the coefficients of y on design: (m, 3), simultaneous at `level`, >= 0.

    They hold `best`, the estimate under the bounds, in any case. Infinite where the columns do not tell apart.
    """
    m, p = design.shape
    if np.linalg.matrix_rank(design) < p:
        return np.stack([np.zeros(p), np.full(p, np.inf)])
    inverse = np.linalg.inv(design.T @ design)
    solve = inverse @ design.T
    free = solve @ y
    hat = design @ solve
    left = np.maximum(1.0 - np.diag(hat), 1e-12)
    parts = np.square(solve) / left  # the variances are sums of these times squared residuals
    spread = np.sqrt(parts @ np.square(y - design @ free))
    # degrees of freedom: the mean and variance that such a sum has for errors of one size, matched to a chi-square
    squares = np.square(np.eye(m) - hat)
    freedom = (parts @ left) ** 2 / np.einsum("im,mn,in->i", parts, squares, parts)
    quantile = require("scipy.special", "the growth model").stdtrit(freedom, 1 - (1 - level) / (2 * p))
    half = quantile * spread
    return np.stack([np.minimum(np.maximum(free - half, 0.0), best), np.maximum(free + half, best)])
