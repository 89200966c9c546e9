"""How heavy the tail of the noise is, per step and without the artefact of pooling coordinates.

Pooling the coordinates of an anisotropic Gaussian vector into one sample looks heavy-tailed, as a mixture of scales.
Here one number a step (the norm, or one fixed projection) is used, beside controls of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tameopt.extras import require
from tameopt.noise._display import HtmlText


@dataclass(frozen=True)
class TailIndex(HtmlText):
    """Hill's estimate of alpha in P(X > x) ~ x^-alpha.

    alpha, interval: the estimate from the k largest of `sample_size` numbers, its asymptotic 95% interval.
    gaussian, student3: the middle 90% of the same estimate for samples of this size of the absolute value of a
    Gaussian and of Student's t with 3 degrees of freedom (true index 3).
    """

    alpha: float
    interval: tuple[float, float]
    k: int
    sample_size: int
    gaussian: tuple[float, float]
    student3: tuple[float, float]

    @property
    def verdict(self) -> Literal["heavy", "light", "undecided"]:
        """ "heavy": below what a Gaussian sample gives and inside or below Student's; "light": inside or above the
        Gaussian's and above Student's; else "undecided" (the controls overlap: too few numbers)."""
        if self.alpha < self.gaussian[0] and self.alpha <= self.student3[1]:
            return "heavy"
        if self.alpha >= self.gaussian[0] and self.alpha > self.student3[1]:
            return "light"
        return "undecided"

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"TailIndex({self.verdict}: {self.alpha:.2f} [{low:.2f}, {high:.2f}], {self.k} of {self.sample_size}; "
            f"Gaussian {self.gaussian[0]:.2f} to {self.gaussian[1]:.2f}, t3 {self.student3[0]:.2f} to "
            f"{self.student3[1]:.2f})"
        )


def tail_index(sample: np.ndarray, *, k: int | None = None, seed: int = 0, controls: int = 4_000) -> TailIndex:
    """Hill's tail index of one number a step, with controls.

    sample: (m,) float, m >= 50: norms of the noise, or absolute values of one fixed projection; never the coordinates
    pooled. Zeros are dropped. k: largest values used, by default m^(2/3), at least 10. controls: simulated samples of
    each control law (our choice: the 5% quantile of 4,000 is known to 0.35 points).

    Raises ValueError for fewer than 50 positive finite numbers, MissingExtraError without scipy.

    >>> rng = np.random.default_rng(0)
    >>> tail_index(np.abs(rng.standard_t(3, 5_000))).verdict
    'heavy'
    """
    numbers = np.abs(np.asarray(sample, dtype=np.float64).reshape(-1))
    if not np.isfinite(numbers).all():
        raise ValueError("sample must be finite, got infinities or NaN.")
    numbers = numbers[numbers > 0]
    m = numbers.size
    if m < 50:
        raise ValueError(f"sample must hold at least 50 positive numbers, one a step, got {m}: record more steps.")
    used = int(k if k is not None else max(10, round(m ** (2 / 3))))
    if not 2 <= used < m:
        raise ValueError(f"k must be in [2, {m - 1}], got {used}.")
    alpha = float(hill(numbers[None], used)[0])
    half = 1.96 * alpha / np.sqrt(used)
    special, rng = require("scipy.special", "the tail index"), np.random.default_rng(seed)
    bands = []
    for tail in (lambda p: -special.ndtri(p / 2), lambda p: -special.stdtrit(3, p / 2)):
        found = np.quantile(_hill_of_tops(tail(_smallest_uniforms(rng, controls, m, used))), [0.05, 0.95])
        bands.append((float(found[0]), float(found[1])))
    return TailIndex(alpha, (alpha - half, alpha + half), used, m, bands[0], bands[1])


def _smallest_uniforms(rng: np.random.Generator, count: int, m: int, k: int) -> np.ndarray:
    """(count, k+1) the k+1 smallest of m uniform numbers on (0, 1), increasing: sums of exponentials (Renyi 1953)."""
    sums = np.cumsum(rng.exponential(size=(count, k + 1)), axis=1)
    return sums / (sums[:, -1:] + rng.gamma(m - k, size=(count, 1)))


def hill(rows: np.ndarray, k: int) -> np.ndarray:
    """(c,) Hill's estimate from the k largest of each row of (c, m) positive numbers (Hill 1975)."""
    top = np.partition(rows, rows.shape[1] - k - 1, axis=1)[:, -k - 1 :]
    return _hill_of_tops(np.sort(top, axis=1)[:, ::-1])


def _hill_of_tops(top: np.ndarray) -> np.ndarray:
    """(c,) Hill's estimate from (c, k+1) decreasing numbers, the largest of a sample."""
    return 1.0 / np.maximum(np.log(top[:, :-1]).mean(1) - np.log(top[:, -1]), 1e-300)
