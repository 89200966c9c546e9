"""D_T: the known constant of the Ornstein-Uhlenbeck limit, the law in alpha, controls, refusals, the process w."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tameopt.noise.accumulation import accumulation_points
from tameopt.noise.interpolation import interpolate
from tameopt.noise.ode_method import pseudo_trajectory
from tameopt.noise.recorded import recorded_noise, run_noise
from tameopt.noise.window_controls import measure_controls
from tameopt.noise.window_distance import flow_distance
from tameopt.noise.windows import Window
from tameopt.optim.schedules import Constant, Power
from tameopt.problem import Problem
from tameopt.run import Run

Train = Callable[..., Run]


@pytest.fixture(scope="module")
def least_squares() -> Problem:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    targets = inputs @ torch.randn(6, 1, generator=generator, dtype=torch.float64)
    targets = targets + 0.5 * torch.randn(60, 1, generator=generator, dtype=torch.float64)
    model = torch.nn.Linear(6, 1).double()
    return Problem(model, torch.nn.functional.mse_loss, (inputs, targets))


WINDOWS = ((30, 90), (200, 300), (800, 999))


@pytest.mark.slow
def test_constant_of_the_ornstein_uhlenbeck_limit(tmp_path: Path) -> None:
    """F = x^2/2, unit noise, alpha_k = (k+1)^-3/4 from k = 1,000, T = 1: E D_T / sqrt(alpha) = 0.9625.

    The number is from quadrature and from simulation (`benchmarks/noise.py constant`); as alpha -> 0 it tends to
    E sup |U| = 1.03 for the Ornstein-Uhlenbeck process. 120 windows have a standard error of 0.03.
    """
    problem = Problem.from_function(lambda x: x.square().sum() / 2, torch.zeros(1, dtype=torch.float64))
    rng = np.random.default_rng(0)
    alphas = (np.arange(1_000, 1_300) + 1.0) ** -0.75
    length = int(np.searchsorted(np.cumsum(alphas), 1.0)) + 1
    with Run.create(tmp_path / "many", {}) as run:
        for replicate in range(120):
            x, path = rng.normal() * 0.05, []
            for alpha in alphas[: length + 1]:
                path.append(x)
                x -= alpha * (x + rng.normal())
            first = replicate * 1_000
            steps = range(first, first + length + 1)
            run.save_block("theta", steps, torch.tensor(path)[:, None])
            run.record_many(steps, {"lr": alphas[: length + 1]})
        found = pseudo_trajectory(problem, run, T=float(alphas[:length].sum()) * (1 - 1e-12), windows=120)
    assert found.D.size == 120 and found.trusted.all()
    assert (found.D / np.sqrt(alphas[0])).mean() == pytest.approx(0.9625, abs=3 * 0.03)
    assert found.noise_free.max() < 1e-3  # O(alpha): the noise is all of D
    # what a martingale of these increments makes: sqrt(sum alpha^2) = sqrt(alpha T) roughly
    assert found.noise_level.mean() / np.sqrt(alphas[0]) == pytest.approx(0.94, abs=0.03)
    assert found.explained.max() < 3.5 and found.conclusion == "stays near"


def test_vanishing_steps_follow_with_the_square_root_law(
    tmp_path: Path, train: Train, least_squares: Problem
) -> None:
    with train(tmp_path / "rm", least_squares, Power(0.5, 0.75, shift=5), 1000, 4, windows=WINDOWS) as run:
        found = pseudo_trajectory(least_squares, run, windows=15)
    assert found.conclusion == "follows"
    p, error = found.slope
    assert abs(p - 0.5) < max(0.25, 3 * error)
    assert found.D[-1] < found.D[0]
    assert found.to_json()["conclusion"] == "follows" and "D ~ alpha^" in repr(found)
    assert (found.times[1:] > found.times[:-1]).all()


def test_constant_steps_stay_near_and_momentum_departs(tmp_path: Path, train: Train, least_squares: Problem) -> None:
    with train(tmp_path / "constant", least_squares, Constant(0.01), 1000, 4, windows=WINDOWS) as run:
        assert pseudo_trajectory(least_squares, run, windows=9).conclusion == "stays near"
    with train(tmp_path / "heavy", least_squares, Constant(0.01), 400, 30, momentum=0.9, windows=((30, 150),)) as run:
        found = pseudo_trajectory(least_squares, run, windows=6)
    assert found.conclusion == "departs", found.explained


def test_full_batch_is_off_by_its_discretisation_alone(tmp_path: Path, train: Train, least_squares: Problem) -> None:
    with train(tmp_path / "gd", least_squares, Constant(0.02), 61, None, windows=((0, 60),)) as run:
        found = pseudo_trajectory(least_squares, run, T=0.5, windows=2, tolerance=1e-8)
    np.testing.assert_allclose(found.D, found.noise_free, rtol=1e-6)
    assert found.noise_level.max() < 1e-12
    # Euler's error is of order alpha
    with train(tmp_path / "finer", least_squares, Constant(0.005), 241, None, windows=((0, 240),)) as run:
        finer = pseudo_trajectory(least_squares, run, T=0.5, windows=2, tolerance=1e-8)
    assert found.D[0] / finer.D[0] == pytest.approx(4.0, rel=0.15)


def test_controls_of_a_long_window_agree_with_all_its_steps() -> None:
    """White noise in 40 dimensions, 256 steps: a fraction of the gradients gives the same controls."""
    rng, H = np.random.default_rng(0), torch.linspace(0.5, 3.0, 40, dtype=torch.float64)
    alphas = np.full(256, 0.004)
    theta, path, walk, worst = torch.ones(40, dtype=torch.float64), [], torch.zeros(40, dtype=torch.float64), 0.0
    squares = []
    for alpha in alphas:
        path.append(theta)
        noise = torch.as_tensor(rng.normal(size=40))
        squares.append(float((alpha * noise).square().sum()))
        walk = walk + alpha * noise
        worst = max(worst, float(walk.norm()))
        theta = theta - alpha * (H * theta + noise)
    window = Window(np.arange(100, 357), torch.stack([*path, theta]), alphas)
    times = torch.as_tensor(window.times)[:, None]
    found = measure_controls(lambda rows: -H * rows, [window], torch.exp(-H * times)[None])
    assert found.level[0] == pytest.approx(sum(squares) ** 0.5, rel=0.1)
    assert found.walk[0] == pytest.approx(worst, rel=0.02)
    euler = (1 - 0.004 * H) ** torch.arange(257)[:, None] - torch.exp(-H * times)
    assert found.free[0] == pytest.approx(float(euler.norm(dim=1).max()), rel=0.25)
    assert found.evaluations[0] < 0.4 * 256
    # without noise the discretisation is all there is, and it is computed exactly
    descent = Window(window.steps, (1 - 0.004 * H) ** torch.arange(257)[:, None], alphas)
    quiet = measure_controls(lambda rows: -H * rows, [descent], torch.exp(-H * times)[None])
    assert quiet.free[0] == pytest.approx(float(euler.norm(dim=1).max()), rel=1e-9)


def test_refusals(tmp_path: Path, train: Train, least_squares: Problem) -> None:
    with train(tmp_path / "none", least_squares, Constant(0.01), 40, 4) as run:
        with pytest.raises(ValueError, match="has no window of at least 3 consecutive iterates: record theta"):
            pseudo_trajectory(least_squares, run)
        with pytest.raises(ValueError, match="has no consecutive iterates"):
            interpolate(run)
        with pytest.raises(ValueError, match="must hold consecutive iterates and their step sizes, it does not"):
            run_noise(least_squares, run)
    with train(tmp_path / "short", least_squares, Constant(0.01), 40, 4, windows=((5, 30),)) as run:
        with pytest.raises(ValueError, match=r"T must be > 0 and at most 0\.25, the longest recorded stretch"):
            pseudo_trajectory(least_squares, run, T=1.0)
        with pytest.raises(ValueError, match=r"with m >= 30 consecutive steps, got shape \(25, 7\)"):
            run_noise(least_squares, run)
        with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
            pseudo_trajectory(least_squares, run, windows=0)
    with Run.create(tmp_path / "bare", {}) as run:
        run.save_block("theta", range(9), torch.zeros(9, 7, dtype=torch.float64))
        with pytest.raises(ValueError, match="the step sizes of steps 0 to 8 must be recorded"):
            pseudo_trajectory(least_squares, run)
    with Run.create(tmp_path / "blown", {"schedule": Constant(0.1).to_json()}) as run:
        run.save_block("theta", range(9), torch.full((9, 7), torch.inf, dtype=torch.float64))
        with pytest.raises(ValueError, match="must be finite: the run diverged there"):
            pseudo_trajectory(least_squares, run)
        with pytest.raises(ValueError, match="at least 4 finite iterates of the last quarter must be"):
            accumulation_points(least_squares, run)


def test_a_stiff_flow_is_inconclusive(tmp_path: Path) -> None:
    problem = Problem.from_function(
        lambda x: (torch.tensor([1.0, 1e9]) * x * x).sum() / 2, torch.ones(2, dtype=torch.float64)
    )
    with Run.create(tmp_path / "stiff", {"schedule": Constant(0.1).to_json()}) as run:
        run.save_block("theta", range(9), torch.ones(9, 2, dtype=torch.float64))
        found = pseudo_trajectory(problem, run, windows=2, max_evaluations=200)
    assert found.conclusion == "inconclusive" and not found.trusted.any()
    assert "inconclusive" in repr(found) and "it is stiff, take a smaller T or more max_evaluations" in repr(found)


def test_flow_distance_refuses_short_and_stiff_windows() -> None:
    problem = Problem.from_function(lambda x: 1e9 * x.square().sum() / 2, torch.ones(1, dtype=torch.float64))
    short = Window(np.arange(2), torch.ones(2, 1), np.array([0.1]))
    with pytest.raises(ValueError, match="a window must have at least 2 steps, got 1"):
        flow_distance(problem, short)
    stiff = Window(np.arange(4), torch.ones(4, 1), np.array([0.1, 0.1, 0.1]))
    with pytest.raises(ValueError, match="could not be solved over one step with 200 gradients: it is stiff"):
        flow_distance(problem, stiff, max_evaluations=200)


def test_interpolated_process_is_affine_between_iterates(
    tmp_path: Path, train: Train, least_squares: Problem
) -> None:
    with train(tmp_path / "w", least_squares, Power(0.1, 1), 40, 4, windows=((5, 20),)) as run:
        w = interpolate(run)
        tau = Power(0.1, 1).times(40)
        np.testing.assert_allclose(w.intervals, [(tau[5], tau[20])], rtol=1e-12)
        torch.testing.assert_close(w(float(tau[9])), run.vector(9), rtol=0, atol=1e-12)
        # the interval between tau_9 and tau_10 is alpha_9 long
        quarter = w(float(tau[9] + 0.25 * 0.01))
        torch.testing.assert_close(quarter, torch.lerp(run.vector(9), run.vector(10), 0.25), rtol=0, atol=1e-9)
        assert repr(w).startswith("Interpolated(t in [0.228") and repr(w.windows[0]).startswith(
            "Window(steps 5 to 20"
        )
        distance = repr(flow_distance(least_squares, w.windows[0]))
        assert distance.startswith("FlowDistance(D = ") and "from step 5" in distance
        with pytest.raises(ValueError, match="t must be in a recorded stretch"):
            w(0.0)


def test_a_run_is_judged_with_its_own_running_statistics(tmp_path: Path) -> None:
    """A fresh model has the running statistics of no data: its F is not the one that the run descended."""

    def fresh() -> Problem:
        generator = torch.Generator().manual_seed(0)
        inputs = 3 + torch.randn(24, 3, generator=generator, dtype=torch.float64)
        model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)).double()
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        targets = inputs.sum(1, keepdim=True)
        return Problem(model, torch.nn.functional.mse_loss, (inputs, targets), mode="eval")

    statistics = {"0.running_mean": torch.full((3,), 3.0), "0.running_var": torch.full((3,), 0.5)}
    known = fresh().load_buffers(statistics)
    with Run.create(tmp_path / "run", {"schedule": Constant(0.01).to_json()}) as run:
        theta, path = known.theta, []
        for _ in range(20):
            path.append(theta)
            theta = theta - 0.01 * known.gradient(theta)
        run.save_block("theta", range(20), torch.stack(path))
        run.save_vectors(20, {f"buffer:{name}": tensor for name, tensor in statistics.items()})
        assert set(run.buffers()) == set(statistics)
        found = pseudo_trajectory(fresh(), run, windows=2, tolerance=1e-8)
        assert found.noise_level.max() < 1e-12  # descent of this F exactly, so there is no noise
        assert recorded_noise(fresh(), run)[1].abs().max() < 1e-12
        assert accumulation_points(fresh(), run)[0].value == pytest.approx(float(known.value(path[17])), rel=0.2)
