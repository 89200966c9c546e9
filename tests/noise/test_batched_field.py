"""Gradients of many rows at once: the same as one by one, for every kind of loss that takes a different way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tameopt.dynamics.flow import _problem_gradients
from tameopt.problem import Problem


def _network(loss: nn.Module, targets: torch.Tensor, reduction: str = "mean") -> Problem:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return Problem(model, loss, (inputs, targets), reduction=reduction, batch_size=7)


LABELS = torch.arange(12) % 3
SOFT = torch.softmax(torch.arange(36.0, dtype=torch.float64).view(12, 3).sin(), 1)


@pytest.mark.parametrize(
    "problem",
    [
        _network(nn.CrossEntropyLoss(), LABELS),
        _network(nn.CrossEntropyLoss(reduction="sum"), LABELS, "sum"),
        _network(nn.CrossEntropyLoss(reduction="none"), LABELS, "none"),
        _network(nn.CrossEntropyLoss(label_smoothing=0.1), LABELS),
        _network(nn.CrossEntropyLoss(), SOFT),
        _network(nn.MSELoss(), SOFT),
        Problem.from_function(lambda x: x[0].exp() + (x[1] * x[2]).sin(), torch.zeros(3, dtype=torch.float64)),
    ],
    ids=["mean", "sum", "none", "smoothed", "soft", "squares", "function"],
)
def test_rows_together_equal_rows_alone(problem: Problem) -> None:
    rows = torch.randn(3, problem.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = _problem_gradients(problem)(rows)
    # both sum 12 terms of size 1 in float64
    torch.testing.assert_close(together, torch.stack([problem.gradient(row) for row in rows]), rtol=0, atol=1e-13)
