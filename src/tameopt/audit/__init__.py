"""The audit: plan analyses, run them, judge the theorems, and say in one sentence where a training is going.

`tameopt.audit(problem_or_run, ...)` is `conduct.audit`: this package is callable. That is the one place where a
module has a class of its own; the alternative, a function `audit` beside a package `audit`, cannot be told apart by
Python's import system.

>>> import tameopt as tame
>>> callable(tame.audit)
True
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tameopt.audit.diagnosis import Diagnosis


class _CallableRoom(ModuleType):
    """The package `tameopt.audit`, which can be called like the function `conduct.audit`."""

    def __call__(self, *arguments: Any, **options: Any) -> Diagnosis:
        from tameopt.audit.conduct import audit

        return audit(*arguments, **options)


sys.modules[__name__].__class__ = _CallableRoom
