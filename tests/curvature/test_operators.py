"""Gauss-Newton and gradient covariance against dense matrices, with ragged batches and every reduction."""

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.problem import Problem

F64 = torch.float64
G = torch.Generator().manual_seed(0)
X, TARGET, LABELS = torch.randn(11, 3, generator=G).double(), torch.randn(11, 2, generator=G).double(), None
LABELS = torch.randint(0, 2, (11,), generator=G)


def mean_of_rows(output, target):
    return (output - target).square().mean()


CASES = [
    (mean_of_rows, TARGET, "mean"),
    (nn.functional.cross_entropy, LABELS, "mean"),
    (nn.CrossEntropyLoss(reduction="sum"), LABELS, "sum"),
    (nn.CrossEntropyLoss(reduction="none"), LABELS, "none"),
]


def network(loss, target, reduction, hidden=True):
    torch.manual_seed(1)
    layers = [nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)] if hidden else [nn.Linear(3, 2)]
    return Problem(nn.Sequential(*layers).double(), loss, (X, target), reduction=reduction, batch_size=4)


@pytest.mark.parametrize("loss, target, reduction", CASES)
def test_gauss_newton_is_the_hessian_where_outputs_are_linear(loss, target, reduction):
    problem = network(loss, target, reduction, hidden=False)
    assert torch.allclose(tame.curvature.gauss_newton(problem).dense(), problem.hessian().dense(), atol=1e-12)


@pytest.mark.parametrize("loss, target, reduction", CASES)
def test_gauss_newton_of_a_network_against_its_jacobians(loss, target, reduction):
    problem = network(loss, target, reduction)
    theta = problem.theta

    def outputs(t):
        return problem.batch_output(problem.unflatten(t), (X, target), True)

    J = torch.func.jacrev(outputs)(theta)

    def total(output):
        value = loss(output, target)
        return value * 11 if reduction == "mean" else value.sum()

    H = torch.func.hessian(total)(outputs(theta)).reshape(22, 22)
    flat = J.reshape(22, -1)
    expected = flat.T @ H @ flat * problem.scale
    found = tame.curvature.gauss_newton(problem)
    assert torch.allclose(found.dense(), expected, atol=1e-12)
    assert torch.linalg.eigvalsh(found.dense()).min() > -1e-12


@pytest.mark.parametrize("centered", [True, False])
def test_gradient_covariance_is_that_of_sample_gradients(centered, monkeypatch):
    problem = network(*CASES[1])
    gradients = problem.sample_gradients()
    expected = gradients.T @ gradients / 11
    if centered:
        mean = gradients.mean(dim=0)
        expected = expected - torch.outer(mean, mean)
    assert torch.allclose(
        tame.curvature.gradient_covariance(problem, centered=centered).dense(), expected, atol=1e-12
    )
    import tameopt.curvature.operators as operators

    monkeypatch.setattr(operators, "_HELD_BYTES", 0)
    streamed = tame.curvature.gradient_covariance(problem, centered=centered, chunk=4)
    assert torch.allclose(streamed.dense(), expected, atol=1e-12)


def test_a_layer_is_a_restriction():
    problem = network(*CASES[1])
    weight = tame.curvature.coordinates(problem, "0.weight")
    assert weight.tolist() == list(range(6))
    block = problem.hessian().restrict(weight)
    assert torch.allclose(block.dense(), problem.hessian().dense()[:6, :6], atol=1e-12)
    assert tame.curvature.coordinates(problem, ["*.bias"]).tolist() == [6, 7, 12, 13]
    with pytest.raises(ValueError, match="names must match parameters"):
        tame.curvature.coordinates(problem, "conv*")


def test_plain_functions_have_neither():
    plain = Problem.from_function(lambda t: (t**2).sum(), torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="outputs need a problem given as model"):
        tame.curvature.gauss_newton(plain)
    with pytest.raises(ValueError, match="a plain function has no samples"):
        tame.curvature.gradient_covariance(plain)


class OnceDifferentiable(torch.autograd.Function):
    """x^3 whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def test_differences_of_gradients_take_over_and_say_so() -> None:
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    problem = Problem.from_function(lambda t: OnceDifferentiable.apply(t).sum(), theta)
    # central differences of a quadratic gradient are exact but for rounding, eps / step = eps^(2/3)
    assert torch.allclose(problem.hessian().dense(), torch.diag(6 * theta), atol=1e-8)
    assert problem.hessian_mode().narrow == "differences of gradients"
    assert "reverse over reverse: " in problem.hessian_mode().reason


class HalfOnceDifferentiable(nn.Module):
    """x times the sum of a^3, without a second derivative in torch, and of b^2, with one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (OnceDifferentiable.apply(self.a).sum() + (self.b**2).sum())


def test_one_parameter_without_a_second_derivative_is_not_taken_for_linear() -> None:
    x = torch.ones(3, 1, dtype=torch.float64)
    problem = Problem(HalfOnceDifferentiable(), lambda output, target: output.mean(), (x, x))
    expected = torch.diag(torch.tensor([6.0, -12.0, 2.0], dtype=torch.float64))
    assert torch.allclose(problem.hessian().dense(), expected, atol=1e-8)
