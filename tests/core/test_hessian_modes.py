"""How Hessian products are computed: the faster way, and only one that is right."""

from __future__ import annotations

from typing import Any

import torch

from tameopt import Problem
from tameopt.hessian_modes import FORWARD, REVERSE


class WrongForwardDerivative(torch.autograd.Function):
    """The square, whose forward derivative somebody got 1% wrong."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2.02 * x * tangent


def test_a_forward_derivative_that_is_wrong_is_passed_over() -> None:
    problem = Problem.from_function(lambda t: WrongForwardDerivative.apply(t).square().sum(), torch.ones(3))
    mode = problem.hessian_mode()
    assert dict(mode.seconds).keys() == {REVERSE} and mode.narrow == mode.wide == REVERSE
    assert torch.allclose(problem.hessian() @ torch.ones(3), torch.full((3,), 12.0))  # of t^4


def test_both_ways_are_timed_where_they_agree() -> None:
    problem = Problem.from_function(lambda t: t.square().square().sum(), torch.ones(3))
    assert dict(problem.hessian_mode().seconds).keys() == {FORWARD, REVERSE}
