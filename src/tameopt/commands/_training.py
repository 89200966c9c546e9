"""The options that say how to train, and what they mean."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tameopt.commands._common import printable

if TYPE_CHECKING:
    from tameopt.problem import Problem

Optimizer = Annotated[
    str | None,
    typer.Option("--optimizer", "-O", help="SGD, Adam, … (default: the problem's own, else SGD)", show_default=False),
]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", help="Step size alpha_0. (default: the problem's own, else 0.05)", show_default=False),
]
Argument = Annotated[
    list[str],
    typer.Option(
        "--arg", help="An argument of the optimizer, as in momentum=0.9 (several times).", metavar="KEY=VALUE"
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", "-n", help="Steps to train. (default: the problem's own, else 1000)", show_default=False),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        "-b",
        help='Samples a step, or "full". (default: the problem\'s own, else 64)',
        show_default=False,
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--schedule", help="constant, power:p=0.6, cosine:warmup=100, … (default: constant)", show_default=False
    ),
]
Sampling = Annotated[
    str, typer.Option("--sampling", help='"with replacement" or "reshuffled" (as a DataLoader does).')
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Name of the run's folder. (default: the problem and four digits)", show_default=False
    ),
]


Objective = Annotated[
    str | None,
    typer.Option(
        "--problem",
        help="Of a recorded run that does not say: the problem it was trained on, a name or FILE.py:factory.",
        metavar="PROBLEM",
        show_default=False,
    ),
]


def objective(text: str | None, seed: int) -> Problem | None:
    """The problem that --problem names; None without one.

    Raises ValueError when it names a recorded run, and what `targets.resolve` raises.
    """
    if text is None:
        return None
    from tameopt.audit.targets import resolve

    found = resolve(text, seed)
    if found.run is not None or found.problem is None:
        raise ValueError(f"--problem takes a problem's name or FILE.py:factory, got the run {text}.")
    return found.problem


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as keyword arguments; values are Python literals, words stay text.

    >>> pairs(["momentum=0.9", "betas=(0.9, 0.99)", "nesterov=True", "engine=eager"])
    {'momentum': 0.9, 'betas': (0.9, 0.99), 'nesterov': True, 'engine': 'eager'}

    Raises ValueError for a text that is no pair.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip().isidentifier():
            raise ValueError(f"--arg takes KEY=VALUE such as momentum=0.9, got {text!r}.")
        try:
            found[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[key.strip()] = value.strip()
    return found


def batch_size_of(text: str | None) -> int | Literal["full"] | None:
    """The batch size as written.

    Raises ValueError for what is neither a whole number nor "full".
    """
    if text is None:
        return None
    if text == "full":
        return "full"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'--batch-size must be a whole number or "full", got {text!r}.') from None


def folder_of(out: Path | None, name: str | None) -> Path | None:
    """Where the run goes: OUT/NAME, runs/NAME, or OUT itself; None leaves the choice to the audit.

    Raises ValueError for a name with a slash.
    """
    if name is not None and (not name.strip() or "/" in name or name in (".", "..")):
        raise ValueError(f"--name must be the name of one folder, got {name!r}: use --out for the place.")
    if name is None:
        return out
    return (out or Path("runs")) / name


def command_line(words: Sequence[str]) -> str:
    """The command as typed, quoted for a shell, for the reproducibility block."""
    return printable(" ".join(["tameopt", *(shlex.quote(word) for word in words[1:])]))
