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
    for k in range(steps + 1):
        value, full = problem.value_and_gradient(theta)
        if batch_size is None:
            loss, gradient = value, full
        else:
            drawn = torch.randint(problem.n, (batch_size,), generator=generator)
            loss, gradient = problem.batch_gradient(theta, problem.batches.pick(drawn))
        scalars = {"loss": float(loss), "lr": alpha, "gradient_norm": float(gradient.norm())}
        if k % every == 0 or k == steps:
            scalars |= {"full_loss": float(value), "full_gradient_norm": float(full.norm())}
            run.save_vectors(k, {"theta": theta})
        run.record(k, scalars)
        if not bool(torch.isfinite(value)):
            run.update_meta({"status": "diverged"})
            break
        theta = theta - alpha * gradient
    else:
        run.update_meta({"status": "finished"})
    return run
