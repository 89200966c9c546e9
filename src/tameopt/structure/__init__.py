"""What kind of function a training loss is: tame, piecewise polynomial, smooth or not, and what autodiff makes of it.

>>> import torch
>>> import tameopt as tame
>>> found = tame.structure.certify(lambda theta: (theta * theta).sum() + theta.abs().max(), inputs=torch.ones(2))
>>> found.definable, found.degree, found.smoothness, str(found.verdict)
('piecewise polynomial', 2, 'locally Lipschitz', 'PROVED')
"""

import importlib
from typing import Any

from tameopt.structure.certificate import certify
from tameopt.structure.lint import Lint, lint
from tameopt.structure.statement import Operation, Structure

__all__ = ["Lint", "Operation", "Structure", "certify", "lint", "semialgebraic"]


def __getattr__(name: str) -> Any:
    if name == "semialgebraic":  # it needs sympy: imported when it is first named
        return importlib.import_module("tameopt.structure.semialgebraic")
    raise AttributeError(f"module 'tameopt.structure' has no attribute {name!r}")
