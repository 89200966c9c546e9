"""What a schedule does in the limit: alpha_k between explicit multiples of a comparison sequence.

The comparison sequence is s(k) = (k+1)^-p log(k+e)^-r. A `Tail` says, with exact rationals, for all k >= start:
alpha_k <= upper * s(k), and alpha_k >= lower * s(k) for the k = start mod every; and whether the steps shrink
geometrically.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    0 < g < 1 when alpha_k <= C s(k) g^floor(k/m) for some C. lower: > 0, or None when no lower bound is known.
    every: the lower bound holds for k = start mod every; 0: at infinitely many k, no more is known.
    zero_at: a step that is 0, None when every step, also before `start`, is positive.
    """

    upper: Fraction
    lower: Fraction | None
    p: Fraction = Fraction(0)
    r: Fraction = Fraction(0)
    start: int = 0
    every: int = 1
    shrink: tuple[Fraction, int] | None = None
    zero_at: int | None = None

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
            "zero_at": self.zero_at,
        }


def _constant(schedule: schedules.Constant) -> Tail:
    a = exact(schedule.a)
    return Tail(a, a)


def _power(schedule: schedules.Power) -> Tail:
    # min(1, shift) (k+1) <= k + shift <= max(1, shift) (k+1); the ceiling of p keeps the constants rational
    a, p, shift = exact(schedule.a), exact(schedule.p), exact(schedule.shift)
    whole = math.ceil(p)
    return Tail(a / min(Fraction(1), shift) ** whole, a / max(Fraction(1), shift) ** whole, p)


def _powerlog(schedule: schedules.PowerLog) -> Tail:
    a = exact(schedule.a)
    return Tail(a, a, exact(schedule.p), exact(schedule.r))


def _step(schedule: schedules.Step) -> Tail:
    return _geometric(exact(schedule.a), exact(schedule.factor), schedule.every)


def _exponential(schedule: schedules.Exponential) -> Tail:
    return _geometric(exact(schedule.a), exact(schedule.factor), 1)


def _geometric(a: Fraction, factor: Fraction, every: int) -> Tail:
    return Tail(a, a) if factor == 1 else Tail(a, None, shrink=(factor, every))


def _held(level: Fraction, start: int) -> Tail:
    """Constant from `start` on, positive before."""
    return Tail(level, level or None, start=start, zero_at=None if level else start)


def _multistep(schedule: schedules.MultiStep) -> Tail:
    level = exact(schedule.a) * exact(schedule.factor) ** len(schedule.milestones)
    return _held(level, schedule.milestones[-1] if schedule.milestones else 0)


def _linear(schedule: schedules.Linear) -> Tail:
    return _held(exact(schedule.a) * exact(schedule.end_factor), schedule.steps)


def _ends_at_a_min(schedule: schedules.Cosine | schedules.Polynomial) -> Tail:
    return _held(exact(schedule.a_min), schedule.steps)


def _onecycle(schedule: schedules.OneCycle) -> Tail:
    return _held(exact(schedule.a) / exact(schedule.divisor) / exact(schedule.final_divisor), schedule.steps)


def _restarts(schedule: schedules.CosineRestarts) -> Tail:
    a = exact(schedule.a)
    return Tail(a, a, every=schedule.period if schedule.growth == 1 else 0)


def _warmup(schedule: schedules.Warmup) -> Tail | None:
    tail = tail_of(schedule.then)
    return None if tail is None else _later(tail, schedule.steps)


def _table(schedule: schedules.Table) -> Tail | None:
    tail = None if schedule.then is None else tail_of(schedule.then)
    if tail is None:
        return None
    zero = next((k for k, number in enumerate(schedule.values) if number == 0), None)
    if zero is None and tail.zero_at is not None:
        if tail.zero_at >= len(schedule.values):
            zero = tail.zero_at
        elif tail.upper == 0:
            zero = max(tail.start, len(schedule.values))
        else:  # the zero step of `then` lies under the table, where it is not taken
            return None
    return replace(_later(tail, len(schedule.values)), zero_at=zero)


def _later(tail: Tail, start: int) -> Tail:
    """The same bounds from a later step, in step with the progression of the lower bound."""
    if tail.start >= start:
        return tail
    every = max(1, tail.every)
    return replace(tail, start=tail.start + -(-(start - tail.start) // every) * every)


def _chain(schedule: schedules.Chain) -> Tail | None:
    offset, zero = 0, None
    for steps, part in schedule.parts:
        tail = tail_of(part)
        if tail is None:
            return None
        if zero is None and tail.zero_at is not None and tail.zero_at < steps:
            zero = offset + tail.zero_at
        offset += steps
    tail = tail_of(schedule.last)
    if tail is None:
        return None
    if zero is None and tail.zero_at is not None:
        zero = offset + tail.zero_at
    return _shifted(tail, offset, zero)


def _shifted(tail: Tail, offset: int, zero: int | None) -> Tail:
    """The tail of k -> alpha_{k - offset}.

    For k + 1 >= 2 offset, k - offset + 1 >= (k+1)/2 and log(k - offset + e) >= log(k+e)/2, so s(k - offset) lies
    between s(k) / 2^(|r| when r < 0) and s(k) 2^(p + |r| when r > 0).
    """
    up = math.ceil(tail.p) + math.ceil(max(tail.r, Fraction(0)))
    down = math.ceil(max(-tail.r, Fraction(0)))
    moved = replace(
        tail,
        upper=tail.upper * 2**up,
        lower=None if tail.lower is None else tail.lower / 2**down,
        start=tail.start + offset,
        zero_at=zero,
    )
    return _later(moved, 2 * offset) if up or down else moved


def _product(schedule: schedules.Product) -> Tail | None:
    left, right = tail_of(schedule.left), tail_of(schedule.right)
    if left is None or right is None:
        return None
    if left.every == 1 or (right.every != 1 and right.every == left.every):
        left, right = right, left  # `left` carries the sparser progression
    start, every, lower = max(left.start, right.start), left.every, None
    if right.every == 1 or (every > 0 and every == right.every and (left.start - right.start) % every == 0):
        lower = None if left.lower is None or right.lower is None else left.lower * right.lower
        start = _later(left, start).start
    elif every > 0:
        every = 1
    zeros = [zero for zero in (left.zero_at, right.zero_at) if zero is not None]
    return Tail(
        left.upper * right.upper,
        lower,
        left.p + right.p,
        left.r + right.r,
        start,
        every if lower is not None else 1,
        left.shrink or right.shrink,
        min(zeros) if zeros else None,
    )


_TAILS: dict[type[Schedule], Callable[[Any], Tail | None]] = {
    schedules.Constant: _constant,
    schedules.Power: _power,
    schedules.PowerLog: _powerlog,
    schedules.Step: _step,
    schedules.Exponential: _exponential,
    schedules.MultiStep: _multistep,
    schedules.Linear: _linear,
    schedules.Polynomial: _ends_at_a_min,
    schedules.Cosine: _ends_at_a_min,
    schedules.OneCycle: _onecycle,
    schedules.CosineRestarts: _restarts,
    schedules.Warmup: _warmup,
    schedules.Table: _table,
    schedules.Chain: _chain,
    schedules.Product: _product,
}


def tail_of(schedule: Schedule) -> Tail | None:
    """The tail of a schedule, or None when nothing is known of it past some step."""
    find = _TAILS.get(type(schedule))
    return None if find is None else find(schedule)
