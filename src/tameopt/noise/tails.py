"""What a schedule does in the limit: alpha_k between explicit multiples of a comparison sequence.

The comparison sequence is s(k) = (k+1)^-p log(k+e)^-r. A `Tail` says, with exact rationals, for all k >= start:
alpha_k <= upper * s(k) * g^floor(k/m), and alpha_k >= lower * s(k) for the k = start mod every.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.optim import schedules
from tameopt.optim.schedules import Real, Schedule


def exact(number: Real) -> Fraction:
    """The rational that a number stands for: a float means its shortest decimal, 0.6 is 3/5.

    >>> exact(0.6)
    Fraction(3, 5)
    """
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


@dataclass(frozen=True)
class Tail:
    """Bounds on alpha_k for k >= start.

    p, r: the powers of s(k). upper: > 0, or 0 when every step from `start` on is 0. shrink = (g, m) with
    0 < g < 1 when the steps shrink geometrically. lower: > 0, or None when no lower bound is known.
    every: the lower bound holds for k = start mod every; 0: at infinitely many k, no more is known.
    positive: every step, also before `start`, is positive.
    """

    upper: Fraction
    lower: Fraction | None
    p: Fraction = Fraction(0)
    r: Fraction = Fraction(0)
    start: int = 0
    every: int = 1
    shrink: tuple[Fraction, int] | None = None
    positive: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data for a certificate."""
        return {
            "upper": str(self.upper),
            "lower": None if self.lower is None else str(self.lower),
            "p": str(self.p),
            "r": str(self.r),
            "start": self.start,
            "every": self.every,
            "shrink": None if self.shrink is None else [str(self.shrink[0]), self.shrink[1]],
            "positive": self.positive,
        }


def _constant(schedule: schedules.Constant) -> Tail:
    a = exact(schedule.a)
    return Tail(a, a)


def _power(schedule: schedules.Power) -> Tail:
    # min(1, shift) (k+1) <= k + shift <= max(1, shift) (k+1); the ceiling of p keeps the constants rational
    a, p, shift = exact(schedule.a), exact(schedule.p), exact(schedule.shift)
    whole = math.ceil(p)
    return Tail(a / min(Fraction(1), shift) ** whole, a / max(Fraction(1), shift) ** whole, p)


def _ends_at(level: Fraction, start: int) -> Tail:
    return Tail(level, level if level else None, start=start, positive=level > 0)


def _cosine(schedule: schedules.Cosine) -> Tail:
    return _ends_at(exact(schedule.a_min), schedule.steps)


_TAILS: dict[type[Schedule], Callable[[Any], Tail | None]] = {
    schedules.Constant: _constant,
    schedules.Power: _power,
    schedules.Cosine: _cosine,
}


def tail_of(schedule: Schedule) -> Tail | None:
    """The tail of a schedule, or None when nothing is known of it past some step."""
    find = _TAILS.get(type(schedule))
    return None if find is None else find(schedule)
