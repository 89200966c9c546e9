"""The ODE method on digits-mlp, and the size and power of the martingale-difference tests.

    python benchmarks/noise.py [windows] [size] [power]

windows: D_T over 20 windows of a run of stochastic gradient, steps 0.5 (k+10)^-3/4; seconds of the measurement
alone, and its processor time, which other work on the machine does not stretch.
size: false alarms of the tests at 5%, n = 500 and 5,000 (minutes). power: rejections of known departures.
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
from tameopt.noise import noise_tests, pseudo_trajectory
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


def size() -> None:
    print("\n## False alarms at the level 5%\n")
    for m, trials in ((500, 4000), (5000, 1500)):
        rng = np.random.default_rng(m)
        begun = time.perf_counter()
        laws = {"Gaussian": 0, "Student t5": 0, "skewed (exponential - 1)": 0}
        for seed in range(trials):
            for law in laws:
                draw = {
                    "Gaussian": lambda: rng.normal(size=(m, 1)),  # noqa: B023
                    "Student t5": lambda: rng.standard_t(5, (m, 1)),  # noqa: B023
                    "skewed (exponential - 1)": lambda: rng.exponential(size=(m, 1)) - 1,  # noqa: B023
                }[law]()
                if law == "Gaussian" or seed < trials // 2:
                    laws[law] += noise_tests(draw, seed=seed, power=False).rejected
        for law, count in laws.items():
            runs = trials if law == "Gaussian" else trials // 2
            share = count / runs
            print(
                f"n = {m:,}, {law}: {100 * share:.2f}% +- {100 * (share * (1 - share) / runs) ** 0.5:.2f} "
                f"({runs:,} simulations)"
            )
        print(f"  {time.perf_counter() - begun:.0f} s", flush=True)


def power() -> None:
    print("\n## Rejections of known departures at the level 5%, 200 simulations each\n")
    for m, d in ((60, 20), (160, 20), (500, 1), (500, 20)):
        rng = np.random.default_rng(m + d)
        counts = {"bias 0.2": 0, "correlation 0.2": 0, "reshuffling, 10 batches an epoch": 0}
        for seed in range(200):
            noise = rng.normal(size=(m + 1, d))
            shift = np.zeros(d)
            shift[0] = 0.2 * d**0.5
            blocks = noise[: m // 10 * 10].reshape(-1, 10, d)
            copies = (
                noise + shift,
                noise[1:] + 0.2 * noise[:-1],
                (blocks - blocks.mean(1, keepdims=True)).reshape(-1, d),
            )
            for name, copy in zip(counts, copies, strict=True):
                counts[name] += noise_tests(copy, epoch=10, seed=seed, power=False).rejected
        shares = ", ".join(f"{name} {count / 2:.0f}%" for name, count in counts.items())
        print(f"n = {m}, d = {d}: {shares}", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["windows", "power"]
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} thread(s)")
    if "windows" in wanted:
        windows()
    if "power" in wanted:
        power()
    if "size" in wanted:
        size()
