"""The theorems of the lecture as data, and the judge that matches their hypotheses with findings.

One file a theorem; `names()` lists them, `entry(name)` is one, `judge(theorem, findings)` says what it says about
a run.
"""

from __future__ import annotations

from tameopt import catalogue
from tameopt.theorems._judge import judge, judge_all
from tameopt.theorems._judgement import HypothesisStatus, Judgement
from tameopt.theorems._theorem import Hypothesis, Implication, Known, Prediction, Theorem

__all__ = [
    "Hypothesis", "HypothesisStatus", "Implication", "Judgement", "Known", "Prediction", "Theorem", "entry", "judge",
    "judge_all", "names",
]  # fmt: skip


def names() -> tuple[str, ...]:
    """The names of the theorems.

    >>> "saddle-avoidance" in names()
    True
    """
    return catalogue.names(__name__)


def entry(name: str) -> Theorem:
    """The theorem of that name.

    Raises ValueError with the nearest name when there is none.
    """
    found: Theorem = catalogue.entry(__name__, name)
    return found
