"""Ready problems: real data that comes inside wheels, and the textbook functions of the lecture.

One file a problem; `load(name, **options)` builds it, `names()` lists them, `entry(name)` tells its defaults.
"""

from __future__ import annotations

from typing import Any

from tameopt import catalogue
from tameopt.problem import Problem
from tameopt.problems._entry import ProblemEntry


def names() -> tuple[str, ...]:
    """The names of the ready problems.

    >>> "digits-mlp" in names()
    True
    """
    return catalogue.names(__name__)


def entry(name: str) -> ProblemEntry:
    """What a ready problem is and how it is trained by default.

    Raises ValueError with the nearest name when there is none.
    """
    found: ProblemEntry = catalogue.entry(__name__, name)
    return found


def load(name: str, **options: Any) -> Problem:
    """Build a ready problem.

    options: the keyword arguments of the problem's `build`, e.g. load("digits-mlp", width=32, seed=1).

    Raises ValueError with the nearest name for an unknown problem, TypeError for an unknown option.

    >>> load("saddle")
    Problem(saddle, d=2, float64)
    """
    return entry(name).load(**options)
