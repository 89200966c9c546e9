"""`tameopt lr`: which step sizes suit a problem or the end of a run, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tameopt.commands._common import (
    Command,
    ExitCode,
    Json,
    Panel,
    Quiet,
    Seed,
    Target,
    emit_json,
    printable,
    terminal,
)
from tameopt.commands._training import Argument, BatchSize, Objective, Optimizer, batch_size_of, objective, pairs

if TYPE_CHECKING:
    import torch

    from tameopt.audit.step_interval import StepInterval
    from tameopt.curvature.stability import StabilityLimit
    from tameopt.run import Run


def lr(
    target: Target = "digits-mlp",
    optimizer: Optimizer = None,
    argument: Argument = [],  # noqa: B006  typer copies it
    batch_size: BatchSize = None,
    problem: Objective = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Say which step sizes suit a problem at its start, or a recorded run at its last iterate, whole and by layer.

    From the curvature of the loss as trained (1/lambda_max, the optimizer's stability limit) and its gradient noise
    (the step that lowers it most in expectation). Local: curvature moves as training goes on.
    """
    import torch

    from tameopt.audit.step_interval import step_interval
    from tameopt.audit.targets import resolve
    from tameopt.commands._progress import progress
    from tameopt.curvature import stability_limit

    found = resolve(target, seed)
    function, theta, where = objective(problem, seed) or found.problem, None, "at the start"
    name, arguments = optimizer or str(found.training.get("optimizer", "SGD")), pairs(argument)
    size = batch_size_of(batch_size) or found.training.get("batch_size", 64) or "full"
    if function is None:
        raise ValueError(f"{target} does not say which problem it recorded: name it with --problem.")
    moments, replacement = None, True
    if found.run is not None:
        meta, steps = found.run.meta, found.run.vector_steps()
        if not len(steps):
            raise ValueError(f"{target} has no iterate on record: audit a run that saved theta.")
        last = int(steps[-1])
        theta, where = found.run.vector(last), f"at step {last:,}"
        replacement = meta.get("sampling") != "reshuffled"
        recorded = meta.get("optimizer") or {}
        name = optimizer or str(recorded.get("name", "SGD"))
        if optimizer is None:
            arguments = {**recorded.get("arguments", {}), **arguments}
        size = batch_size_of(batch_size) or (
            "full" if meta.get("sampling") == "full batch" else meta.get("batch_size") or 64
        )
        if name == recorded.get("name"):
            moments = _moments(found.run, last, stability_limit(name, arguments))
    if function.dtype is torch.float32 and function.dim <= 2_000_000:
        function = function.to(torch.float64)
    if theta is not None:
        theta = theta.to(function.device, function.dtype)
    with progress(quiet) as say:
        say("measuring curvature and noise")
        answer = step_interval(
            function,
            theta,
            optimizer=name,
            arguments=arguments,
            batch_size=None if size == "full" else int(size),
            replacement=replacement,
            moments=moments,
            seed=seed,
        )
    if as_json:
        emit_json({"target": found.text, "where": where, "sentences": answer.sentences(), "steps": answer})
    else:
        _print(answer, f"{found.text} {where}")
    return ExitCode.INTERRUPTED if answer.interrupted else None


def _moments(run: Run, step: int, limit: StabilityLimit) -> torch.Tensor | None:
    """The optimizer's second moments at a recorded step, None where there are none or they were not recorded."""
    from tameopt.curvature.step_findings import second_moments

    recorded = bool(limit.preconditioner) and step in run.vector_steps(limit.preconditioner).tolist()
    return second_moments(run, step, limit) if recorded and step > 0 else None


def _print(answer: StepInterval, head: str) -> None:
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    console.print(Text(printable(head), "bold"))
    for sentence in answer.sentences():
        console.print(Text(printable(sentence)))
    if not answer.groups:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("Module (the others standing still)")
    for heading in ("Parameters", "lambda_max at least", "Unstable above"):
        table.add_column(heading, justify="right")
    for group in answer.groups:
        high = group.limit[1]
        table.add_row(
            Text(printable(group.name)),
            f"{group.size:,}",
            f"{group.lambda_max:.3g}",
            "—" if math.isinf(high) else f"{high:.3g}",
        )
    console.print()
    console.print(table)
    if answer.left_out:
        console.print(Text(f"not measured: {printable(', '.join(answer.left_out))}", "dim"))


ENTRY = Command("lr", Panel.RUNS, lr)
