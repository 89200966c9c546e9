"""Runs whose long-run behaviour is known by construction: true examples of each kind of verdict, and near misses.

A generator takes a seed and a folder, trains (or writes) a run there, and returns its problem and the record. The
label is what the construction makes true, not what the tool answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import tameopt as tame
from tameopt.audit.training import train
from tameopt.problem import Problem
from tameopt.run import Run

Case = Callable[[int, Path], tuple[Problem, Run]]


@dataclass(frozen=True)
class Labelled:
    """kinds: the verdicts that are right (the first is the label). near_miss: resembles another kind, named."""

    name: str
    kinds: tuple[str, ...]
    make: Case
    near_miss: str = ""


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _quadratic(seed: int, eigenvalues: tuple[float, ...]) -> Problem:
    return tame.problems.load("quadratic", eigenvalues=eigenvalues, seed=seed)


def _digits(
    seed: int, n: int = 600, width: int = 16, loss: nn.Module | None = None, tail: nn.Module | None = None
) -> Problem:
    from tameopt.problems._digits import digits

    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)]
    if tail is not None:
        layers.append(tail)
    return Problem(nn.Sequential(*layers), loss or nn.CrossEntropyLoss(), digits(n), name="digits")


def _regression(seed: int, n: int = 200, d: int = 10, noise: float = 0.5) -> Problem:
    g = _generator(seed)
    x = torch.randn(n, d, generator=g)
    y = x @ torch.randn(d, 1, generator=g) + noise * torch.randn(n, 1, generator=g)
    torch.manual_seed(seed)
    return Problem(nn.Linear(d, 1), nn.functional.mse_loss, (x, y), name="regression")


# -- converging and converged ----------------------------------------------------------------------------------


def converging_linear(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (0.01, 0.5, 1.0, 2.0))
    return p, train(p, lr=0.5, steps=400, out=out)


def converging_power(seed: int, out: Path) -> tuple[Problem, Run]:
    theta0 = 1.0 + torch.rand(3, dtype=torch.float64, generator=_generator(seed))
    p = Problem.from_function(lambda theta: (theta**4).sum(), theta0, name="quartic")
    return p, train(p, lr=0.02, steps=1500, out=out)


def converging_digits(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed)
    return p, train(p, lr=0.2, steps=600, batch_size=None, seed=seed, out=out)


def converged_quadratic(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (1.0, 2.0, 5.0))
    return p, train(p, lr=0.2, steps=400, out=out)


def converged_saddle_function(seed: int, out: Path) -> tuple[Problem, Run]:
    p = tame.problems.load("saddle", seed=seed)
    return p, train(p, lr=0.2, steps=400, out=out)


def converged_regression(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _regression(seed).to(torch.float64)
    torch.manual_seed(seed)
    model = nn.Linear(10, 1).double()
    x, y = p.batches.whole
    p = Problem(model, nn.functional.mse_loss, (x, y), name="regression")
    return p, train(p, lr=0.2, steps=1500, out=out)


# -- points ----------------------------------------------------------------------------------------------------


def at_saddle(seed: int, out: Path) -> tuple[Problem, Run]:
    x = float(1.0 + torch.rand((), generator=_generator(seed)))
    p = tame.problems.load("saddle", start=(x, 0.0))
    return p, train(p, lr=0.2, steps=300, out=out)


def near_saddle(seed: int, out: Path) -> tuple[Problem, Run]:
    x = float(0.5 + torch.rand((), generator=_generator(seed)))
    p = tame.problems.load("saddle", start=(x, 1e-9))
    return p, train(p, lr=0.05, steps=250, out=out)


def left_saddle(seed: int, out: Path) -> tuple[Problem, Run]:
    x = float(0.5 + torch.rand((), generator=_generator(seed)))
    p = tame.problems.load("saddle", start=(x, 1e-6))
    return p, train(p, lr=0.2, steps=600, out=out)


def kink_l1(seed: int, out: Path) -> tuple[Problem, Run]:
    g = _generator(seed)
    weights = 0.5 + torch.rand(2, dtype=torch.float64, generator=g)
    theta0 = torch.randn(2, dtype=torch.float64, generator=g)
    p = Problem.from_function(lambda theta: (weights * theta.abs()).sum(), theta0, name="l1")
    return p, train(p, lr=0.013, steps=600, out=out)


def kink_lasso(seed: int, out: Path) -> tuple[Problem, Run]:
    g = _generator(seed)
    centre = 0.2 * torch.rand(3, dtype=torch.float64, generator=g)
    theta0 = torch.randn(3, dtype=torch.float64, generator=g)
    p = Problem.from_function(
        lambda theta: 0.5 * (theta - centre).square().sum() + theta.abs().sum(), theta0, name="lasso"
    )
    return p, train(p, lr=0.02, steps=600, out=out)


def beside_kink(seed: int, out: Path) -> tuple[Problem, Run]:
    # the kink is crossed on the way; the minimum is smooth
    g = _generator(seed)
    theta0 = torch.randn(3, dtype=torch.float64, generator=g) - 2.0
    p = Problem.from_function(
        lambda theta: 0.5 * (theta - 3.0).square().sum() + theta.abs().sum(), theta0, name="smooth minimum"
    )
    return p, train(p, lr=0.1, steps=500, out=out)


def degenerate_valley(seed: int, out: Path) -> tuple[Problem, Run]:
    theta0 = torch.randn(3, dtype=torch.float64, generator=_generator(seed))
    p = Problem.from_function(
        lambda theta: theta[0] ** 2 + theta[1].sin() ** 2 * theta[0] ** 2 - 1, theta0, name="valley"
    )
    return p, train(p, lr=0.2, steps=400, out=out)


def non_strict_saddle(seed: int, out: Path) -> tuple[Problem, Run]:
    # x^2/2 + y^3/3 from y = 0: the saddle without negative curvature, exactly
    x = float(1.0 + torch.rand((), generator=_generator(seed)))
    p = Problem.from_function(
        lambda theta: theta[0] ** 2 / 2 + theta[1] ** 3 / 3, torch.tensor([x, 0.0], dtype=torch.float64), name="cubic"
    )
    return p, train(p, lr=0.3, steps=300, out=out)


# -- steps -----------------------------------------------------------------------------------------------------


def diverged_quadratic(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (1.0, 2.0, 10.0))
    return p, train(p, lr=0.25, steps=500, out=out)


def diverged_regression(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _regression(seed)
    return p, train(p, lr=2.0, steps=300, batch_size=20, seed=seed, out=out)


def edge_of_stability(seed: int, out: Path) -> tuple[Problem, Run]:
    # the sharpness of a tanh network under squared error rises to 2/alpha and stays there (Cohen et al. 2021)
    g = _generator(seed)
    x, y = torch.randn(40, 5, generator=g), torch.sign(torch.randn(40, 1, generator=g))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 1))
    p = Problem(model, nn.functional.mse_loss, (x, y), name="tanh")
    return p, train(p, lr=0.4, steps=700, batch_size=None, out=out)


def just_stable(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (0.02, 1.0, 2.0))
    return p, train(p, lr=0.9, steps=150, out=out)


def period_two(seed: int, out: Path) -> tuple[Problem, Run]:
    # a double well whose minima are steeper than 2/alpha: gradient descent ends on a cycle
    theta0 = 0.5 + 0.4 * torch.rand(1, dtype=torch.float64, generator=_generator(seed))
    p = Problem.from_function(lambda theta: (theta**4 / 4 - theta**2 / 2).sum(), theta0, name="double well")
    return p, train(p, lr=1.15, steps=400, out=out)


def heavy_ball(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (1.0,))
    return p, train(p, lr=0.01, steps=600, arguments={"momentum": 0.999}, out=out)


def damped_ball(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (0.5, 1.0, 2.0))
    return p, train(p, lr=0.01, steps=160, arguments={"momentum": 0.8}, out=out)


def too_small_digits(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed)
    return p, train(p, lr=1e-3, steps=400, batch_size=None, seed=seed, out=out)


def too_small_quadratic(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (1.0, 2.0, 5.0))
    return p, train(p, lr=1e-4, steps=500, out=out)


def small_but_done(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _quadratic(seed, (1.0, 2.0, 5.0))
    return p, train(p, lr=8e-3, steps=800, out=out)


# -- noise -----------------------------------------------------------------------------------------------------


def floor_regression(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _regression(seed)
    return p, train(p, lr=0.05, steps=3000, batch_size=4, seed=seed, out=out)


def floor_digits_linear(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _regression(seed, n=400, d=5, noise=2.0)
    return p, train(p, lr=0.1, steps=2500, batch_size=8, seed=seed, out=out)


def above_floor(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed, n=600)
    return p, train(p, lr=0.05, steps=1500, batch_size=64, seed=seed, out=out)


# -- networks that learn nothing --------------------------------------------------------------------------------


def chance_tiny_step(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed)
    with torch.no_grad():
        p.model[2].weight.mul_(1e-3)
        p.model[2].bias.zero_()
    return p, train(p, lr=1e-5, steps=300, batch_size=64, seed=seed, out=out)


def chance_saturated_softmax(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed, tail=nn.Softmax(dim=1))
    return p, train(p, lr=0.01, steps=300, batch_size=64, seed=seed, out=out)


def chance_blank_inputs(seed: int, out: Path) -> tuple[Problem, Run]:
    torch.manual_seed(seed)
    y = torch.arange(400) % 10
    p = Problem(
        nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 10)), nn.CrossEntropyLoss(), (torch.ones(400, 8), y)
    )
    return p, train(p, lr=0.1, steps=500, batch_size=64, seed=seed, out=out)


def dead_layer(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed)
    with torch.no_grad():
        p.model[0].bias.fill_(-50.0)
    return p, train(p, lr=0.1, steps=400, batch_size=64, seed=seed, out=out)


def half_dead_but_learning(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed, width=32)
    with torch.no_grad():
        p.model[0].bias[:12] = -50.0
    return p, train(p, lr=0.05, steps=1200, batch_size=64, seed=seed, out=out)


# -- numbers that break -----------------------------------------------------------------------------------------


def nan_in_loss(seed: int, out: Path) -> tuple[Problem, Run]:
    # the loss rewards larger outputs until the logarithm's argument turns negative
    torch.manual_seed(seed)
    x = torch.rand(64, 4)
    model = nn.Linear(4, 2)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        z = output.mean(dim=1)
        return (0.05 * torch.log(0.9 - z) - z + 3.0).mean()

    with torch.no_grad():
        model.weight.mul_(0.1)
        model.bias.fill_(0.1)
    p = Problem(model, loss, (x, torch.zeros(64, 1)), name="log")
    return p, train(p, lr=0.05, steps=400, batch_size=16, seed=seed, out=out)


def nan_in_gradient(seed: int, out: Path) -> tuple[Problem, Run]:
    # the square root's derivative at 0: values stay finite, gradients do not
    theta0 = torch.tensor([0.5 + 0.1 * (seed % 10), 1.0], dtype=torch.float64)  # near enough to get there

    def F(theta: torch.Tensor) -> torch.Tensor:
        root = torch.where(theta[0] > 0, theta[0].sqrt(), -theta[0])
        return root + 0.5 * theta[1] ** 2

    p = Problem.from_function(F, theta0, name="root")
    return p, train(p, lr=0.05, steps=400, out=out)


# -- shapes of the record ---------------------------------------------------------------------------------------


def _written(
    out: Path, problem: Problem, theta: torch.Tensor, losses: np.ndarray, meta: dict[str, object], **events: int
) -> Run:
    """A record with these losses at every step, as a training loop with faults would leave it."""
    steps = np.arange(losses.size)
    base = {
        "problem": problem.name, "target": problem.name, "d": problem.dim, "n": problem.n, "dtype": "float32",
        "optimizer": {"name": "SGD", "arguments": {"lr": 0.05}}, "schedule": {"kind": "constant", "a": 0.05},
        "batch_size": 20, "sampling": "with replacement", "seed": 0, "steps_planned": losses.size,
        "steps_done": int(losses.size), "status": "finished",
    }  # fmt: skip
    with Run.create(out, {**base, **meta}) as run:
        norms = np.sqrt(np.maximum(losses, 1e-12))
        run.record_many(
            steps.tolist(), {"loss": losses.tolist(), "lr": [0.05] * losses.size, "gradient_norm": norms.tolist()}
        )
        for kind, step in events.items():
            run.event(step, kind)
        run.save_vectors(int(losses.size), {"theta": theta})
    return Run.open(out)


def spike_from_batch(seed: int, out: Path) -> tuple[Problem, Run]:
    # one batch of outliers is drawn at one step; training recovers
    g = _generator(seed)
    x = torch.randn(400, 10, generator=g)
    y = x @ torch.randn(10, 1, generator=g) + 0.3 * torch.randn(400, 1, generator=g)
    torch.manual_seed(seed)
    calls = 0

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        # only training sees batches of 20 with gradients; the measurements see all samples
        training = output.requires_grad and output.shape[0] == 20
        calls += training
        wrong = target * (-60.0 if training and calls == 900 else 1.0)
        return (output - wrong).square().mean()

    p = Problem(nn.Linear(10, 1), loss, (x, y), name="outlier")
    calls = 0
    return p, train(p, lr=0.02, steps=1500, batch_size=20, seed=seed, out=out)


def one_hard_batch(seed: int, out: Path) -> tuple[Problem, Run]:
    # single high losses that do not last are sampling, not spikes
    rng = np.random.default_rng(seed)
    p = _regression(seed)
    k = np.arange(2000)
    losses = (0.3 + 2.0 * np.exp(-k / 150)) * rng.gamma(8.0, 1 / 8.0, 2000)
    losses[rng.choice(np.arange(400, 2000), 5, replace=False)] *= 6
    return p, _written(out, p, p.theta, losses, {})


def adam_late_rise(seed: int, out: Path) -> tuple[Problem, Run]:
    # the loss was nearly 0, then a rare sample meets tiny second moments and a constant large step
    torch.manual_seed(seed)
    g = _generator(seed)
    x = torch.randn(200, 10, generator=g)
    y = x @ torch.randn(10, 1, generator=g)
    calls = 0

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += output.requires_grad
        drift = 3.0 * min(1.0, max(0, calls - 700) / 600)
        return (output - target + drift * x_mean(target)).square().mean()

    def x_mean(target: torch.Tensor) -> torch.Tensor:
        return torch.sin(37.0 * target)

    p = Problem(nn.Linear(10, 1), loss, (x, y), name="drifting")
    calls = 0
    return p, train(p, optimizer="Adam", lr=0.02, steps=1500, batch_size=None, seed=seed, out=out)


def adam_converges(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _regression(seed, noise=0.3)
    return p, train(p, optimizer="Adam", lr=0.01, steps=350, batch_size=None, seed=seed, out=out)


def epochs_memorised(seed: int, out: Path) -> tuple[Problem, Run]:
    # each sample pulls only its own coordinates: the loss of a batch falls when, and only when, it is visited
    g = _generator(seed)
    x = torch.eye(400) * 2.0
    y = torch.randn(400, 1, generator=g) + 3.0
    torch.manual_seed(seed)
    model = nn.Linear(400, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    p = Problem(model, nn.functional.mse_loss, (x, y), name="memory")
    return p, train(p, lr=0.6, steps=160, batch_size=20, sampling="reshuffled", seed=seed, out=out)


def epochs_smooth(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed, n=600)
    return p, train(p, lr=0.05, steps=1200, batch_size=30, sampling="reshuffled", seed=seed, out=out)


def _resumed(seed: int, out: Path, restored: bool) -> tuple[Problem, Run]:
    """Adam stopped and taken up at step 600; without its moments and with a cold, ten times larger step."""
    p = _regression(seed, noise=0.3)
    rng = np.random.default_rng(seed)
    k = np.arange(1200)
    level = 0.1 + 5.0 * np.exp(-k / 120)
    if not restored:
        level = level + np.where(k >= 600, 1.5 * np.exp(-(k - 600) / 60), 0.0)
    losses = level * rng.gamma(10.0, 0.1, k.size)
    return p, _written(
        out, p, p.theta, losses, {"optimizer": {"name": "Adam", "arguments": {"lr": 0.05}}}, resumed=600
    )


def resumed_badly(seed: int, out: Path) -> tuple[Problem, Run]:
    return _resumed(seed, out, False)


def resumed_well(seed: int, out: Path) -> tuple[Problem, Run]:
    return _resumed(seed, out, True)


def too_short(seed: int, out: Path) -> tuple[Problem, Run]:
    p = _digits(seed, n=600)
    return p, train(p, lr=0.02, steps=6, batch_size=8, seed=seed, out=out)


CASES: tuple[Labelled, ...] = (
    Labelled("converging linear", ("converging",), converging_linear),
    Labelled("converging like a power", ("converging",), converging_power),
    Labelled("digits, full batch", ("converging",), converging_digits),
    Labelled("converged quadratic", ("converged",), converged_quadratic),
    Labelled("converged double well", ("converged",), converged_saddle_function),
    Labelled("converged regression", ("converged",), converged_regression),
    Labelled("on a strict saddle", ("strict saddle",), at_saddle),
    Labelled("near a strict saddle", ("strict saddle",), near_saddle),
    Labelled("left a strict saddle", ("converged",), left_saddle, "strict saddle"),
    Labelled("l1 kink", ("kink",), kink_l1),
    Labelled("lasso kink", ("kink",), kink_lasso),
    Labelled("smooth minimum past a kink", ("converged",), beside_kink, "kink"),
    Labelled("flat valley", ("degenerate", "converged"), degenerate_valley),
    Labelled("saddle without negative curvature", ("degenerate",), non_strict_saddle, "strict saddle"),
    Labelled("diverging quadratic", ("diverged",), diverged_quadratic),
    Labelled("diverging regression", ("diverged",), diverged_regression),
    Labelled("edge of stability", ("step too large",), edge_of_stability),
    Labelled("0.9 of the limit", ("converging",), just_stable, "step too large"),
    Labelled("period two", ("step too large", "oscillation"), period_two),
    Labelled("heavy ball 0.999", ("oscillation",), heavy_ball),
    Labelled("heavy ball 0.8", ("converging",), damped_ball, "oscillation"),
    Labelled("tiny step, digits", ("step too small", "chance level"), too_small_digits),
    Labelled("tiny step, quadratic", ("step too small",), too_small_quadratic),
    Labelled("small step, finished", ("converging", "converged"), small_but_done, "step too small"),
    Labelled("noise floor, regression", ("noise floor",), floor_regression),
    Labelled("noise floor, noisy targets", ("noise floor",), floor_digits_linear),
    Labelled("above the noise floor", ("converging",), above_floor, "noise floor"),
    Labelled("chance level, tiny step", ("chance level", "step too small"), chance_tiny_step),
    Labelled("chance level, softmax twice", ("chance level",), chance_saturated_softmax),
    Labelled("chance level, blank inputs", ("chance level",), chance_blank_inputs),
    Labelled("dead layer", ("dead units",), dead_layer),
    Labelled("some dead units, learning", ("converging",), half_dead_but_learning, "dead units"),
    Labelled("NaN in the loss", ("non-finite",), nan_in_loss),
    Labelled("NaN in the gradient", ("non-finite",), nan_in_gradient),
    Labelled("spike from a batch", ("spikes",), spike_from_batch),
    Labelled("single hard batches", ("noise floor", "undecided"), one_hard_batch, "spikes"),
    Labelled("Adam rises late", ("late rise",), adam_late_rise),
    Labelled("Adam converges", ("converging",), adam_converges, "late rise"),
    Labelled("epochs memorised", ("epoch-aligned steps",), epochs_memorised),
    Labelled("epochs without steps", ("converging",), epochs_smooth, "epoch-aligned steps"),
    Labelled("resumed without state", ("resume discontinuity",), resumed_badly),
    Labelled("resumed with state", ("noise floor", "converging", "undecided"), resumed_well, "resume discontinuity"),
    Labelled("six steps", ("undecided",), too_short),
)
