"""Rosenbrock's banana: sum (1 - x_i)^2 + 100 (x_{i+1} - x_i^2)^2, minimum 0 at (1, ..., 1)."""

from __future__ import annotations

import torch

from tameopt.problem import Problem
from tameopt.problems._entry import ProblemEntry


def build(dim: int = 2, seed: int | None = None) -> Problem:
    """From Rosenbrock's own (-1.2, 1, -1.2, ...), or from a standard normal point when a seed is given.

    Raises ValueError when dim < 2.
    """
    if dim < 2:
        raise ValueError(f"dim must be at least 2, got {dim}.")
    theta0 = torch.tensor([-1.2, 1.0] * dim, dtype=torch.float64)[:dim]
    law = "fixed"
    if seed is not None:
        theta0 = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        law = f"standard normal, seed {seed}"

    def F(theta: torch.Tensor) -> torch.Tensor:
        head, tail = theta[:-1], theta[1:]
        return ((1 - head) ** 2 + 100 * (tail - head**2) ** 2).sum()

    return Problem.from_function(F, theta0, name="rosenbrock", initial_law=law)


ENTRY = ProblemEntry(
    name="rosenbrock",
    title="Rosenbrock's curved valley",
    source="H. H. Rosenbrock (1960), The Computer Journal 3(3)",
    build=build,
    training={"optimizer": "SGD", "lr": 0.001, "steps": 5000, "batch_size": None, "schedule": "constant"},
)
