"""Training records what it promises, in every way a run can end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.audit.recorder import Grid
from tameopt.audit.training import train
from tameopt.problem import Problem
from tameopt.run import Run


def regression(n: int = 40, **options: Any) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(n, 1, generator=generator)
    torch.manual_seed(0)
    return Problem(nn.Linear(3, 1), nn.functional.mse_loss, (x, y), name="regression", **options)


def test_the_recursion_is_the_lectures(tmp_path: Path) -> None:
    problem = tame.problems.load("quadratic")
    run = train(problem, lr=0.05, steps=20, out=tmp_path / "r")
    thetas = run.vectors(range(21))
    for k in range(20):
        expected = thetas[k] - 0.05 * problem.gradient(thetas[k])
        assert torch.allclose(thetas[k + 1], expected, rtol=1e-12, atol=0)
    assert run.status == "finished"
    assert run.meta["steps_done"] == 20
    assert run.meta["initial_law"].startswith("standard normal")


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    problem = regression()
    before = problem.theta
    train(problem, steps=5, batch_size=8, out=tmp_path / "r")
    assert torch.equal(problem.theta, before)


def test_every_series_of_the_record_is_there(tmp_path: Path) -> None:
    run = train(regression(), steps=300, batch_size=8, out=tmp_path / "r")
    for name in ("loss", "lr", "gradient_norm"):
        steps, numbers = run.series(name)
        assert np.array_equal(steps, np.arange(300)), name
        assert np.isfinite(numbers).all()
    for name in ("full_loss", "full_gradient_norm"):
        assert run.series(name)[0][-1] == 300
    assert run.vector_steps()[-1] == 300
    meta = run.meta
    for key in ("target", "problem", "d", "n", "dtype", "optimizer", "schedule", "batch_size", "sampling", "seed"):
        assert key in meta
    for first, last in meta["windows"]:
        assert np.isin(np.arange(first, last + 1), run.vector_steps()).all()


def test_full_loss_is_exact(tmp_path: Path) -> None:
    problem = regression()
    run = train(problem, steps=50, batch_size=8, out=tmp_path / "r")
    exact = problem.to(torch.float64)
    steps, losses = run.series("full_loss")
    _, norms = run.series("full_gradient_norm")
    for step, loss, norm in zip(steps, losses, norms, strict=True):
        value, gradient = exact.value_and_gradient(run.vector(int(step)).double())
        assert loss == pytest.approx(float(value), rel=1e-12)
        assert norm == pytest.approx(float(gradient.norm()), rel=1e-12)


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    runs = [
        train(regression(), steps=40, batch_size=8, seed=s, out=tmp_path / str(i)) for i, s in enumerate((3, 3, 4))
    ]
    ends = [run.vector(40) for run in runs]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize(
    ("batch_size", "sampling", "recorded"),
    [(None, "with replacement", "full batch"), (40, "reshuffled", "full batch"), (8, "reshuffled", "reshuffled")],
)
def test_sampling_is_recorded(tmp_path: Path, batch_size: int | None, sampling: Any, recorded: str) -> None:
    run = train(regression(), steps=5, batch_size=batch_size, sampling=sampling, out=tmp_path / "r")
    assert run.meta["sampling"] == recorded


def test_an_epoch_of_reshuffled_batches_sees_every_sample_once(tmp_path: Path) -> None:
    # with lr 0 to rounding the mean of an epoch's batch losses is the full loss, and only then
    run = train(regression(), lr=1e-30, steps=5, batch_size=8, sampling="reshuffled", out=tmp_path / "r")
    assert run.series("loss")[1].mean() == pytest.approx(run.series("full_loss")[1][0], rel=1e-6)


def test_a_sum_loss_is_scaled_to_an_unbiased_gradient(tmp_path: Path) -> None:
    def total(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().sum()

    torch.manual_seed(0)
    problem = Problem(nn.Linear(3, 1), total, (torch.randn(40, 3), torch.randn(40, 1)), reduction="sum")
    run = train(problem, lr=1e-30, steps=400, batch_size=8, out=tmp_path / "r")
    losses = run.series("loss")[1]
    error = losses.std() / math.sqrt(losses.size)
    assert abs(losses.mean() - run.series("full_loss")[1][0]) < 5 * error


def test_divergence_ends_the_run_and_keeps_the_record(tmp_path: Path) -> None:
    run = train(tame.problems.load("quadratic"), lr=1.0, steps=5000, out=tmp_path / "r")
    assert run.status == "diverged"
    (event,) = run.events("diverged")
    done = run.meta["steps_done"]
    assert event["step"] == done < 100
    assert run.series("full_loss")[0][-1] == done
    assert torch.isfinite(run.vector(int(run.vector_steps()[-1]))).all()


def test_a_nan_in_the_gradient_stops_before_theta_is_lost(tmp_path: Path) -> None:
    def F(theta: torch.Tensor) -> torch.Tensor:
        return (theta - 1.0).abs().sqrt().sum() + 0 * torch.sqrt(theta - 0.5).sum()

    run = train(
        Problem.from_function(F, torch.full((2,), 0.9, dtype=torch.float64)), lr=0.3, steps=50, out=tmp_path / "r"
    )
    assert run.status == "diverged"
    assert torch.isfinite(run.vector(int(run.vector_steps()[-1]))).all()


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    count = 0

    def F(theta: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 60:
            raise KeyboardInterrupt
        return theta.square().sum()

    run = train(Problem.from_function(F, torch.ones(2)), lr=0.1, steps=500, out=tmp_path / "r")
    assert run.status == "interrupted"
    assert run.events("interrupted")
    assert 0 < run.meta["steps_done"] < 60
    assert Run.open(tmp_path / "r").series("loss")[0].size == run.meta["steps_done"]


def test_dropout_trains_in_training_mode_and_is_measured_in_eval_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    data = (torch.randn(40, 3), torch.randn(40, 1))
    problem = Problem(model, nn.functional.mse_loss, data, mode="eval")
    run = train(problem, steps=30, batch_size=8, out=tmp_path / "r")
    assert "buffer:1.running_mean" in run.vector_names()
    assert not torch.equal(run.vector(30, "buffer:1.running_mean"), model[1].running_mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "must be > 0"),
        ({"lr": math.nan}, "must be > 0 and finite"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"optimizer": "SDG"}, "'SGD'"),
        ({"schedule": "cosin"}, "'cosine'"),
        ({"schedule": 3}, "schedule must be a schedule or a string"),
        ({"sampling": "shuffled"}, "sampling must be"),
        ({"arguments": {"momentun": 0.9}}, "SGD has no argument 'momentun'"),
        ({"arguments": {"lr": 0.9}}, "has no argument 'lr' beside lr"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        train(regression(), **{"steps": 5, **options}, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    train(regression(), steps=2, out=tmp_path / "r")
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(regression(), steps=2, out=tmp_path / "r")


@pytest.mark.parametrize(
    ("steps", "d"), [(1, 1), (7, 10), (300, 2), (6000, 4810), (10_000, 10_000_000), (10**6, 100)]
)
def test_a_grid_stays_inside_its_memory(steps: int, d: int) -> None:
    grid = Grid.plan(steps, d, 4)
    assert 0 in grid.full
    assert all(0 <= k < steps for k in grid.full | grid.thetas)
    windowed = sum(last - first + 1 for first, last in grid.windows)
    assert (len(grid.thetas) + windowed) * d * 4 <= 400 << 20
    ends = [last for _, last in grid.windows]
    assert all(0 <= first < last <= steps for first, last in grid.windows)
    assert ends == sorted(ends)


def test_an_adaptive_optimizer_leaves_its_second_moments(tmp_path: Path) -> None:
    run = train(regression(), optimizer="Adam", lr=0.01, steps=100, batch_size=8, out=tmp_path / "r")
    steps = run.vector_steps("exp_avg_sq")
    assert steps[-1] == 100 and len(steps) >= 4
    assert np.isin(steps, run.vector_steps()).all()
    assert run.vector(100, "exp_avg_sq").shape == (4,)
    assert "exp_avg_sq" not in train(regression(), steps=20, out=tmp_path / "sgd").vector_names()
