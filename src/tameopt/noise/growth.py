"""How the noise grows: tr Sigma <= A + B norm(grad F)^2 + C (F - F*) over the iterates of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.extras import require
from tameopt.noise._display import HtmlText


@dataclass(frozen=True)
class GrowthModel(HtmlText):
    """A fitted growth model.

    A, B, C: >= 0, least squares; intervals: of the three, which hold all at once in about 90% of fits. explained:
    share of the variance of tr Sigma that it explains. factor: what multiplies the fit to bound every point that was
    fitted, so that factor * (A + B norm(grad F)^2 + C (F - F*)) is a bound on those points (and only those).
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
    least value seen (then C and A trade off). The intervals are those of least squares without the bounds, for
    errors of unlike size (HC3, MacKinnon and White 1985; Student's t with m - 3 degrees of freedom), each at 98.3%
    so that the three hold together (Bonferroni), cut off at 0. Nominally 95% of fits; simulated, 88% to 91%
    at 20 independent points and 91% to 93% at 60 (`benchmarks/noise_tests.py growth`). Points of one run are
    dependent: then they are more optimistic.

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
    nnls = require("scipy.optimize", "the growth model").nnls
    y = columns[0]
    design = np.stack([np.ones(m), columns[1], columns[2]], axis=1)
    scale = np.maximum(design.max(0), 1e-300)

    best = np.asarray(nnls(design / scale, y)[0]) / scale
    low, high = _intervals(design / scale, y, best * scale) / scale
    predicted = design @ best
    spread = float(np.square(y - y.mean()).sum())
    explained = 1.0 - float(np.square(y - predicted).sum()) / spread if spread > 0 else 1.0
    factor = float((y / np.maximum(predicted, 1e-300)).max()) if y.max() > 0 else 1.0
    intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    A, B, C = (float(number) for number in best)
    return GrowthModel(A, B, C, (intervals[0], intervals[1], intervals[2]), explained, factor, m)


def _intervals(design: np.ndarray, y: np.ndarray, best: np.ndarray, level: float = 0.95) -> np.ndarray:
    """(2, 3) lower and upper ends for the coefficients of y on design: (m, 3), simultaneous at `level`, >= 0.

    They hold `best`, the estimate under the bounds, in any case. Infinite where the columns do not tell apart.
    """
    m, p = design.shape
    if np.linalg.matrix_rank(design) < p:
        return np.stack([np.zeros(p), np.full(p, np.inf)])
    inverse = np.linalg.inv(design.T @ design)
    free = inverse @ design.T @ y
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    scaled = (y - design @ free) / np.maximum(1.0 - leverage, 1e-12)
    spread = np.sqrt(np.diag(inverse @ (design.T * scaled**2) @ design @ inverse))
    half = require("scipy.special", "the growth model").stdtrit(m - p, 1 - (1 - level) / (2 * p)) * spread
    return np.stack([np.minimum(np.maximum(free - half, 0.0), best), np.maximum(free + half, best)])
