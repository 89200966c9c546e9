"""`tameopt audit`: train or read a run, analyse it, and say where it is going."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tameopt.commands._common import Command, ExitCode, Json, Out, Panel, Quiet, Seed, Target, emit_json, terminal
from tameopt.commands._training import (
    Argument,
    BatchSize,
    LearningRate,
    Name,
    Objective,
    Optimizer,
    Sampling,
    Schedule,
    Steps,
    batch_size_of,
    command_line,
    folder_of,
    objective,
    pairs,
)

if TYPE_CHECKING:
    from tameopt.audit.diagnosis import Diagnosis

Include = Annotated[
    list[str], typer.Option("--include", help="Run this analysis whatever it costs (several times).", metavar="NAME")
]
Exclude = Annotated[
    list[str], typer.Option("--exclude", help="Leave this analysis out (several times).", metavar="NAME")
]
Budget = Annotated[float, typer.Option("--budget", help="Seconds for the analyses together.", metavar="SECONDS")]
FailOn = Annotated[
    str,
    typer.Option(
        "--fail-on",
        help="Exit with 1 when the verdict is at least this bad: problem, warning, undecided; never by default.",
        metavar="LEVEL",
    ),
]
Full = Annotated[bool, typer.Option("--full", help="Print every theorem with its hypotheses.")]


def audit(
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
    problem: Objective = None,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    budget: Budget = 45.0,
    fail_on: FailOn = "never",
    full: Full = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Say where a training is going in the long run, and which theorems say so.

    TARGET is a ready problem (`tameopt problems`), FILE.py:factory where factory() returns a Problem or
    (model, loss, data), or the folder of a recorded run. A problem is trained first. The record, diagnosis.json and
    report.html go to runs/NAME.
    """
    failing = _level(fail_on)
    from tameopt.audit import conduct
    from tameopt.commands._progress import progress

    with progress(quiet) as say:
        diagnosis = conduct.audit(
            target,
            problem=objective(problem, seed),
            optimizer=optimizer,
            arguments=pairs(argument),
            lr=lr,
            steps=steps,
            batch_size=batch_size_of(batch_size),
            schedule=schedule,
            sampling=sampling,  # type: ignore[arg-type]  # checked by the audit, with its words
            seed=seed,
            out=folder_of(out, name),
            budget_seconds=budget,
            include=include,
            exclude=exclude,
            notify=lambda text: say(text),
            progress=lambda done, planned, loss: say(f"training, loss {loss:.4g}", done, planned),
            command=command_line(sys.argv),
        )
    return deliver(diagnosis, failing, full, as_json)


def deliver(diagnosis: Diagnosis, failing: int, full: bool, as_json: bool) -> int | None:
    """Write the HTML report beside the record, print the result, and choose the exit code."""
    from tameopt import report
    from tameopt.commands._common import say

    written = ""
    if diagnosis.settings.run_path:
        path = Path(diagnosis.settings.run_path) / "report.html"
        try:
            written = str(report.save_html(diagnosis, path))
        except OSError as error:
            say(f"note: report.html could not be written ({error}); the result is below.")
    if as_json:
        emit_json(diagnosis.to_json())
    else:
        report.show(diagnosis, terminal(), written, full)
    if diagnosis.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.FINDING if report.level(diagnosis) >= failing else None


def _level(word: str) -> int:
    """The lowest level that fails; one above all when none does."""
    levels = {"undecided": 1, "warning": 2, "problem": 3, "never": 4}
    if word not in levels:
        raise ValueError(f"--fail-on must be problem, warning, undecided or never, got {word!r}.")
    return levels[word]


ENTRY = Command("audit", Panel.RUNS, audit)
