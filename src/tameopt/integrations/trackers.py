"""A recorded run sent to the trackers people have: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tameopt.run import Run


def scalars(run: Run) -> Iterator[tuple[str, int, float]]:
    """(name, step, number) of everything recorded, NaN left out, by name and step."""
    for name in run.names:
        steps, numbers = run.series(name)
        for step, number in zip(steps.tolist(), numbers.tolist(), strict=True):
            if not math.isnan(number):
                yield name, step, number


def to_tensorboard(run: Run, writer: Any) -> int:
    """Write a run to a torch.utils.tensorboard.SummaryWriter; the tags are "tameopt/<name>".

    Returns how many numbers were written.
    """
    written = 0
    for name, step, number in scalars(run):
        writer.add_scalar(f"tameopt/{name}", number, step)
        written += 1
    writer.flush()
    return written


def to_wandb(run: Run, tracked: Any) -> int:
    """Log a run to an object with wandb.Run's `log(dict, step=)`, by increasing step as it demands.

    Returns how many numbers were written.
    """
    by_step: dict[int, dict[str, float]] = {}
    for name, step, number in scalars(run):
        by_step.setdefault(step, {})[f"tameopt/{name}"] = number
    for step in sorted(by_step):
        tracked.log(by_step[step], step=step)
    return sum(len(numbers) for numbers in by_step.values())


def to_mlflow(run: Run, client: Any, run_id: str) -> int:
    """Log a run through an mlflow.MlflowClient to the MLflow run `run_id`.

    Returns how many numbers were written.
    """
    written = 0
    for name, step, number in scalars(run):
        client.log_metric(run_id, f"tameopt/{name}", number, step=step)
        written += 1
    client.set_tag(run_id, "tameopt.status", run.status)
    return written
