"""x^2/2 + y^4/4 - y^2/2: one strict saddle at 0, minima at (0, 1) and (0, -1) with F = -1/4."""

from __future__ import annotations

import torch

from tameopt.problem import Problem
from tameopt.problems._entry import ProblemEntry


def build(start: tuple[float, float] | None = None, seed: int = 0) -> Problem:
    """From `start`, or from a standard normal point.

    The Hessian is diag(1, 3 y^2 - 1): diag(1, -1) at the saddle, diag(1, 2) at the minima.
    """
    generator = torch.Generator().manual_seed(seed)
    theta0 = torch.randn(2, dtype=torch.float64, generator=generator)
    if start is not None:
        theta0 = torch.tensor(start, dtype=torch.float64)

    def F(theta: torch.Tensor) -> torch.Tensor:
        x, y = theta[0], theta[1]
        return x**2 / 2 + y**4 / 4 - y**2 / 2

    law = "fixed" if start is not None else f"standard normal, seed {seed}"
    return Problem.from_function(F, theta0, name="saddle", initial_law=law)


ENTRY = ProblemEntry(
    name="saddle",
    title="x^2/2 + y^4/4 - y^2/2, a strict saddle between two minima",
    source="J. D. Lee, M. Simchowitz, M. I. Jordan, B. Recht (2016), COLT, section 2",
    build=build,
    training={"optimizer": "SGD", "lr": 0.1, "steps": 300, "batch_size": None, "schedule": "constant"},
)
