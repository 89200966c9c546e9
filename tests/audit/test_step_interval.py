"""Step intervals against what happens when the steps are taken."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from tameopt import Problem
from tameopt.analysis import Context
from tameopt.audit.kinds_broken import smaller_step
from tameopt.audit.scene import Scene
from tameopt.audit.step_interval import step_interval
from tameopt.curvature.path_findings import analyse_path
from tameopt.curvature.stability import stability_limit
from tameopt.run import Run
from tameopt.training_mode import as_trained


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


def _network(*, dropout: float = 0.0, shrink: float = 1.0) -> Problem:
    """A network with BatchNorm; small weights before it make the loss steep in training and flat in eval mode."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 4, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2]
    drops = [torch.nn.Dropout(dropout)] if dropout else []
    layers = [torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), *drops, torch.nn.Linear(5, 1)]
    with torch.no_grad():
        layers[0].weight.mul_(shrink)
    return Problem(torch.nn.Sequential(*layers).double(), torch.nn.functional.mse_loss, (x, y), mode="eval")


def _left(problem: Problem, alpha: float, batch_size: int | None, draws: int, steps: int = 30) -> float:
    """What gradient descent on the loss as trained leaves of a small displacement along the steepest direction."""
    theta = problem.theta
    trained = [as_trained(problem, batch_size, seed) for seed in range(900, 900 + draws)]
    hessian = sum(one.hessian(theta).dense() for one in trained) / draws
    top = torch.linalg.eigh(hessian)[1][:, -1]
    start = sum(one.gradient(theta) for one in trained) / draws
    displacement = 1e-8 * top  # short: negative curvature takes over in the end, out of the loss's cubic terms
    for _ in range(steps):
        moved = sum(one.gradient(theta + displacement) for one in trained) / draws - start
        displacement = displacement - alpha * moved
        if float(displacement.norm()) > 1e-4:
            break
    return abs(float(top @ displacement)) / 1e-8


@pytest.mark.parametrize(
    "dropout, batch_size, draws",
    [(0.0, None, 1), (0.3, None, 4), pytest.param(0.0, 12, 8, marks=pytest.mark.slow)],
)
def test_the_limit_is_that_of_the_loss_as_trained(dropout: float, batch_size: int | None, draws: int) -> None:
    problem = _network(dropout=dropout, shrink=0.2)
    found = step_interval(problem, batch_size=batch_size)
    low, high = found.whole.limit
    assert 0 < low <= high < math.inf
    assert (high > 1.02 * low) is found.varies is bool(dropout or batch_size)
    assert _left(problem, 0.95 * low, batch_size, draws) < 0.1
    assert _left(problem, 2 * high, batch_size, draws) > 1e3
    assert "measured on the loss as trained" in found.sentences()[-1]
    # with the curvature of F, twice the limit would have been called stable
    assert 2.0 / float(torch.linalg.eigvalsh(problem.hessian().dense())[-1]) > 2 * high


def test_curvature_that_differs_too_much_from_draw_to_draw_sets_no_limit() -> None:
    """Half of all masks drop the only input: the curvature is 0 or 8, four draws do not say that its mean is > 0."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(1, 1, bias=False)).double()
    x = torch.ones(1, 1, dtype=torch.float64)
    found = step_interval(Problem(model, torch.nn.functional.mse_loss, (x, 0 * x), mode="eval"))
    assert found.varies and found.whole.lambda_max <= 0 < found.whole.lambda_upper
    assert "Whether curvature sets a limit is not known" in found.sentences()[0]


def test_the_best_step_as_trained_minimises_the_expectation_over_masks_and_batches() -> None:
    """One linear layer behind dropout: E of the loss after a step, by enumeration of draws, is least at alpha."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(3, 1)).double()
    problem = Problem(model, torch.nn.functional.mse_loss, (x, x[:, :1] + 1), mode="eval")
    found = step_interval(problem, batch_size=4)
    assert found.best is not None and found.best.samples >= 16
    draws = [as_trained(problem, None, seed) for seed in range(5000, 5150)]
    theta = problem.theta
    hessian = sum(one.hessian(theta).dense() for one in draws[:75]) / 75
    mean = sum(one.gradient(theta) for one in draws[:75]) / 75
    batches = torch.stack(
        [
            one.batch_gradient(theta, one.batches.pick(torch.randint(12, (4,), generator=generator)))[1]
            for one in draws
        ]
    )
    best = float(mean @ mean) / float((batches * (batches @ hessian)).sum(1).mean())
    low, high = found.best.interval
    assert low < best < high and high / low < 3
    assert found.best.alpha < found.best.without_noise


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_smaller_step_of_an_audit_is_half_the_limit_as_trained(tmp_path: Path, dropout: float) -> None:
    problem = _network(dropout=dropout, shrink=0.2)
    with Run.create(tmp_path, {"optimizer": {"name": "SGD", "arguments": {}}, "sampling": "full batch"}) as run:
        run.record(0, {"lr": 3.0, "loss": 1.0})
        run.save_vectors(0, {"theta": problem.theta})
    context = Context(problem, Run.open(tmp_path), problem.theta)
    path = analyse_path(context)
    action, effect = smaller_step(Scene(context, path.findings, {"curvature.path": path.facts}))
    low, high = step_interval(problem).whole.limit
    proposed = float(action.rpartition(" ")[2])
    # three digits are written, and the audit looks with other products than `tameopt lr`
    assert 0.9 * low / 2 < proposed < 1.01 * high / 2 and action.startswith("lr 3 -> ")
    assert "of the loss as trained" in effect and ("undecided between" in effect) is (dropout > 0)
    assert _left(problem, proposed, None, 4 if dropout else 1) < 0.1


def test_the_limit_of_adam_comes_with_its_second_moments() -> None:
    problem = _quadratic(1.0, 4.0, 100.0)
    moments = torch.tensor([1.0, 16.0, 1e6], dtype=torch.float64)
    found = step_interval(problem, optimizer="RMSprop", arguments={"eps": 0.0}, moments=moments)
    # P = diag(1, 4, 1000), and no smaller than the gradient (1, 4, 100): P^-1 H = diag(1, 1, 0.1)
    assert found.whole.limit[0] == pytest.approx(2.0, rel=1e-6)
    assert "of P^-1 H, P frozen" in found.sentences()[0]
    assert stability_limit("RMSprop").preconditioner in step_interval(problem, optimizer="RMSprop").sentences()[0]


def test_ctrl_c_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tameopt.audit.step_interval.best_step", stop)
    found = step_interval(_regression(), batch_size=2)
    assert found.interrupted and found.best is None and found.whole.lambda_max > 0
    assert found.sentences()[-1] == "Interrupted: this is what had been measured by then."
