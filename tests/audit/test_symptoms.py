"""Each symptom is seen where it is, and not where something merely resembles it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.analysis import Context
from tameopt.audit.symptoms import epochs, nonfinite, oscillation, outputs, progress, resume, rises, spikes, straddle
from tameopt.audit.symptoms.history import History, rolling_median, trailing_median
from tameopt.audit.training import train
from tameopt.evidence import Verdict
from tameopt.problem import Problem
from tameopt.run import Run

Write = Callable[..., History]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A record with these series at every step."""

    def make(losses: np.ndarray, meta: dict[str, Any] | None = None, **series: np.ndarray) -> History:
        base = {"sampling": "with replacement", "batch_size": 20, "n": 400, "steps_done": int(losses.size)}
        run = Run.create(tmp_path / "run", {**base, "optimizer": {"name": "SGD", "arguments": {}}, **(meta or {})})
        columns = {"loss": losses, "lr": np.full(losses.size, 0.05), **series}
        run.record_many(range(losses.size), {name: column.tolist() for name, column in columns.items()})
        return History(run)

    return make


def _noisy(level: np.ndarray, seed: int = 0, shape: float = 10.0) -> np.ndarray:
    return level * np.random.default_rng(seed).gamma(shape, 1 / shape, level.size)


# -- spikes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_spike_that_lasts_is_one(write: Write, seed: int) -> None:
    k = np.arange(2000)
    level = 0.3 + 2 * np.exp(-k / 150) + np.where(k >= 1200, 8 * np.exp(-(k - 1200) / 12), 0)
    found = spikes.find(write(_noisy(level, seed)))
    assert found.verdict is Verdict.MEASURED
    assert found.value == 1
    assert found.evidence.witness is not None
    assert 1195 <= found.evidence.witness["steps"][0] <= 1215


@pytest.mark.parametrize("seed", range(5))
def test_single_hard_batches_are_none(write: Write, seed: int) -> None:
    k = np.arange(2000)
    losses = _noisy(0.3 + 2 * np.exp(-k / 150), seed)
    losses[np.random.default_rng(seed).choice(np.arange(300, 2000), 6, replace=False)] *= 6
    assert spikes.find(write(losses)).verdict is Verdict.REFUTED


def test_a_steep_start_and_a_rise_that_stays_are_none(write: Write) -> None:
    k = np.arange(1500)
    assert spikes.find(write(_noisy(50 * np.exp(-k / 30) + 0.5))).verdict is Verdict.REFUTED


def test_a_spike_from_one_batch_names_it(write: Write) -> None:
    k = np.arange(1000)
    level = 0.5 + np.where(k > 600, 10 * np.exp(-(k - 600) / 10), 0)
    norms = _noisy(np.ones(1000), 1)
    norms[600] = 90.0
    found = spikes.find(write(_noisy(level), gradient_norm=norms))
    assert "The batch of step 600 set it off" in found.statement


def test_too_few_losses_decide_nothing(write: Write) -> None:
    assert spikes.find(write(np.ones(20))).verdict is Verdict.UNKNOWN


# -- late rise ---------------------------------------------------------------------------------------------------


def test_a_late_rise_is_seen_and_measured(write: Write) -> None:
    k = np.arange(1000)
    level = 5 * np.exp(-k / 60) + 0.01 + np.where(k > 500, 1.5 * (k - 500) / 500, 0)
    found = rises.find(write(_noisy(level), full_loss=level))
    assert found.verdict is Verdict.MEASURED
    assert found.evidence.witness is not None
    assert 250 < found.evidence.witness["step_of_least"] < 560


@pytest.mark.parametrize(
    "level",
    [
        5 * np.exp(-np.arange(1000) / 60) + 0.5,
        5 * np.exp(-np.arange(1000) / 300),
        0.5 + 0.1 * np.sin(np.arange(1000)),
    ],
)
def test_a_floor_and_a_fall_are_no_rise(write: Write, level: np.ndarray) -> None:
    assert rises.find(write(_noisy(level), full_loss=_noisy(level, 1, 400.0))).verdict is Verdict.REFUTED


# -- oscillation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [2, 7, 40])
def test_a_swing_is_seen_with_its_period(write: Write, period: int) -> None:
    k = np.arange(800)
    found = oscillation.find(write(1.0 + 0.4 * np.cos(2 * math.pi * k / period), {"sampling": "full batch"}))
    assert found.verdict is Verdict.MEASURED
    assert found.value == pytest.approx(period, abs=1)


def test_a_swing_that_dies_out_is_none(write: Write) -> None:
    k = np.arange(800)
    losses = 1.0 + np.exp(-k / 60) * np.cos(k / 5)
    assert oscillation.find(write(losses, {"sampling": "full batch"})).verdict is Verdict.REFUTED


@pytest.mark.parametrize("seed", range(8))
def test_noise_with_memory_is_no_swing(write: Write, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.zeros(1500)
    for k in range(1, 1500):
        x[k] = 0.97 * x[k - 1] + rng.normal()
    assert oscillation.find(write(5 + 0.1 * x)).verdict is Verdict.REFUTED


def test_an_epoch_is_no_swing(write: Write) -> None:
    k = np.arange(800)
    found = oscillation.find(write(1 + 0.3 * np.cos(2 * math.pi * k / 20), {"sampling": "reshuffled"}))
    assert found.verdict is Verdict.REFUTED
    assert "one epoch" in found.statement


# -- epochs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_steps_at_epochs_are_seen(write: Write, seed: int) -> None:
    level = 2.0 * 0.6 ** (np.arange(200) // 20)
    found = epochs.find(write(_noisy(level, seed, 60.0), {"sampling": "reshuffled"}))
    assert found.verdict is Verdict.MEASURED
    assert found.value > 0.7


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [10.0, 100.0, 1e9])
def test_an_even_fall_has_no_steps(write: Write, seed: int, rate: float) -> None:
    losses = _noisy(0.1 + 2.0 * np.exp(-np.arange(200) / rate), seed, 60.0)
    assert epochs.find(write(losses, {"sampling": "reshuffled"})).verdict is Verdict.REFUTED


def test_without_epochs_there_are_no_steps(write: Write) -> None:
    assert "drawn with replacement" in epochs.find(write(np.ones(100))).statement


# -- resumption --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("jump", "verdict"), [(2.0, Verdict.MEASURED), (0.0, Verdict.REFUTED)])
def test_a_jump_at_a_resumption(write: Write, seed: int, jump: float, verdict: Verdict) -> None:
    k = np.arange(600)
    history = write(_noisy(0.3 + 2 * np.exp(-k / 80) + np.where(k >= 300, jump * np.exp(-(k - 300) / 40), 0), seed))
    history.run.event(300, "resumed")
    assert resume.find(history).verdict is verdict


def test_a_changed_step_size_is_named(write: Write) -> None:
    k = np.arange(600)
    lr = np.where(k < 300, 0.001, 0.1)
    history = write(_noisy(0.3 + np.where(k >= 300, 2.0, 0.0)), lr=lr)
    history.run.event(300, "resumed")
    assert "the scheduler was not restored" in resume.find(history).statement


# -- steps and plateaus ------------------------------------------------------------------------------------------


def test_a_tiny_step_is_too_small_only_while_there_is_way_to_go(tmp_path: Path) -> None:
    def run(lr: float, steps: int, name: str) -> History:
        theta0 = torch.tensor([1.0, -1.0], dtype=torch.float64)
        problem = Problem.from_function(lambda theta: theta.square().sum(), theta0)
        return History(train(problem, lr=lr, steps=steps, out=tmp_path / name))

    assert progress.too_small(run(1e-4, 100, "tiny"), 2.0, 0.0).verdict is Verdict.MEASURED
    assert progress.too_small(run(0.02, 400, "done"), 2.0, 0.0).verdict is Verdict.REFUTED
    assert progress.too_small(run(0.3, 100, "fine"), 2.0, 0.0).verdict is Verdict.REFUTED
    assert progress.too_small(run(0.3, 50, "unknown"), math.nan, 0.0).verdict is Verdict.UNKNOWN


def test_noise_lowers_the_step_that_is_allowed(write: Write) -> None:
    k = np.arange(300)
    history = write(2.0 - 1e-4 * k, full_loss=2.0 - 1e-4 * k, full_gradient_norm=np.ones(300))
    # lr 0.05 of 1/L = 10 is 0.5%; with a noise scale of 100 batches it is half of what is allowed
    assert progress.too_small(history, 0.1, 0.0).verdict is Verdict.MEASURED
    assert progress.too_small(history, 0.1, 2000.0).verdict is Verdict.REFUTED


def test_a_plateau_needs_a_gradient(write: Write) -> None:
    flat = np.full(300, 2.0)
    history = write(flat, full_loss=flat, full_gradient_norm=np.linspace(1.0, 0.2, 300))
    assert progress.plateau(history).verdict is Verdict.MEASURED


def test_a_critical_point_is_no_plateau(write: Write) -> None:
    flat = np.full(300, 2.0)
    norms = np.geomspace(1.0, 1e-9, 300)
    assert progress.plateau(write(flat, full_loss=flat, full_gradient_norm=norms)).verdict is Verdict.REFUTED


# -- networks ----------------------------------------------------------------------------------------------------


def _network(bias: float = 0.0, softmax: bool = False, images: bool = False) -> Context:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)]
    x = torch.randn(90, 6)
    if images:
        layers = [nn.Conv2d(1, 8, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(8 * 16, 3)]
        x = torch.randn(90, 1, 6, 6)
    model = nn.Sequential(*layers, *([nn.Softmax(dim=1)] if softmax else []))
    with torch.no_grad():
        layers[0].bias.add_(bias)  # type: ignore[operator]
    problem = Problem(model, nn.CrossEntropyLoss(), (x, torch.arange(90) % 3))
    return Context(problem, None, problem.theta)


@pytest.mark.parametrize("images", [False, True])
def test_dead_units_are_counted(images: bool) -> None:
    finding, facts = outputs.dead_units(_network(bias=-100.0, images=images))
    assert finding.verdict is Verdict.MEASURED
    assert finding.value == 1.0
    assert facts["layers"] == [{"layer": 1, "units": 8, "dead": 8}]
    finding, facts = outputs.dead_units(_network(images=images))
    assert finding.verdict is Verdict.REFUTED
    assert facts["samples"] == 90


def test_a_smooth_network_has_no_dead_units() -> None:
    problem = Problem(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.MSELoss(), (torch.randn(5, 2), torch.randn(5, 3)))
    assert outputs.dead_units(Context(problem, None, problem.theta))[0].verdict is Verdict.UNKNOWN


def test_chance_level_is_the_entropy_of_the_labels() -> None:
    context = _network()
    finding, numbers = outputs.chance(Context(context.problem, None, torch.zeros_like(context.theta)))
    assert finding.verdict is Verdict.MEASURED
    assert numbers["F"] == pytest.approx(math.log(3), rel=1e-6)
    assert numbers["label_entropy"] == pytest.approx(math.log(3), rel=1e-12)
    assert outputs.chance(Context(context.problem, None, 5 * context.theta))[0].verdict is Verdict.REFUTED


def test_softmax_twice_is_told() -> None:
    context = _network(softmax=True)
    finding, numbers = outputs.chance(Context(context.problem, None, torch.zeros_like(context.theta)))
    assert "softmax is applied twice" in finding.statement
    assert numbers["outputs_are_probabilities"]


def test_a_regression_has_no_chance_level() -> None:
    problem = Problem(nn.Linear(2, 3), nn.MSELoss(), (torch.randn(5, 2), torch.randn(5, 3)))
    assert outputs.chance(Context(problem, None, problem.theta))[0].verdict is Verdict.UNKNOWN


# -- kinks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "curvature", "verdict"),
    [
        (lambda theta: theta.abs().sum(), 0.0, Verdict.MEASURED),
        # a smooth valley crossed to and fro: the gradients cancel at the rate of the curvature
        (lambda theta: 10 * theta.square().sum(), 20.0, Verdict.REFUTED),
        # a slope is no kink
        (lambda theta: theta.sum(), 0.0, Verdict.REFUTED),
    ],
)
def test_a_kink_is_told_from_a_valley(
    tmp_path: Path, function: Callable[[torch.Tensor], torch.Tensor], curvature: float, verdict: Verdict
) -> None:
    problem = Problem.from_function(function, torch.tensor([0.31, -0.2], dtype=torch.float64))
    run = train(problem, lr=0.1, steps=60, out=tmp_path / "run")
    finding, _ = straddle.find(Context(problem, run, problem.theta), History(run), curvature)
    assert finding.verdict is verdict


# -- numbers that are not finite ---------------------------------------------------------------------------------


class _Log(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x)


def _pass(model: nn.Module, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, str]:
    return nonfinite.locate(model, lambda: loss(model(x)), (x,))


def test_the_first_number_that_is_not_finite_is_located() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2)
    model = nn.Sequential(nn.Linear(2, 3), _Log(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].bias.fill_(-9.0)
    found = _pass(model, x, torch.sum)
    assert found == {"where": "activation", "what": "the output of 1 (_Log)"}
    assert _pass(model, x / 0, torch.sum)["where"] == "input"
    plain = nn.Linear(2, 1)
    assert _pass(plain, x, lambda y: torch.log(-y.square()).sum())["where"] == "loss"
    assert _pass(plain, x, lambda y: torch.sqrt(0 * y).sum())["where"] == "gradient"
    assert _pass(plain, x, torch.sum) == {}
    with torch.no_grad():
        plain.bias.fill_(math.nan)
    assert _pass(plain, x, torch.sum) == {"where": "parameter", "what": "bias"}


def test_state_that_is_not_finite_is_located() -> None:
    model = nn.Linear(2, 1)
    x = torch.ones(1, 2)
    state = {model.weight: {"exp_avg": torch.tensor([math.inf])}}
    assert nonfinite.locate(model, lambda: model(x).sum(), (x,), state)["where"] == "optimizer state"


# -- averages ----------------------------------------------------------------------------------------------------


def test_rolling_and_moving_windows() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    assert rolling_median(values, 3)[1:-1].tolist() == [float(np.median(values[i - 1 : i + 2])) for i in range(1, 7)]
    padded = np.concatenate([[3.0, 3.0], values])
    assert trailing_median(values, 3).tolist() == [float(np.median(padded[i : i + 3])) for i in range(8)]


def test_a_long_rolling_median_is_close_to_the_whole_one() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(-np.arange(60_000) / 20_000) * rng.gamma(8.0, 1 / 8.0, 60_000)
    long, parts = rolling_median(values, 501), rolling_median(values[:40_000], 501)
    # standard error of a median of 501: 0.35 * 1.25 / sqrt(501) = 2%; between two places it moves by less
    assert np.abs(long[:39_000] / parts[:39_000] - 1).max() < 0.04


@pytest.mark.slow
def test_a_million_steps_are_read_in_bounded_time(tmp_path: Path) -> None:
    import time

    steps, block = 10**6, 20_000
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=g)
    torch.manual_seed(0)
    problem = Problem(torch.nn.Linear(10, 1), torch.nn.functional.mse_loss, (x, x[:, :1]), name="regression")
    meta = {
        "problem": "regression", "d": problem.dim, "n": problem.n, "batch_size": 4, "sampling": "with replacement",
        "optimizer": {"name": "SGD", "arguments": {"lr": 0.05}}, "steps_done": steps, "status": "finished",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    with Run.create(tmp_path / "r", meta) as run:
        for begin in range(0, steps, block):
            k = np.arange(begin, begin + block)
            losses = (0.3 + 2.0 * np.exp(-k / 1500)) * rng.gamma(8.0, 1 / 8.0, block)
            run.record_many(k, {"loss": losses, "lr": [0.05] * block, "gradient_norm": np.sqrt(losses)})
        grid = np.linspace(0, steps, 160).astype(int)
        run.record_many(grid, {"full_loss": 0.26 + 2.0 * np.exp(-grid / 1500) + 0.01 * rng.standard_normal(160)})
        run.save_block("theta", grid, problem.theta + 0.01 * torch.randn(160, problem.dim, generator=g))
    size = sum(file.stat().st_size for file in (tmp_path / "r").rglob("*"))
    assert size < 80e6
    begun = time.process_time()
    verdict = tame.audit(Run.open(tmp_path / "r"), problem=problem).verdict
    assert time.process_time() - begun < 120
    assert verdict.kind == "noise floor"
