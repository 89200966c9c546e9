"""What every verb shares: its shape, its common options, where output goes, and what an error becomes.

A verb is one file:

    from tameopt.commands._common import Command, Json, Panel, emit_json, printable, terminal

    def spectrum(target: Target = "digits-mlp", as_json: Json = False) -> int | None:
        \"\"\"Eigenvalues of the Hessian at a point.\"\"\"
        from tameopt import curvature          # inside: `--help` must not wait for torch
        ...
        if as_json:
            emit_json({"eigenvalues": ...})
        else:
            terminal().print(...)
        return None                            # or 1: a finding at or above --fail-on

    ENTRY = Command("spectrum", Panel.TOOLS, spectrum)

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a finding at or above `--fail-on`,
2 bad usage or input, 101 our own error, 130 interrupted.
"""

from __future__ import annotations

import enum
import functools
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tameopt.commands._progress import Progress, progress
from tameopt.report.text import literal as printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Command",
    "ExitCode",
    "Json",
    "Out",
    "Panel",
    "Progress",
    "Quiet",
    "Seed",
    "Target",
    "emit_json",
    "guarded",
    "printable",
    "progress",
    "say",
    "terminal",
]  # fmt: skip


class Panel(enum.StrEnum):
    """The headings under which `tameopt --help` lists verbs."""

    RUNS = "Training runs"
    TOOLS = "One question at a time"
    REFERENCE = "Reference"


class ExitCode(enum.IntEnum):
    """What the shell gets."""

    DONE = 0
    FINDING = 1
    BAD_INPUT = 2
    INTERNAL = 101
    INTERRUPTED = 130
    BROKEN_PIPE = 141


@dataclass(frozen=True)
class Command:
    """A verb.

    name: as typed. panel: its heading in `--help`. function: typer-annotated; its docstring is the help; returns
    None or an exit code.
    """

    name: str
    panel: Panel
    function: Callable[..., int | None]


# -- options that mean the same everywhere ----------------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Seed = Annotated[int, typer.Option("--seed", help="Seeds every random choice.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder of the run; with --name, the folder it goes into.", show_default=False),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A problem's name, FILE.py:factory, or the folder of a recorded run.",
    ),
]


# -- output -------------------------------------------------------------------------------------------------------


def terminal(stderr: bool = False) -> Console:
    """A rich console on stdout (or stderr) that takes text literally and honours NO_COLOR.

    Not attached to a terminal it writes 100 columns (COLUMNS overrides it), so that a pipe gets stable text.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 100
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def say(text: str, quiet: bool = False) -> None:
    """One line on stderr."""
    if not quiet:
        typer.echo(printable(text), err=True)


def emit_json(document: Any) -> None:
    """One JSON document on stdout; dataclasses, tensors, fractions and non-finite numbers included."""
    from tameopt.report.machine import dumps

    typer.echo(dumps(document))


def batch_statistics(run: Any) -> list[str]:
    """What is to be said of a run whose model normalises by batch; [] for others."""
    if not any(name.rpartition(".")[2].startswith("running_") for name in run.buffers()):
        return []
    return [
        "  F is the network as it predicts, with the running statistics (BatchNorm) of the run's end. Steps taken in "
        "training mode follow the gradient of another function: what they differ by counts as noise or bias here."
    ]


# -- errors ---------------------------------------------------------------------------------------------------------

_ISSUE = (
    "This is an error in tameopt itself. Please report it with the lines above, `tameopt --version` and, "
    "if you can share it, what you ran; nothing recorded in a run's folder is lost."
)


def guarded(function: Callable[..., int | None]) -> Callable[..., None]:
    """The verb with its errors turned into one line on stderr and an exit code.

    TAMEOPT_TRACEBACK=1 in the environment adds the traceback of an input error.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        code = _outcome(lambda: function(*arguments, **options))
        if code:
            raise typer.Exit(code)

    return run


def _outcome(call: Callable[[], int | None]) -> int:
    try:
        return int(call() or ExitCode.DONE)
    except typer.Exit as finished:
        return finished.exit_code
    except KeyboardInterrupt:
        say("\ninterrupted: what was recorded up to here is kept.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) left; Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _bad_input(error)
    except Exception as error:  # noqa: BLE001  the last line of defence: the traceback and where to send it
        if type(error).__name__ == "RunBusyError" or _their_code(error):
            return _bad_input(error)
        return _internal(error)


def _their_code(error: BaseException) -> str:
    """Where the person's own code was when the error came, as "file:line, in function"; "" when it was not called."""
    ours = Path(__file__).resolve().parents[1]
    installed = tuple({*sysconfig.get_paths().values(), *map(str, ours.parents[:1]), sys.prefix})
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_file() and not path.resolve().is_relative_to(ours) and not frame.filename.startswith(installed):
            name = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
            place = f"{name}:{frame.lineno}, in {frame.name}"
    return place


def _bad_input(error: Exception) -> int:
    if os.environ.get("TAMEOPT_TRACEBACK", "") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    words = str(error).strip() or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        words = f"{error.filename} must exist, it does not: check the path."
    elif isinstance(error, PermissionError) and error.filename is not None:
        words = f"{error.filename} may not be read or written by you: choose another place (--out)."
    place = _their_code(error)
    say(f"error: {place}: {type(error).__name__}: {words}" if place else f"error: {words}")
    return ExitCode.BAD_INPUT


def _internal(error: Exception) -> int:
    traceback.print_exception(error, file=sys.stderr)
    say(_ISSUE)
    return ExitCode.INTERNAL
