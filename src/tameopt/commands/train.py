"""`tameopt train`: train and record, without analysing."""

from __future__ import annotations

import typer

from tameopt.commands._common import Command, ExitCode, Json, Out, Panel, Quiet, Seed, Target, emit_json, printable
from tameopt.commands._training import (
    Argument,
    BatchSize,
    LearningRate,
    Name,
    Optimizer,
    Sampling,
    Schedule,
    Steps,
    batch_size_of,
    folder_of,
    pairs,
)


def train(
    target: Target = "digits-mlp",
    optimizer: Optimizer = None,
    lr: LearningRate = None,
    argument: Argument = [],  # noqa: B006  typer copies it
    steps: Steps = None,
    batch_size: BatchSize = None,
    schedule: Schedule = None,
    sampling: Sampling = "with replacement",
    seed: Seed = 0,
    out: Out = None,
    name: Name = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Train a problem and record the run; `tameopt audit RUN` analyses it later, `tameopt watch RUN` follows it."""
    from tameopt.audit import conduct
    from tameopt.audit.targets import resolve
    from tameopt.audit.training import train as train_run
    from tameopt.commands._progress import progress
    from tameopt.report.numbers import pretty, seconds

    found = resolve(target, seed)
    if found.run is not None or found.problem is None:
        raise ValueError(f"{target} is a recorded run: train takes a problem; `tameopt audit {target}` analyses it.")
    options = conduct.training_options(
        found.training, optimizer, pairs(argument), lr, steps, batch_size_of(batch_size), schedule, sampling
    )
    folder = folder_of(out, name) or conduct.new_folder(found.problem.name, options, seed)
    with progress(quiet) as say:
        run = train_run(
            found.problem,
            **options,
            seed=seed,
            out=folder,
            progress=lambda done, planned, loss: say(f"training, loss {pretty(loss)}", done, planned),
            target=found.text,
        )
    _, losses = run.series("full_loss")
    meta = run.meta
    result = {
        "run": str(run.path),
        "status": run.status,
        "steps_done": meta["steps_done"],
        "full_loss": float(losses[-1]) if len(losses) else None,
        "seconds_training": meta["seconds_training"],
        "seconds_recording": meta["seconds_recording"],
    }
    if as_json:
        emit_json(result)
    else:
        ended = f"F = {pretty(losses[-1])}" if len(losses) else "no loss recorded"
        typer.echo(
            f"{printable(run.path)}: {run.status} at step {meta['steps_done']:,} with {ended} after "
            f"{seconds(meta['seconds_training'])}, of which recording {seconds(meta['seconds_recording'])}. "
            f"Next: tameopt audit {printable(run.path)}"
        )
    return ExitCode.INTERRUPTED if run.status == "interrupted" else None


ENTRY = Command("train", Panel.RUNS, train)
