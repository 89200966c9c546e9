"""Goldstein stationarity: is there a small element in the hull of the gradients near theta?

The Goldstein delta-subdifferential is the closed hull of the Clarke subdifferentials in the ball of radius delta.
Gradients sampled in the ball lie in it, so the least norm of *their* hull bounds the distance to 0 from above: a
small one certifies (delta, eps)-stationarity, a large one certifies nothing (Goldstein 1977; Burke, Lewis,
Overton 2005). Full-batch gradients only: the hull of noisy ones is a different set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tameopt.nonsmooth.min_norm import MinNorm, min_norm


@dataclass(frozen=True)
class Goldstein:
    """An upper bound on the distance from 0 to the Goldstein delta-subdifferential at theta.

    eps: the bound, the least norm in the hull of `samples` gradients in the ball of radius `delta`.
    centre: the norm of the gradient at theta itself, for comparison.
    descent: (d,) the least-norm element; minus it is a descent direction at scale delta when eps is not small.
    """

    delta: float
    eps: float
    centre: float
    samples: int
    solution: MinNorm
    descent: torch.Tensor

    def __repr__(self) -> str:
        return f"Goldstein(delta={self.delta:.3g}, eps <= {self.eps:.4g}, {self.samples} gradients)"


def in_ball(dim: int, radius: float, generator: torch.Generator) -> torch.Tensor:
    """(dim,) float64, uniform in the ball of that radius around 0."""
    direction = torch.randn(dim, dtype=torch.float64, generator=generator)
    share = torch.rand(1, dtype=torch.float64, generator=generator) ** (1.0 / dim)
    return direction / direction.norm() * (radius * share)


def goldstein(
    gradient: Callable[[torch.Tensor], torch.Tensor],
    theta: torch.Tensor,
    delta: float,
    *,
    samples: int = 32,
    generator: torch.Generator,
    seconds: float = float("inf"),
) -> Goldstein:
    """Sample gradients in the ball of radius delta around theta: (d,) and take the least norm of their hull.

    gradient: theta -> (d,) the full-batch gradient; almost every point is one where F is differentiable.
    samples: how many (our choice: 32; d + 1 would be needed to see every face in general).
    seconds: stop early when they are spent (at least 2 gradients are taken).

    Returns an *upper* bound on the distance, exact up to rounding of the gradients; one-sided.
    Cost: `samples` gradients. Raises ValueError for delta <= 0.
    """
    if not delta > 0:
        raise ValueError(f"delta must be > 0, got {delta}: it is the radius of the ball that is sampled.")
    begun = time.perf_counter()
    centre = gradient(theta).detach()
    rows = []
    for number in range(samples):
        if number >= 2 and time.perf_counter() - begun > seconds:
            break
        shift = in_ball(theta.numel(), delta, generator).to(theta.device, theta.dtype)
        rows.append(gradient(theta + shift).detach())
    solution = min_norm(torch.stack(rows))
    descent = torch.as_tensor(solution.point, dtype=theta.dtype, device=theta.device)
    return Goldstein(delta, solution.distance, float(centre.norm()), len(rows), solution, descent)
