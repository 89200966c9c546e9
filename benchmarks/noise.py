"""The ODE method on digits-mlp and on a small convolutional network.

    python benchmarks/noise.py

D_T over 20 windows of a run of stochastic gradient, steps 0.5 (k+10)^-3/4; seconds of the measurement
alone, and its processor time, which other work on the machine stretches less.
"""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

import torch

from tameopt import problems
from tameopt.noise import pseudo_trajectory
from tameopt.optim.schedules import Power
from tameopt.problem import Problem
from tameopt.run import Run

WINDOWS = ((20, 60), (200, 300), (1000, 1200), (2700, 2999))


def recorded(folder: Path, problem: Problem, batch_size: int = 64, steps: int = 3000) -> Run:
    """Plain stochastic gradient, its step sizes and windows of consecutive iterates recorded."""
    schedule = Power(0.5, 0.75, shift=10)
    batches = problem.sample_batches(batch_size, torch.Generator().manual_seed(0))
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


if __name__ == "__main__":
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} thread(s)")
    windows()
