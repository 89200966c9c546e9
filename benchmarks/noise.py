"""The ODE method on digits-mlp and on a small convolutional network, and the constant of its law where it is known.

    python benchmarks/noise.py [windows] [constant]

windows: D_T over 20 windows of a run of stochastic gradient, steps 0.5 (k+10)^-3/4; seconds of the measurement
alone, and its processor time, which other work on the machine stretches less.
constant: E D_T / sqrt(alpha_k) for F = x^2/2, unit Gaussian noise, alpha_k = (k+1)^-3/4, T = 1. The distance from
the flow is the chain delta_{j+1} = (1 - alpha_j) delta_j - alpha_j xi_j (what the discretisation adds is of relative
order alpha): simulated, and for the first k integrated step by step, without random numbers.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tameopt import problems
from tameopt.batches import index_batches
from tameopt.noise import pseudo_trajectory
from tameopt.optim.schedules import Power
from tameopt.problem import Problem
from tameopt.run import Run

WINDOWS = ((20, 60), (200, 300), (1000, 1200), (2700, 2999))


def recorded(folder: Path, problem: Problem, batch_size: int = 64, steps: int = 3000) -> Run:
    """Plain stochastic gradient, its step sizes and windows of consecutive iterates recorded."""
    schedule = Power(0.5, 0.75, shift=10)
    batches = index_batches(problem.n, batch_size, torch.Generator().manual_seed(0))
    run = Run.create(folder, {"schedule": schedule.to_json(), "sampling": "with replacement"})
    theta, held = problem.theta, {window: [] for window in WINDOWS}
    for k in range(steps):
        for window, thetas in held.items():
            if window[0] <= k <= window[1]:
                thetas.append(theta)
        theta = theta - schedule(k) * problem.batch_gradient(theta, problem.batches.pick(next(batches)))[1]
    run.record_many(range(steps), {"lr": schedule.alphas(steps)})
    for (first, last), thetas in held.items():
        run.save_block("theta", range(first, last + 1), torch.stack(thetas))
    return run


def convolutional() -> Problem:
    """A small convolutional network on the same digits."""
    source = problems.load("digits-mlp")
    images, labels = source.batches.whole
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(72, 10)
    )
    data = (images[:600].view(-1, 1, 8, 8), labels[:600])
    return Problem(model, torch.nn.CrossEntropyLoss(), data, name="digits-cnn")


def windows() -> None:
    print("\n## D_T over 20 windows\n")
    for problem in (problems.load("digits-mlp"), convolutional()):
        with tempfile.TemporaryDirectory() as folder, recorded(Path(folder) / "run", problem) as run:
            begun, spent = time.perf_counter(), time.process_time()
            found = pseudo_trajectory(problem, run, windows=20)
            seconds, processor = time.perf_counter() - begun, time.process_time() - spent
        cost = f"{seconds:.1f} s ({processor:.1f} s of processor time), {found.evaluations:,} gradients"
        print(f"{problem}: {cost}\n  {found!r}")
        print(
            "  D_T / (discretisation + noise): " + ", ".join(f"{ratio:.2f}" for ratio in found.explained), flush=True
        )


def steps_of_the_window(k: int) -> np.ndarray:
    """alpha_k, alpha_{k+1}, … until they sum to 1."""
    alphas = (np.arange(k, 2 * k) + 1.0) ** -0.75
    return alphas[: int(np.searchsorted(np.cumsum(alphas), 1.0))]


def simulated(alphas: np.ndarray, paths: int = 200_000) -> tuple[float, float]:
    """(E max |delta_j|/sqrt(alpha_k), its standard error)."""
    rng, delta, top = np.random.default_rng(0), np.zeros(paths), np.zeros(paths)
    for alpha in alphas:
        delta = (1 - alpha) * delta - alpha * rng.standard_normal(paths)
        np.maximum(top, np.abs(delta), out=top)
    top /= np.sqrt(alphas[0])
    return float(top.mean()), float(top.std()) / paths**0.5


def integrated(alphas: np.ndarray, nodes: int = 160, levels: int = 36) -> float:
    """The same number: the integral over r of P(max |delta_j| > r sqrt(alpha_k)), the density of |delta_j| below the
    level carried from step to step by Gauss-Legendre quadrature."""

    def rule(count: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        x, w = np.polynomial.legendre.leggauss(count)
        return low + (high - low) * (x + 1) / 2, w * (high - low) / 2

    total = 0.1  # below 0.1 and above 4.2 the probability is 1 and 0 to 1e-5
    for r, weight in zip(*rule(levels, 0.1, 4.2), strict=True):
        x, w = rule(nodes, 0.0, r * alphas[0] ** 0.5)
        density = 2 * np.exp(-0.5 * (x / alphas[0]) ** 2) / (alphas[0] * (2 * np.pi) ** 0.5)
        for alpha in alphas[1:]:
            ahead = (np.exp(-0.5 * ((x[:, None] - sign * (1 - alpha) * x) / alpha) ** 2) for sign in (1, -1))
            density = sum(ahead) @ (density * w) / (alpha * (2 * np.pi) ** 0.5)
        total += weight * (1 - float(density @ w))
    return total


def constant() -> None:
    print("\n## E D_T / sqrt(alpha_k) for F = x^2/2\n")
    for k in (1_000, 4_000, 16_000):
        alphas = steps_of_the_window(k)
        mean, error = simulated(alphas)
        print(f"k = {k:,}: {mean:.4f} +- {error:.4f} simulated, {alphas.size} steps", flush=True)
    print(f"k = 1,000: {integrated(steps_of_the_window(1_000)):.4f} by quadrature")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} thread(s)")
    for name in sys.argv[1:] or ("windows", "constant"):
        {"windows": windows, "constant": constant}[name]()
