"""Quantifier elimination through QEPCAD B, an optional external program (Tarski-Seidenberg, made effective).

QEPCAD (Collins and Hong 1991; Brown 2003) comes in the GPL wheel `passagemath-qepcad`; it is run as a program of its
own, in its own session, with limits on memory and time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import signal
import subprocess
from pathlib import Path

from tameopt.structure.semialgebraic.formula import (
    FALSE,
    TRUE,
    And,
    Atom,
    Formula,
    Or,
    free_variables,
    parse,
    prenex,
)
from tameopt.structure.semialgebraic.polynomial import Polynomial

_ANSWER = "An equivalent quantifier-free formula:"
_MISSING = (
    "eliminating quantifiers in several variables needs QEPCAD: pip install --no-deps passagemath-qepcad (GPL, run "
    "as a separate program)."
)
_RELATION = {"=": "=", "!=": "/=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


class EliminationError(RuntimeError):
    """Quantifiers could not be eliminated; the message says why."""


def program() -> tuple[Path, Path] | None:
    """QEPCAD's binary and its home, or None where the wheel is not installed."""
    spec = importlib.util.find_spec("sage_wheels")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        binary = Path(place) / "bin" / "qepcad"
        if binary.exists():
            return binary, Path(place)
    return None


def eliminate(formula: Formula, *, seconds: float = 30.0, memory: int = 4 << 30) -> Formula:
    """An equivalent formula without quantifiers.

    seconds: wall-clock limit; memory: bytes of address space.
    Raises EliminationError when QEPCAD is missing, runs past a limit or does not answer.
    """
    quantifiers, matrix = prenex(formula)
    if not quantifiers:
        return matrix
    found = program()
    if found is None:
        raise EliminationError(_MISSING)
    free = sorted(free_variables(formula))
    names = {name: f"v{k}" for k, name in enumerate([*free, *(name for _, name in quantifiers)])}
    renamed = {name: Polynomial.variable(new) for name, new in names.items()}
    heads = "".join(f"({'A' if universal else 'E'} {names[name]}) " for universal, name in quantifiers)
    text = f"{heads}[ {_written(matrix, renamed)} ]."
    order = ",".join(names.values())
    lines = ["[tameopt]", f"({order})", str(len(free)), text]
    output = _run(found, [*lines, "finish"], seconds, memory)
    if "projection may not be valid" in output:
        steps = ",".join("h" for _ in range(len(names) - 1))
        output = _run(found, [*lines, f"proj-operator ({steps})", "finish"], seconds, memory)
        if "projection may not be valid" in output:
            raise EliminationError("QEPCAD could not vouch for its projection: the answer is not used.")
    back = {new: name for name, new in names.items()}
    return _read(output, back)


def closure_in_the_plane(formula: Formula, names: tuple[str, str], *, seconds: float = 30.0) -> Formula:
    """The closure of a set of the plane, read off a full cylindrical decomposition (QEPCAD's closure2d).

    Raises EliminationError as `eliminate` does.
    """
    found = program()
    if found is None:
        raise EliminationError(_MISSING)
    renamed = {name: Polynomial.variable(f"v{k}") for k, name in enumerate(names)}
    lines = ["[tameopt]", "(v0,v1)", "2", f"[ {_written(formula, renamed)} ].", "full-cad", "go", "go", "go"]
    output = _run(found, [*lines, "closure2d", "solution T", "quit"], seconds, 4 << 30)
    if "projection may not be valid" in output:
        raise EliminationError("QEPCAD could not vouch for its projection: the answer is not used.")
    return _read(output, {f"v{k}": name for k, name in enumerate(names)})


def _run(found: tuple[Path, Path], lines: list[str], seconds: float, memory: int) -> str:
    binary, home = found

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    process = subprocess.Popen(
        [str(binary), "-noecho", "+N10000000", "-t", str(int(seconds) + 1)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"qe": str(home), "PATH": os.environ.get("PATH", "")},
        start_new_session=True,
        preexec_fn=limits,
    )
    try:
        output, _ = process.communicate("\n".join([*lines, ""]), timeout=seconds)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise EliminationError(
            f"QEPCAD ran past {seconds:g} s: raise `seconds`, or ask a smaller question."
        ) from error
    if process.returncode != 0 or _ANSWER not in output:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
        raise EliminationError(f"QEPCAD gave no answer (exit code {process.returncode}): {last.strip()}")
    return output


def _written(formula: Formula, names: dict[str, Polynomial]) -> str:
    if isinstance(formula, Atom):
        polynomial = formula.polynomial.substitute(names)
        if polynomial.value is not None:
            sign = (polynomial.value > 0) - (polynomial.value < 0)
            return "0 = 0" if formula.holds(sign) else "0 = 1"
        return f"{polynomial.qepcad()} {_RELATION[formula.relation]} 0"
    if isinstance(formula, (And, Or)):
        if not formula.parts:
            return "0 = 0" if isinstance(formula, And) else "0 = 1"
        joint = " /\\ " if isinstance(formula, And) else " \\/ "
        return "[ " + joint.join(_written(part, names) for part in formula.parts) + " ]"
    raise ValueError("the matrix of a prenex formula has no quantifiers.")


def _read(output: str, names: dict[str, str]) -> Formula:
    answer = re.split(r"=====|Before", output.split(_ANSWER, 1)[1], maxsplit=1)[0].strip()
    if answer == "TRUE":
        return TRUE
    if answer == "FALSE":
        return FALSE
    text = answer.replace("/=", "!=").replace("/\\", " and ").replace("\\/", " or ")
    text = text.replace("[", "(").replace("]", ")").replace("\n", " ")
    text = re.sub(r"(?<![<>!=])=(?!=)", "==", text)
    text = re.sub(r"~\s*", " not ", text)
    # juxtaposition is multiplication
    text = re.sub(r"(\d|v\d+(?:\^\d+)?)\s+(?=v\d)", r"\1*", text)
    text = re.sub(r"(\d|v\d+(?:\^\d+)?)\s+(?=v\d)", r"\1*", text)
    for new, old in sorted(names.items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"\b{new}\b", old, text)
    return parse(text)
