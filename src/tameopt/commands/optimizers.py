"""`tameopt optimizers`: what `tame.optim` and `tame.optim.keras` have."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, terminal

Name = Annotated[
    str, typer.Argument(metavar="[NAME]", help="One optimizer, such as Adam or keras.Adam; default: all.")
]


def optimizers(name: Name = "", as_json: Json = False) -> None:
    """List the optimizers: formula, defaults, source, and which theorems speak of them."""
    from tameopt import optim
    from tameopt.optim import keras

    libraries = (("", optim), ("keras.", keras))
    if name:
        prefix, library = libraries[1] if name.startswith("keras.") else libraries[0]
        rows = [_row(prefix, library.entry(name.removeprefix("keras.")))]
    else:
        rows = [_row(prefix, library.entry(each)) for prefix, library in libraries for each in library.names()]
    if as_json:
        emit_json({"optimizers": rows})
        return
    console = terminal()
    for row in rows:
        console.print(row["name"], style="bold")
        console.print(f"  {row['formula']}")
        defaults = ", ".join(f"{key}={value!r}" for key, value in row["defaults"].items())
        console.print(f"  defaults: {defaults}")
        console.print(f"  source: {row['source']}")
        if row["gradients"] != "dense":
            console.print(f"  needs: {_NEEDS[row['gradients']]}")
        if row["theorems"]:
            console.print(f"  theorems: {', '.join(row['theorems'])}")


_NEEDS = {"sparse": "sparse gradients", "closure": "a closure that re-evaluates the loss"}
# how torch is told which implementation to take; tameopt chooses by itself
_SWITCHES = ("self", "params", "foreach", "fused", "capturable", "differentiable", "extras", "common")


def _row(prefix: str, entry: Any) -> dict[str, Any]:
    parameters = inspect.signature(entry.optimizer.__init__).parameters
    return {
        "name": f"tame.optim.{prefix}{entry.name}",
        "formula": entry.formula,
        "defaults": {key: each.default for key, each in parameters.items() if key not in _SWITCHES},
        "source": entry.source,
        "gradients": entry.gradients,
        "theorems": list(entry.theorems),
    }


ENTRY = Command("optimizers", Panel.REFERENCE, optimizers)
