"""Step intervals against what happens when the steps are taken."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tameopt import Problem
from tameopt.audit.step_interval import step_interval


def _quadratic(*eigenvalues: float) -> Problem:
    scales = torch.tensor(eigenvalues, dtype=torch.float64)
    return Problem.from_function(lambda t: 0.5 * (scales * t * t).sum(), torch.ones(len(eigenvalues)).double())


def _descend(problem: Problem, alpha: float, momentum: float = 0.0, steps: int = 1200) -> float:
    theta, velocity = problem.theta, torch.zeros_like(problem.theta)
    for _ in range(steps):
        velocity = momentum * velocity + problem.gradient(theta)
        theta = theta - alpha * velocity
        if not bool(torch.isfinite(theta).all()):
            return math.inf
    return float(problem.value(theta))


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_limit_separates_convergence_from_divergence(momentum: float) -> None:
    problem = _quadratic(1.0, 4.0, 10.0)
    low, high = step_interval(problem, arguments={"momentum": momentum}).whole.limit
    assert low == pytest.approx(high, rel=1e-9)  # the dense Hessian has no missed end
    assert high == pytest.approx((2 + 2 * momentum) / 10)
    assert _descend(problem, 0.99 * low, momentum) < 1e-6
    assert _descend(problem, 1.01 * high, momentum) > 1e6


def test_weight_decay_lowers_the_limit() -> None:
    found = step_interval(_quadratic(1.0, 10.0), arguments={"weight_decay": 10.0})
    assert found.whole.limit[1] == pytest.approx(0.1)
    assert found.whole.lambda_max == pytest.approx(10.0)


def _regression(n: int = 6) -> Problem:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1, dtype=torch.float64)
    return Problem(model, torch.nn.functional.mse_loss, (x, y))


def test_the_best_step_minimises_the_expectation_over_all_batches() -> None:
    """F is quadratic and all samples are used, so the formula is exact: enumerate the batches and compare."""
    problem = _regression()
    found = step_interval(problem, batch_size=2)
    assert found.best is not None
    theta = problem.theta
    gradients = problem.sample_gradients(theta)
    batches = [gradients[list(pair)].mean(0) for pair in itertools.product(range(6), repeat=2)]

    def expected(alpha: float) -> float:
        return sum(float(problem.value(theta - alpha * g)) for g in batches) / len(batches)

    at = found.best.alpha
    assert expected(at) < min(expected(at * 0.98), expected(at * 1.02))
    h = 1e-4 * at  # the derivative of a parabola by central differences is exact up to rounding
    assert abs(expected(at + h) - expected(at - h)) / (2 * h) < 1e-7
    assert at < found.best.without_noise


def test_groups_are_the_blocks_of_the_hessian() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = Problem(model, torch.nn.functional.mse_loss, (x, x[:, :2].sin()))
    found = step_interval(problem)
    matrix = problem.hessian().dense()
    blocks = {"0": matrix[:16, :16], "2": matrix[16:, 16:]}
    assert [group.name for group in found.groups] == ["0", "2"]
    for group in found.groups:
        top = float(torch.linalg.eigvalsh(blocks[group.name])[-1])
        assert group.lambda_max == pytest.approx(top, rel=1e-8)
        assert group.lambda_max <= found.whole.lambda_max * (1 + 1e-9)


def test_what_has_no_limit_says_why() -> None:
    adam = step_interval(_quadratic(1.0, 2.0), optimizer="Adam")
    assert adam.factor is None and "depends on the state of Adam" in adam.sentences()[0]
    assert adam.best is None
    hill = step_interval(_quadratic(-1.0, -2.0))
    assert hill.sentences()[0] == "The loss curves up in no direction found: curvature sets no limit here."
    assert "curves down along the gradient" in " ".join(hill.sentences())
    flat = Problem.from_function(lambda t: (t * 0).sum(), torch.ones(2).double())
    assert "the gradient is 0" in " ".join(step_interval(flat).sentences())


def test_a_point_that_is_not_finite_is_refused() -> None:
    problem = Problem.from_function(lambda t: t.log().sum(), torch.ones(2).double())
    with pytest.raises(ValueError, match="F and its gradient must be finite at theta, F is nan"):
        step_interval(problem, -torch.ones(2).double())
