"""tameopt: optimizers for deep learning, and where a training run is going in the long run, and why.

>>> import tameopt as tame
>>> tame.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tameopt.integrations.watch import watch
    from tameopt.problem import Problem
    from tameopt.run import Run

__version__ = "0.1.0"

# Rooms are imported when they are first named, so that importing tameopt costs torch and numpy alone.
_ROOMS = (
    "audit", "curvature", "dynamics", "evidence", "kl", "noise", "nonsmooth", "optim", "problems", "report",
    "schedules", "structure", "theorems",
)  # fmt: skip
_NAMES = {
    "Problem": ("tameopt.problem", "Problem"),
    "Run": ("tameopt.run", "Run"),
    "watch": ("tameopt.integrations.watch", "watch"),
}

__all__ = ["Problem", "Run", "__version__", "watch"]
__all__ += [*_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        return getattr(importlib.import_module(module), attribute)
    if name in _ROOMS:
        where = "tameopt.optim.schedules" if name == "schedules" else f"tameopt.{name}"
        room: ModuleType = importlib.import_module(where)
        return room
    raise AttributeError(f"module 'tameopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
