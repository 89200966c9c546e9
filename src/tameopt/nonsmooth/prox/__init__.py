"""The prox catalogue: prox_{t f}(v) = argmin_x f(x) + norm(x - v)^2 / (2 t), one file for each f.

Call an entry by its name; v is a torch tensor of any shape (vectors along the last dimension, matrices along the
last two), t > 0 a number.

>>> import torch
>>> from tameopt.nonsmooth import prox
>>> prox.l1(torch.tensor([3.0, 0.5]), 1.0)
tensor([2., 0.])
>>> prox.names()[:3]
('ball_l1', 'ball_l2', 'ball_linf')
"""

from __future__ import annotations

from typing import Any

from tameopt import catalogue
from tameopt.nonsmooth.prox._entry import Prox

__all__ = ["Prox", "entry", "names"]


def names() -> tuple[str, ...]:
    """The names of the catalogue, sorted."""
    return catalogue.names(__name__)


def entry(name: str) -> Prox:
    """The entry of that name; ValueError with the nearest one when there is none."""
    found: Prox = catalogue.entry(__name__, name)
    return found


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return entry(name)
    except ValueError as error:
        raise AttributeError(str(error)) from error
