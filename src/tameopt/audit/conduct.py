"""An audit from beginning to end: train if needed, analyse inside a budget, judge, decide, write."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

import tameopt
from tameopt.analysis import Context
from tameopt.audit import plan as planning
from tameopt.audit.diagnosis import Diagnosis, Reproducibility, Settings
from tameopt.audit.questions import question_table
from tameopt.audit.targets import Target, resolve
from tameopt.audit.training import Progress, train
from tameopt.audit.verdict import decide
from tameopt.batches import tensors_of
from tameopt.optim import schedules
from tameopt.probe import batch_coupled_modules, random_modules
from tameopt.problem import Problem
from tameopt.run import Run
from tameopt.theorems import judge_all
from tameopt.threads import threads_for
from tameopt.training_mode import listed

_SMALL_D = 2_000_000  # our choice: float64 analyses of up to 16 MB of parameters
_SMALL_DATA_BYTES = 512 << 20
_BUDGET_SECONDS = 30.0  # our choice: half a minute is what a person waits without leaving


def audit(
    subject: Problem | Run | str | os.PathLike[str] | None = None,
    *,
    problem: Problem | None = None,
    optimizer: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    lr: float | None = None,
    steps: int | None = None,
    batch_size: int | Literal["full"] | None = None,
    schedule: schedules.Schedule | str | None = None,
    sampling: Literal["with replacement", "reshuffled"] = "with replacement",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    budget_seconds: float = _BUDGET_SECONDS,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    notify: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Diagnosis:
    """Train (if `subject` is no recorded run), analyse, judge the theorems, and say where the training is going.

    subject: a Problem, a Run, or what `targets.resolve` understands. problem: of a recorded run whose own is not
    found. optimizer, arguments, lr, steps, batch_size ("full" or a number), schedule, sampling: for training; None
    takes what the ready problem suggests, else SGD, lr 0.05, 1,000 steps, batches of 64.
    seed: of training and analyses. out: folder of the run, by default runs/<problem>-<four digits>.
    budget_seconds: for the analyses together; include, exclude: names of analyses to run or leave out regardless.
    notify: called with a sentence as work proceeds; progress: see `training.train`.

    Writes the record and diagnosis.json to `out`. Ctrl-C ends training, a second one ends the analyses; what was
    measured is judged, and the diagnosis says so.

    Raises ValueError, TypeError or OSError for a subject or settings that cannot be used.
    """
    held = subject if isinstance(subject, Problem) else problem
    if held is not None and held.sharing is not None:
        raise ValueError(
            f"an audit needs all data on one process, {held.name} is spread over {held.sharing.processes}: audit the "
            "whole problem on rank 0, or call curvature.classify, which sums over processes."
        )
    say = notify or (lambda message: None)
    begun = time.perf_counter()
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds must be > 0, got {budget_seconds}: analyses take time.")
    # before training: a name misspelt must not cost a training
    include, exclude = tuple(include), tuple(exclude)
    planning.check_names((*include, *exclude))
    target = _target(subject, problem, seed)
    run, trained_here = target.run, False
    if run is None:
        assert target.problem is not None
        options = training_options(target.training, optimizer, arguments, lr, steps, batch_size, schedule, sampling)
        folder = Path(out) if out is not None else new_folder(target.problem.name, options, seed)
        say(f"training {target.problem.name}")
        run = train(target.problem, **options, seed=seed, out=folder, progress=progress, target=target.text)
        trained_here = True
    if target.problem is None:
        raise ValueError(
            f"{run.path} does not say which problem it recorded ({run.meta.get('target', 'no target')!r}): pass "
            "problem=... (on the command line --problem FILE.py:factory), the Problem it was trained on."
        )
    seconds_training = time.perf_counter() - begun if trained_here else float(run.meta.get("seconds_training", 0.0))
    analysing = time.perf_counter()
    context = _context(target.problem, run, seed, say)
    with threads_for(target.problem):
        results = planning.conduct(context, budget_seconds, include, exclude, say)
    say("judging the theorems")
    judgements = judge_all(results.findings, run)
    verdict = decide(context, results.findings, results.facts)
    diagnosis = Diagnosis(
        settings=_settings(target, run),
        verdict=verdict,
        questions=question_table(results.findings, run),
        findings=results.findings,
        judgements=judgements,
        pictures=results.pictures,
        facts=results.facts,
        analyses=results.records,
        reproducibility=Reproducibility(
            command=command or _call(target, seed),
            versions=_versions(),
            machine=_machine(target.problem),
            seed=seed,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds_training=seconds_training,
            seconds_recording=float(run.meta.get("seconds_recording", 0.0)),
            seconds_analysing=time.perf_counter() - analysing,
        ),
        notes=_notes(run, target.problem, results.interrupted),
        interrupted=results.interrupted or run.status == "interrupted",
    )
    with contextlib.suppress(PermissionError):  # a run on a read-only medium is still diagnosed
        diagnosis.save_json(run.path / "diagnosis.json")
    return diagnosis


def training_options(
    suggested: Mapping[str, Any],
    optimizer: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    lr: float | None = None,
    steps: int | None = None,
    batch_size: int | Literal["full"] | None = None,
    schedule: schedules.Schedule | str | None = None,
    sampling: str = "with replacement",
) -> dict[str, Any]:
    """The keyword arguments of `train`: what the person said, else what the problem suggests, else our defaults.

    A suggested lr goes with the suggested optimizer: another optimizer takes lr 0.05 (SGD) or 1e-3.
    """
    chosen: dict[str, Any] = {
        "optimizer": "SGD",
        "steps": 1000,
        "batch_size": 64,
        "schedule": "constant",
        **suggested,
    }
    if optimizer is not None and optimizer != chosen["optimizer"]:
        chosen["optimizer"] = optimizer
        chosen.pop("lr", None)
    # our choice: torch's own default where an optimizer is adaptive
    chosen.setdefault("lr", 0.05 if chosen["optimizer"] == "SGD" else 1e-3)
    given = {"lr": lr, "steps": steps, "schedule": schedule, "arguments": arguments}
    chosen.update({name: one for name, one in given.items() if one is not None})
    if batch_size is not None:
        if isinstance(batch_size, str) and batch_size != "full":
            raise ValueError(f"batch_size must be a number or 'full', got {batch_size!r}.")
        chosen["batch_size"] = None if batch_size == "full" else batch_size
    return {**chosen, "sampling": sampling}


def _target(subject: Any, problem: Problem | None, seed: int) -> Target:
    if isinstance(subject, Problem):
        return Target(subject.name, subject)
    if isinstance(subject, Run):
        if problem is not None:
            return Target(str(subject.path), problem, subject)
        return resolve(subject.path, seed)
    if subject is not None and not isinstance(subject, (str, os.PathLike)):
        raise TypeError(
            f"audit takes a Problem, a Run, or a name or path, got {type(subject).__name__}: wrap a model as "
            "tame.Problem(model, loss, data)."
        )
    found = resolve(subject, seed)
    return Target(found.text, problem, found.run, found.training) if problem is not None else found


def new_folder(name: str, options: Mapping[str, Any], seed: int) -> Path:
    """runs/<problem>-<four hex digits>, not there yet."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:60] or "run"
    for attempt in range(10_000):
        digest = hashlib.sha256(repr((name, sorted(map(str, options.items())), seed, attempt)).encode()).hexdigest()
        folder = Path("runs") / f"{safe}-{digest[:4]}"
        if not folder.exists():
            return folder
    raise FileExistsError("runs/ is full of runs of this name: choose a folder with out=...")


def _context(problem: Problem, run: Run, seed: int, notify: Callable[[str], None]) -> Context:
    """The problem in float64 when it is small, at the last finite iterate, with the buffers of the run's end."""
    data_bytes = 0 if problem.is_function else sum(t.nbytes for b in problem.batches for t in tensors_of(b))
    small = problem.dim <= _SMALL_D and data_bytes <= _SMALL_DATA_BYTES
    if problem.dtype is torch.float32 and small and problem.device.type != "mps" and not problem.is_function:
        problem = problem.to(torch.float64)
    if buffers := run.buffers():
        problem = problem.load_buffers(buffers)
    theta = problem.theta
    for step in reversed(run.vector_steps()):
        saved = run.vector(int(step))
        if saved.shape != theta.shape:
            raise ValueError(
                f"the run's theta has shape {tuple(saved.shape)}, the problem {tuple(theta.shape)}: audit "
                f"it with the "
                "problem it was recorded with."
            )
        if bool(torch.isfinite(saved).all()):
            theta = saved.to(problem.device, problem.dtype)
            break
    return Context(problem=problem, run=run, theta=theta, seed=seed, notify=notify)


def _settings(target: Target, run: Run) -> Settings:
    meta = run.meta
    optimizer = meta.get("optimizer") or {}
    words = ", ".join(f"{name}={value}" for name, value in (optimizer.get("arguments") or {}).items())
    schedule = ""
    if meta.get("schedule"):
        with contextlib.suppress(ValueError):
            schedule = str(schedules.from_json(meta["schedule"]))
    problem = target.problem
    return Settings(
        target=target.text,
        problem=str(meta.get("problem") or (problem.name if problem else "")),
        d=int(meta.get("d", problem.dim if problem else -1)),
        n=int(meta.get("n", problem.n if problem else -1)),
        dtype=str(meta.get("dtype", "")),
        optimizer=f"{optimizer['name']}({words})" if optimizer.get("name") else "",
        schedule=schedule,
        batch_size=int(meta.get("batch_size") or -1),
        sampling=str(meta.get("sampling", "")),
        initial_law=str(meta.get("initial_law", "")),
        seed=int(meta.get("seed", 0)),
        steps_done=int(meta.get("steps_done", run.last_step)),
        steps_planned=int(meta.get("steps_planned", -1)),
        status=run.status,
        run_path=str(run.path),
    )


def _notes(run: Run, problem: Problem, interrupted: bool) -> tuple[str, ...]:
    notes = []
    if problem.mode == "eval":
        names = listed([*random_modules(problem.model), *batch_coupled_modules(problem.model)], 5)
        if names:
            notes.append(
                "F is measured as the network predicts (eval mode); training ran in training mode, where "
                "these modules "
                f"draw random numbers or use batch statistics: {names}. The steps followed that noisier loss."
            )
    if run.status == "interrupted":
        notes.append(f"Training was interrupted at step {run.meta.get('steps_done', run.last_step):,}.")
    if run.status == "running":
        notes.append("The run is still being written (or its process was killed): this is how it stands so far.")
    if interrupted:
        notes.append("The analyses were interrupted: the verdict rests on those that had finished.")
    if any(name.startswith("buffer:") for name in run.vector_names()):
        notes.append("Buffers (BatchNorm's statistics, say) are those of the last step at every recorded step.")
    return tuple(notes)


def _call(target: Target, seed: int) -> str:
    return f"tame.audit({target.text!r}, seed={seed})"


def _versions() -> dict[str, str]:
    found = {"tameopt": tameopt.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "python-flint"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _machine(problem: Problem) -> dict[str, str]:
    device = torch.cuda.get_device_name(problem.device) if problem.device.type == "cuda" else str(problem.device)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": str(torch.get_num_threads()),
        "byte order": sys.byteorder,
    }
