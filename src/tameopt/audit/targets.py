"""What a person points the audit at: nothing, a ready problem, FILE.py:factory, or a recorded run."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from tameopt import problems
from tameopt.probe import NotDeterministicError
from tameopt.problem import Problem
from tameopt.run import Run

DEFAULT = "digits-mlp"


@dataclass(frozen=True)
class Target:
    """What is to be audited.

    text: as the person wrote it. problem: to train or analyse, None where a run does not say which problem it was.
    run: the record, when the target is one. training: the settings the problem suggests for training.
    """

    text: str
    problem: Problem | None
    run: Run | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def resolve(text: str | os.PathLike[str] | None = None, seed: int = 0) -> Target:
    """Find out what `text` names.

    text: None or "" is digits-mlp; the name of a ready problem; "FILE.py:factory", where factory() returns a
    Problem, or (model, loss, data); or the folder of a recorded run. seed: of the problem, where it takes one.

    Raises ValueError, TypeError or OSError saying what was required.
    """
    written = os.fspath(text).strip() if text is not None else DEFAULT
    written = written or DEFAULT
    if ".py:" in written or written.endswith(".py"):
        return Target(written, _from_file(written))
    if written in problems.names():
        entry = problems.entry(written)
        options = {"seed": seed} if "seed" in inspect.signature(entry.build).parameters else {}
        return Target(written, entry.load(**options), training=dict(entry.training))
    path = Path(written)
    if path.exists():
        return _from_run(written, path)
    near = difflib.get_close_matches(written.lower(), problems.names(), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{written!r} is no ready problem ({', '.join(problems.names())}), no FILE.py:factory and no folder of a "
        f"recorded run.{hint}"
    )


def _from_run(written: str, path: Path) -> Target:
    run = Run.open(path)
    meta = run.meta
    source = str(meta.get("target", ""))
    if source == written:
        return Target(written, None, run)
    problem: Problem | None = None
    if ".py:" in source or source.endswith(".py"):
        problem = _from_file(source) if Path(source.rpartition(":")[0] or source).exists() else None
    elif source in problems.names():
        problem = resolve(source, int(meta.get("problem_seed", meta.get("seed", 0)))).problem
    if problem is not None and meta.get("d") not in (None, problem.dim):
        raise ValueError(
            f"{path} was recorded with d={meta['d']:,} parameters, {source} now has d={problem.dim:,}: audit it with "
            "the problem it was recorded with (tame.audit(run, problem=...))."
        )
    # a factory makes a fresh model, whose running statistics are not those of the run
    if problem is not None and (buffers := run.buffers()):
        problem = problem.load_buffers(buffers)
    return Target(written, problem, run)


def _from_file(written: str) -> Problem:
    file, _, name = written.rpartition(":") if ".py:" in written else (written, "", "")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} must be a Python file, there is none: check the path.")
    module = _module(path)
    if not name:
        raise ValueError(
            f"write {file}:factory, the function that returns the problem; {file} has {_functions(module)}."
        )
    factory = getattr(module, name, None)
    if factory is None:
        near = difflib.get_close_matches(name, [one for one in vars(module) if not one.startswith("_")], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" It has {_functions(module)}."
        raise ValueError(f"{file} has no {name!r}.{hint}")
    made = factory() if callable(factory) and not isinstance(factory, (Problem, nn.Module)) else factory
    return problem_of(made, f"{file}:{name}")


def problem_of(made: Any, where: str) -> Problem:
    """The problem in what a factory returned: a Problem, or (model, loss, data).

    Raises TypeError saying what came.
    """
    if isinstance(made, Problem):
        return made
    if isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module):
        model, loss, data = made
        try:
            return Problem(model, loss, data, name=type(model).__name__)
        except NotDeterministicError:
            # training keeps dropout and batch statistics; F is measured as the network predicts, and the audit
            # says so
            return Problem(model, loss, data, name=type(model).__name__, mode="eval")
    came = f"a tuple of {[type(one).__name__ for one in made]}" if isinstance(made, tuple) else type(made).__name__
    raise TypeError(f"{where} must return a tameopt.Problem or (model, loss, data), it returned {came}.")


def _module(path: Path) -> ModuleType:
    """Run the file as a module of its own, with its folder importable as Python does for scripts."""
    name = f"tameopt_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file that can be imported.")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.absolute().parent)
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    # pickling, dataclasses and inspect look a module up by its name
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(folder)
    return module


def _functions(module: ModuleType) -> str:
    own = [
        name
        for name, entry in vars(module).items()
        if inspect.isfunction(entry) and entry.__module__ == module.__name__ and not name.startswith("_")
    ]
    return f"the functions {', '.join(own)}" if own else "no functions"
