"""Short runs for the tests, recorded the way the audit records them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tameopt.problem import Problem
from tameopt.run import Run


def record_descent(
    folder: Path,
    problem: Problem,
    alpha: float,
    steps: int,
    *,
    grid: int = 100,
    batch_size: int | None = None,
    seed: int = 0,
    meta: dict[str, Any] | None = None,
) -> Run:
    """(Stochastic) gradient descent with a constant step, recorded at `grid` steps."""
    generator = torch.Generator().manual_seed(seed)
    theta = problem.theta
    every = max(1, steps // grid)
    settings = {
        "problem": problem.name,
        "d": problem.dim,
        "n": problem.n,
        "optimizer": {"name": "SGD", "arguments": {"lr": alpha}},
        "batch_size": batch_size or problem.n,
        "sampling": "full batch" if batch_size is None else "with replacement",
        "seed": seed,
        **(meta or {}),
    }
    run = Run.create(folder, settings)
    every_step: dict[str, list[float]] = {"loss": [], "lr": [], "gradient_norm": []}
    on_grid: dict[str, list[float]] = {"full_loss": [], "full_gradient_norm": []}
    saved, thetas, status = [], [], "finished"
    for k in range(steps + 1):
        wanted = k % every == 0 or k == steps
        if batch_size is None:
            loss, gradient = problem.value_and_gradient(theta)
            value, full = loss, gradient
        else:
            drawn = torch.randint(problem.n, (batch_size,), generator=generator)
            loss, gradient = problem.batch_gradient(theta, problem.batches.pick(drawn))
            if wanted:
                value, full = problem.value_and_gradient(theta)
        for name, number in (("loss", loss), ("lr", alpha), ("gradient_norm", gradient.norm())):
            every_step[name].append(float(number))
        if wanted:
            on_grid["full_loss"].append(float(value))
            on_grid["full_gradient_norm"].append(float(full.norm()))
            saved.append(k)
            thetas.append(theta)
        if not bool(torch.isfinite(loss)):
            status = "diverged"
            break
        theta = theta - alpha * gradient
    run.record_many(range(len(every_step["loss"])), every_step)
    run.record_many(saved, on_grid)
    run.save_block("theta", saved, torch.stack(thetas))
    run.update_meta({"status": status})
    return run
