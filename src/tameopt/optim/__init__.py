"""Optimizers as update rules, and step-size schedules as data.

`tame.optim.Adam(model.parameters(), lr=1e-3)` and its siblings take torch.optim's arguments and give its numbers;
`tame.optim.keras` has TensorFlow's; `tame.optim.names()` lists them. An optimizer is one file of
`tameopt.optim.rules`; it is imported when it is first named.

>>> from tameopt import optim
>>> "Adam" in optim.names()
True
"""

from __future__ import annotations

import importlib
from typing import Any

from tameopt import catalogue

_RULES = "tameopt.optim.rules"
_MODULES = ("schedules", "keras")
# optimizers of the nonsmooth chapter: they need its prox catalogue and live there; only their names are shared here
_ELSEWHERE = {
    "ProximalGradient": "tameopt.nonsmooth.proximal_gradient",
    "PALM": "tameopt.nonsmooth.palm",
}


def names() -> tuple[str, ...]:
    """The optimizers' names, sorted."""
    return catalogue.names(_RULES)


def entry(name: str) -> Any:
    """What the catalogue knows of an optimizer: `.optimizer`, `.formula`, `.source`, `.theorems`.

    Raises ValueError with the nearest name when there is none.
    """
    return catalogue.entry(_RULES, name, "optimizers")


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tameopt.optim.{name}")
    # importlib asks here for a submodule (lowercase) before importing it: only a capital can name an optimizer
    if name[:1].isupper():
        found = catalogue.entries(_RULES)
        if name in found:
            return found[name].optimizer
        raise AttributeError(f"tameopt.optim has no optimizer {name!r}: it has {', '.join(found)}.")
    raise AttributeError(f"module 'tameopt.optim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*names(), *_MODULES, *_ELSEWHERE, "entry", "names"])
