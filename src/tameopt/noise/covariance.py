"""The noise of the mini-batch gradient, from the gradients of single samples at a recorded theta.

Sigma(theta) = 1/n sum_i (grad l_i - grad F)(grad l_i - grad F)^T is the covariance of one sample drawn uniformly; a
batch of b samples has Sigma/b with replacement, Sigma/b (n-b)/(n-1) without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.problem import Problem

_CHUNK_BYTES = 64 << 20  # our choice: per-sample gradients held at once


@dataclass(frozen=True)
class NoiseAt:
    """The noise of one sample's gradient at one theta.

    trace: tr Sigma(theta). standard_error: of `trace`, 0 when all n samples were used. gradient_norm: norm of
    grad F(theta). samples: how many were used.
    """

    trace: float
    standard_error: float
    gradient_norm: float
    samples: int

    @property
    def scale(self) -> float:
        """tr Sigma / norm(grad F)^2: the batch size at which noise and gradient are equally large."""
        return self.trace / self.gradient_norm**2 if self.gradient_norm > 0 else math.inf


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
    if m >= n:
        return NoiseAt(float(squares.mean()), 0.0, norm, n)
    # drawn without replacement: the finite-population factor (n - m)/n
    error = float(squares.std()) / math.sqrt(m) * math.sqrt((n - m) / n) if m > 1 else math.inf
    return NoiseAt(float(squares.mean()), error, norm, m)


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
