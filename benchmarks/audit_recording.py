"""What does recording cost?

Question: how much longer does training digits-mlp take with the audit's record (loss, step and gradient norm of each
step, F and its gradient on a grid, iterates and windows) than the same loop without any?

    python benchmarks/audit_recording.py --repeats 7

Both loops run in one process, in turn, with the same batches; medians and quartiles of the ratio are printed.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import tameopt as tame
from tameopt.audit.training import train
from tameopt.batches import index_batches
from tameopt.problem import Problem


def plain(problem: Problem, steps: int, lr: float, batch_size: int) -> float:
    """The same training by hand, without a record; seconds."""
    import copy

    model = copy.deepcopy(problem.model)
    optimizer = tame.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    draws = index_batches(problem.n, batch_size, generator)
    begun = time.perf_counter()
    for _ in range(steps):
        x, y = problem.batches.pick(next(draws))
        optimizer.zero_grad(set_to_none=True)
        problem.loss(model(x), y).backward()
        optimizer.step()
    return time.perf_counter() - begun


def recorded(problem: Problem, steps: int, lr: float, batch_size: int) -> tuple[float, float]:
    """The same with the record; (seconds in all, seconds on the grid and writing)."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run = train(problem, lr=lr, steps=steps, batch_size=batch_size, out=Path(folder) / "run")
        return time.perf_counter() - begun, float(run.meta["seconds_recording"])


def main() -> None:
    """Alternate the two loops and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = tame.problems.load("digits-mlp")
    settings = {"steps": options.steps, "lr": 0.05, "batch_size": 64}
    plain(problem, **settings)
    off, on, writing = [], [], []
    for _ in range(options.repeats):
        off.append(plain(problem, **settings))
        seconds, part = recorded(problem, **settings)
        on.append(seconds)
        writing.append(part)
    ratios = np.array(on) / np.array(off)
    print(f"tameopt {tame.__version__}, torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s)")
    print(f"{options.steps:,} steps, {options.repeats} repeats")
    for name, seconds in (("without record", off), ("with record", on), ("  grid and writing", writing)):
        low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        print(f"{name:20} {1e6 * middle / options.steps:8.1f} us a step   [{1e6 * low / options.steps:.1f}, "
              f"{1e6 * high / options.steps:.1f}]")  # fmt: skip
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"ratio                {middle:8.2f}             [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
