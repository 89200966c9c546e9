"""The noise of the mini-batch gradient, from the gradients of single samples at a recorded theta.

Sigma(theta) = 1/n sum_i (grad l_i - grad F)(grad l_i - grad F)^T is the covariance of one sample drawn uniformly; a
batch of b samples has Sigma/b with replacement, Sigma/b (n-b)/(n-1) without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.extras import require
from tameopt.noise._display import HtmlText
from tameopt.problem import Problem

_CHUNK_BYTES = 64 << 20  # our choice: per-sample gradients held at once


@dataclass(frozen=True)
class NoiseAt(HtmlText):
    """The noise of one sample's gradient at one theta.

    trace: tr Sigma(theta). interval: of `trace`, nominally 95% (`mean_interval`), the number itself when all n
    samples were used; standard_error: 0 then. gradient_norm: norm of grad F(theta). samples: how many were used.
    """

    trace: float
    interval: tuple[float, float]
    standard_error: float
    gradient_norm: float
    samples: int

    @property
    def scale(self) -> float:
        """tr Sigma / norm(grad F)^2: the batch size at which noise and gradient are equally large."""
        return self.trace / self.gradient_norm**2 if self.gradient_norm > 0 else math.inf

    def __repr__(self) -> str:
        low, high = self.interval
        width = "exact" if low == high else f"[{low:.4g}, {high:.4g}]"
        return (
            f"NoiseAt(tr Sigma = {self.trace:.4g} {width} from {self.samples:,} samples, "
            f"norm(grad F) = {self.gradient_norm:.4g}, equal at a batch of {self.scale:.3g})"
        )


def noise_at(
    problem: Problem, theta: torch.Tensor, *, max_samples: int | None = None, generator: torch.Generator | None = None
) -> NoiseAt:
    """tr Sigma and norm(grad F) at theta: (d,), exact up to rounding when all n samples are used.

    max_samples: use so many samples drawn without replacement by `generator` instead; then `standard_error` is
    that of the trace. Costs one full gradient and as many sample gradients.

    Raises ValueError for a plain function, which has no samples, and for a loss that is a sum (its scale is
    n times the mean's).
    """
    if problem.is_function:
        raise ValueError("a plain function has no samples, so no sampling noise: give a model, a loss and data.")
    if problem.reduction == "sum":
        raise ValueError(
            "the noise is defined for a mean loss, this problem's loss is the sum over the samples: use "
            "reduction='mean' with the step size times n."
        )
    n, total = problem.n, max_samples or problem.n
    if total >= n:
        chosen = torch.arange(n)
    else:
        if generator is None:
            raise ValueError(f"a generator is required to draw {total} of {n} samples, got none.")
        chosen = torch.randperm(n, generator=generator)[:total]
    gradient = problem.gradient(theta).to(torch.float64)
    squares = _square_distances(problem, theta, chosen, gradient)
    norm, m = float(gradient.norm()), chosen.numel()
    trace = float(squares.mean())
    if m >= n:
        return NoiseAt(trace, (trace, trace), 0.0, norm, n)
    # drawn without replacement: the finite-population factor (n - m)/n
    left = (n - m) / n
    error = float(squares.std()) / math.sqrt(m) * math.sqrt(left) if m > 1 else math.inf
    return NoiseAt(trace, mean_interval(squares.cpu().numpy(), 1.0 - left), error, norm, m)


def mean_interval(numbers: np.ndarray, drawn: float) -> tuple[float, float]:
    """A nominal 95% interval for the mean of a population >= 0 from (m,) drawn numbers, a share `drawn` of it.

    Student's interval has too short an upper arm for skewed numbers, as squared norms are. Johnson's statistic takes
    the skewness out to first order; Hall (1992) makes it invertible. No interval knows what a draw did not show:
    where a few samples in a thousand carry the mean, the truth is above it more often
    (`benchmarks/noise_tests.py covariance` says how often).

    >>> low, high = mean_interval(np.arange(1.0, 101.0), 0.0)
    >>> bool(low < 50.5 < high)
    True
    """
    m, mean, spread = numbers.size, float(numbers.mean()), float(numbers.std(ddof=1)) if numbers.size > 1 else 0.0
    if m < 2:
        return 0.0, math.inf
    if spread == 0:
        return mean, mean
    skewness = float(((numbers - mean) ** 3).mean()) / spread**3
    quantile = require("scipy.special", "the interval of the covariance").stdtrit(m - 1, 0.975)
    ends = []
    for t in (quantile, -quantile):
        level = t / math.sqrt(m) - skewness / (6 * m)
        third = skewness / 3
        shift = (
            (math.copysign(abs(1 + 3 * third * level) ** (1 / 3), 1 + 3 * third * level) - 1) / third
            if (abs(third) > 1e-9)
            else level
        )
        ends.append(mean - spread * math.sqrt(1.0 - drawn) * shift)
    return max(0.0, ends[0]), ends[1]


def _square_distances(
    problem: Problem, theta: torch.Tensor, chosen: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """(m,) norm(grad l_i - grad F)^2 in float64 over the chosen samples."""
    rows = max(1, _CHUNK_BYTES // (8 * problem.dim))
    return torch.cat(
        [
            (problem.sample_gradients(theta, part).to(torch.float64) - gradient).square().sum(1)
            for part in chosen.split(rows)
        ]
    )


def batch_factor(n: int, batch_size: int, replacement: bool) -> float:
    """What multiplies Sigma for a batch: 1/b with replacement, (n-b)/(b (n-1)) without.

    >>> batch_factor(11, 5, replacement=False)
    0.12
    """
    if batch_size < 1 or (not replacement and batch_size > n):
        raise ValueError(f"batch_size must be at least 1, and at most n = {n} without replacement, got {batch_size}.")
    if replacement:
        return 1.0 / batch_size
    return 0.0 if n == 1 else (n - batch_size) / (batch_size * (n - 1))
