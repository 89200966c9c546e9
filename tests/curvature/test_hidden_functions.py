"""Nothing is proved of a function that hides what it does: in a branch not taken, outside torch, behind autodiff."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tameopt.curvature.lipschitz_box import lipschitz_on_box
from tameopt.curvature.rigorous import NoProof, PointProof, critical_points_in_box, prove_point
from tameopt.curvature.tape import NotOnTapeError, tape_of
from tameopt.evidence import Verdict
from tameopt.problem import Problem

F64 = torch.float64
Function = Callable[[torch.Tensor], torch.Tensor]


def problem_of(function: Function, theta: list[float]) -> Problem:
    return Problem.from_function(function, torch.tensor(theta, dtype=F64))


def square(t: torch.Tensor) -> torch.Tensor:
    return (t * t).sum()


class Lie(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 0 * gradient


def far(otherwise: Function) -> Function:
    """t^2 around 0, something else beyond 50: no point near theta shows it."""
    return lambda t: torch.where(t[0] > 50, otherwise(t), square(t))


def other_data(t: torch.Tensor) -> torch.Tensor:
    w = t * 1.0
    w.data = torch.ones(2, dtype=F64)
    return (w * w * t).sum()


def without_gradient(t: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        z = t * t
    return (t - 1).square().sum() + z.sum()


def hooked(t: torch.Tensor) -> torch.Tensor:
    z = t * t
    if z.requires_grad:
        z.register_hook(lambda gradient: -gradient)
    return z.sum()


HIDDEN: dict[str, tuple[Function, str]] = {
    "numpy": (lambda t: square(t) + (0.0 if np.abs(t.detach().numpy()).max() < 50 else 1e3), "numpy"),
    "tolist": (lambda t: square(t) + (0.0 if max(t.tolist()) < 50 else 1e3), "tolist"),
    "item": (lambda t: square(t) * (1.0 if t[0].item() < 50 else -1.0), "Python number"),
    "if": (lambda t: square(t) if t[0] < 50 else -t.sum(), "Python branches on theta"),
    "max": (lambda t: square(t) * max(1.0, t[0]), "Python branches on theta"),
    "a tiny frozen part": (lambda t: 1e-150 * (square(t - 0.5) + float(np.asarray(t.detach()).sum())), "__array__"),
    "whole numbers": (far(lambda t: torch.div(t[0], 1.0, rounding_mode="floor")), "div"),
    "a cast to int": (far(lambda t: t[0].long().to(F64)), "detached"),
    "a cast to half": (far(lambda t: t[0].half().to(F64)), "float16"),
    "0.1 in float32": (far(lambda t: (t[0].float() * 0.1).to(F64)), "float32"),
    "a cast to bool": (lambda t: torch.where(t[0].bool(), square(t), -square(t) - 1), "torch.bool"),
    "comparisons added": (
        lambda t: torch.where((t[0] > 50) + (t[1] > 50), -square(t), square(t)), "add.Tensor"),
    "a comparison times a number": (lambda t: ((t > 50) * t).sum() + square(t), "comparison of theta"),
    "an exponent": (lambda t: torch.pow(2.0, t).sum(), "exponent that depends on theta"),
    "bits": (lambda t: square(t) + 1e-300 * t.view(torch.int64).sum(), "bits"),
    "other data": (other_data, "other data"),
    "a mask of -inf": (lambda t: square(t) + torch.exp(t[0] + torch.tensor(-math.inf)), "constant -inf"),
    "random numbers": (lambda t: square(t) + 0 * torch.rand(1, dtype=F64).sum(), "random"),
    "detach": (lambda t: (t * t.detach()).sum(), "autodiff's gradient is not that of F"),
    "no_grad": (without_gradient, "autodiff's gradient is not that of F"),
    "a backward that lies": (lambda t: Lie.apply(t).sum() + (t - 1).square().sum(), "custom autograd.Function Lie"),
    "a hook": (hooked, "hook"),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_a_function_hides_is_named(name: str) -> None:
    function, words = HIDDEN[name]
    found = prove_point(problem_of(function, [0.5, 0.5]))
    assert isinstance(found, NoProof) and words in found.reason
    for prove in (critical_points_in_box, lipschitz_on_box):
        with pytest.raises(NotOnTapeError, match=words.replace(".", r"\.")):
            prove(problem_of(function, [0.0, 0.0]), [-100, -100], [100.5, 100.5])


def test_zero_times_nothing_is_nothing() -> None:
    """0 log x has no value at x < 0, and the tape must not forget it; 0 sin x is 0."""
    holed = problem_of(lambda t: square(t) + 0.0 * torch.log(t[0] - 5), [10.0, 0.0])
    assert lipschitz_on_box(holed, [-20, -20], [20.5, 20.5], max_cells=20).verdict is Verdict.UNKNOWN
    assert isinstance(prove_point(holed, torch.zeros(2, dtype=F64)), NoProof)
    whole = problem_of(lambda t: square(t) + 0.0 * torch.sin(t[0] - 5), [10.0, 0.0])
    assert lipschitz_on_box(whole, [-20, -20], [20.5, 20.5], max_cells=20).verdict is Verdict.PROVED


def test_rsub_scales_what_is_taken_away() -> None:
    tape_of(problem_of(lambda t: torch.rsub(t[0] * t[0], 1.0, alpha=-3.0) + t[1], [1.0, 1.0]))


def test_constants_are_not_rounded_off_the_tape() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17 in doubles' arithmetic and 2.8e-17 exactly: the slope at 0 is not 0 either way, and
    with 0.5 - 0.5 it is."""

    def F(t: torch.Tensor, constants: tuple[float, ...]) -> torch.Tensor:
        row = torch.cat([torch.tensor(constants, dtype=F64), 0 * t[:1] + t[:1] * t[0]])
        return row.sum() * t[0] + square(t)

    exact = prove_point(problem_of(lambda t: F(t, (0.1, 0.2, -0.3)), [0.0, 0.0]))
    assert isinstance(exact, PointProof) and exact.radius > 0  # a critical point near, but not 0 itself
    assert exact.center[0] == pytest.approx(-(2.0**-55) / 2, rel=1e-6)
    zero = prove_point(problem_of(lambda t: F(t, (0.5, 0.25, -0.75)), [0.0, 0.0]))
    assert isinstance(zero, PointProof) and zero.radius == 0


def test_parameters_that_share_memory_are_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.ones(3, dtype=F64)
            self.first, self.second = nn.Parameter(whole[:2]), nn.Parameter(whole[1:])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.first[:, None] + x @ self.second[:, None]

    data = (torch.ones(2, 2, dtype=F64), torch.zeros(2, 1, dtype=F64))
    found = prove_point(Problem(Shared(), nn.MSELoss(), data))
    assert isinstance(found, NoProof) and "share memory" in found.reason


@pytest.mark.parametrize("upper", [100.3, 0.7, 0.1])
def test_the_box_proved_is_the_box_asked_for(upper: float) -> None:
    """0.7 in float32 is 0.69999999: a certificate of that box would say nothing of the strip beyond."""
    found = critical_points_in_box(problem_of(square, [0.0, 0.0]), [-1.1, -1.1], [upper, upper])
    assert found.verdict is Verdict.PROVED and len(found.kinds) == 1
    assert found.certificate is not None
    assert float.fromhex(found.certificate.data["upper"][0]) == upper


@pytest.mark.parametrize("edge", [0.5, -0.25])
def test_a_critical_point_on_the_border_is_neither_counted_nor_denied(edge: float) -> None:
    found = critical_points_in_box(
        problem_of(lambda t: square(t - edge), [0.0, 0.0]), [-2, edge], [2, 3], max_cells=300
    )
    assert found.verdict is Verdict.UNKNOWN and "on its border" in found.reason


@pytest.mark.parametrize("scale", [1e150, 1e-150, 1e-300])
def test_scales_change_no_proof(scale: float) -> None:
    problem = problem_of(lambda t: scale * (t[0] ** 4 / 4 - t[0] ** 2 / 2 + t[1] ** 2), [0.0, 0.0])
    found = critical_points_in_box(problem, [-2.1, -2.1], [2, 2])
    assert found.verdict is Verdict.PROVED and sorted(found.kinds) == ["minimum", "minimum", "strict saddle"]


@pytest.mark.parametrize("eps, index", [(1e-14, 0), (-1e-14, 1), (-1e-300, 1)])
def test_an_index_next_to_degenerate_is_exact(eps: float, index: int) -> None:
    proof = prove_point(problem_of(lambda t: t[0] ** 2 + eps * t[1] ** 2, [0.0, 0.0]))
    assert isinstance(proof, PointProof) and (proof.index, proof.nullity) == (index, 0)


@pytest.mark.parametrize("size", [1e300, math.inf, math.nan])
def test_boxes_without_end_are_refused_or_searched(size: float) -> None:
    problem = problem_of(lambda t: square(t) ** 2, [0.0, 0.0])
    if math.isfinite(size):
        assert critical_points_in_box(problem, [-size] * 2, [size] * 2, max_cells=400).verdict is Verdict.UNKNOWN
    else:
        with pytest.raises(ValueError, match="finite numbers lower < upper"):
            critical_points_in_box(problem, [-size] * 2, [size] * 2)
