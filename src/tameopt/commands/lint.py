"""`tameopt lint`: the lines where autodiff returns NaN, infinity or a wrong gradient."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from tameopt.commands._common import Command, Json, Panel, Seed, Target, emit_json, terminal


class Format(enum.StrEnum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


def lint(
    target: Target = "digits-mlp",
    output_format: Annotated[Format, typer.Option("--output-format", help="text, json or sarif.")] = Format.TEXT,
    seed: Seed = 0,
    as_json: Json = False,
) -> int | None:
    """Find the lines where backprop goes wrong: NaN, infinite or wrong gradients. Exit code 1 when there are any."""
    from tameopt.audit.targets import resolve
    from tameopt.structure.lint import lint as find
    from tameopt.structure.lint import sarif

    problem = resolve(target, seed).problem
    if problem is None:
        raise ValueError(f"{target} does not say which problem it was: name the problem, or FILE.py:factory.")
    found = find(problem)
    if output_format is Format.SARIF:
        emit_json(sarif(found))
    elif as_json or output_format is Format.JSON:
        emit_json({"findings": [one.to_json() for one in found]})
    else:
        console = terminal()
        for one in found:
            console.print(str(one), soft_wrap=True)
        console.print(
            f"Found {len(found)} finding{'' if len(found) == 1 else 's'}." if found else "All checks passed."
        )
    return 1 if found else None


ENTRY = Command("lint", Panel.TOOLS, lint)
