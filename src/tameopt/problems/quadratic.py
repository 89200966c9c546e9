"""F = 1/2 theta^T A theta with a prescribed spectrum: everything about it is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tameopt.problem import Problem
from tameopt.problems._entry import ProblemEntry


def build(eigenvalues: Sequence[float] = (1.0, 2.0, 5.0, 10.0), seed: int = 0) -> Problem:
    """A = diag(eigenvalues), theta_0 standard normal.

    Gradient descent contracts coordinate j by 1 - alpha lambda_j a step; it is stable below 2/max lambda_j.

    Raises ValueError when there is no eigenvalue.
    """
    spectrum = torch.tensor(list(eigenvalues), dtype=torch.float64)
    if spectrum.numel() == 0:
        raise ValueError("eigenvalues must hold at least one number, got none.")
    generator = torch.Generator().manual_seed(seed)
    theta0 = torch.randn(spectrum.numel(), dtype=torch.float64, generator=generator)

    def F(theta: torch.Tensor) -> torch.Tensor:
        return 0.5 * (spectrum.to(theta) * theta * theta).sum()

    return Problem.from_function(F, theta0, name="quadratic", initial_law=f"standard normal, seed {seed}")


ENTRY = ProblemEntry(
    name="quadratic",
    title="1/2 theta^T A theta with eigenvalues 1, 2, 5, 10",
    source="textbook",
    build=build,
    training={"optimizer": "SGD", "lr": 0.1, "steps": 200, "batch_size": None, "schedule": "constant"},
)
