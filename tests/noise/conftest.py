"""A recorded run of stochastic gradient on digits, made once: what the audit records, made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tameopt import problems
from tameopt.batches import index_batches
from tameopt.optim import schedules
from tameopt.problem import Problem
from tameopt.run import Run


def _train(
    folder: Path,
    problem: Problem,
    schedule: schedules.Schedule,
    num_steps: int,
    batch_size: int | None,
    *,
    windows: tuple[tuple[int, int], ...] = (),
    sampling: str = "with replacement",
    momentum: float = 0.0,
    meta: dict[str, Any] | None = None,
    every: int = 20,
    seed: int = 0,
) -> Run:
    """SGD by hand with the record that the noise analyses read; batch_size None is the full batch."""
    generator = torch.Generator().manual_seed(seed)
    batches = (
        None if batch_size is None else index_batches(problem.n, batch_size, generator, sampling != "reshuffled")
    )
    run = Run.create(
        folder,
        {
            "optimizer": {"name": "SGD", "arguments": {"lr": schedule(0), "momentum": momentum}},
            "schedule": schedule.to_json(),
            "batch_size": batch_size,
            "n": problem.n,
            "d": problem.dim,
            "sampling": "full batch" if batch_size is None else sampling,
            "initial_law": problem.initial_law,
            "windows": [list(window) for window in windows],
            **(meta or {}),
        },
    )
    theta, velocity = problem.theta, torch.zeros(problem.dim, dtype=problem.dtype)
    held: dict[tuple[int, int], list[torch.Tensor]] = {window: [] for window in windows}
    rows: dict[str, list[float]] = {"loss": [], "lr": [], "gradient_norm": []}
    for k in range(num_steps):
        if k % every == 0:
            value, full = problem.value_and_gradient(theta)
            run.record(k, {"full_loss": float(value), "full_gradient_norm": float(full.norm())})
            run.save_vectors(k, {"theta": theta})
        for window, thetas in held.items():
            if window[0] <= k <= window[1]:
                thetas.append(theta.clone())
        if batches is None:
            loss, gradient = problem.value_and_gradient(theta)
        else:
            loss, gradient = problem.batch_gradient(theta, problem.batches.pick(next(batches)))
        alpha = schedule(k)
        for name, number in (("loss", loss), ("lr", alpha), ("gradient_norm", gradient.norm())):
            rows[name].append(float(number))
        velocity = momentum * velocity + gradient
        theta = theta - alpha * velocity
    run.record_many(range(num_steps), rows)
    for window, thetas in held.items():
        run.save_block("theta", range(window[0], window[1] + 1), torch.stack(thetas))
    run.save_vectors(num_steps, {"theta": theta})
    run.record(num_steps, {"full_loss": float(problem.value(theta))})
    return run


@pytest.fixture(scope="session")
def train() -> Callable[..., Run]:
    """The training loop above, for tests that need runs of their own."""
    return _train


@pytest.fixture(scope="session")
def digits() -> Problem:
    return problems.load("digits-mlp", n=400, width=16).to(torch.float64)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, digits: Problem) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with _train(
        folder, digits, schedules.Power(0.3, 0.75, shift=10), 600, 32, windows=((100, 160), (500, 560))
    ) as run:
        yield run
