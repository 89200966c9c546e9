"""The trace of an objective: which decisions of Python it follows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tameopt.nonsmooth.graph import TraceError, trace
from tameopt.problem import Problem


class Branching(nn.Module):
    """Python decides by a tensor of some origin which way to go."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.origin = origin
        self.register_buffer("switch", torch.tensor([1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decides = {
            "constant": lambda: torch.triu(torch.ones(2, 2)).sum() - 2,
            "buffer": lambda: self.switch,
            "parameter": lambda: self.linear.weight.detach().sum(),
            "batch": lambda: x.sum(),
            "chance": lambda: torch.rand(1) + 1,
        }[self.origin]()
        h = self.linear(x)
        return h.relu() if decides.item() > 0 else h.abs()


@pytest.mark.parametrize("origin", ["constant", "buffer", "parameter", "batch", "chance"])
def test_python_decides_by_constants_only(origin):
    torch.manual_seed(0)
    problem = Problem(Branching(origin), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 1)))
    batch = next(iter(problem.batches))
    if origin in ("constant", "buffer"):
        assert "aten.relu.default" in [step.op for step in trace(problem, problem.theta, batch).steps]
    else:
        with pytest.raises(TraceError, match="depends on the parameters, the batch or chance"):
            trace(problem, problem.theta, batch)
