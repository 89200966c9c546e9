"""Intervals with outward rounding and open or closed ends: where the elements of a tensor can lie.

An interval bounds *every* element of a tensor for *every* theta, in real arithmetic. Each end is a double rounded
outwards; `lo_open` says that the end itself is never attained (exp(x) lies in (0, inf), relu(x) in [0, inf)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

INF = math.inf


def down(x: float, ulps: int = 1) -> float:
    """A double below x; 0 and -inf are left alone, an overflowed +inf becomes the largest double."""
    for _ in range(ulps):
        if x in (0.0, -INF):
            return x
        x = math.nextafter(x, -INF)
    return x


def up(x: float, ulps: int = 1) -> float:
    """A double above x (x itself when x is 0 or infinite)."""
    return -down(-x, ulps)


@dataclass(frozen=True)
class Interval:
    """{x : lo <= x <= hi}, without the ends marked open. Infinite ends are always open."""

    lo: float = -INF
    hi: float = INF
    lo_open: bool = False
    hi_open: bool = False

    def __post_init__(self) -> None:
        if self.lo != self.lo or self.hi != self.hi or self.lo > self.hi:
            raise ValueError(f"an interval must have lo <= hi, got [{self.lo}, {self.hi}].")

    @property
    def bounded(self) -> bool:
        return self.lo > -INF and self.hi < INF

    @property
    def nonnegative(self) -> bool:
        return self.lo >= 0

    @property
    def nonpositive(self) -> bool:
        return self.hi <= 0

    @property
    def positive(self) -> bool:
        return self.lo > 0 or (self.lo == 0 and self.lo_open)

    @property
    def negative(self) -> bool:
        return self.hi < 0 or (self.hi == 0 and self.hi_open)

    @property
    def nonzero(self) -> bool:
        return self.positive or self.negative

    def __contains__(self, x: float) -> bool:
        above = x > self.lo or (x == self.lo and not self.lo_open)
        below = x < self.hi or (x == self.hi and not self.hi_open)
        return above and below

    def inside(self, other: Interval) -> bool:
        """Whether every point of this interval is in `other`."""
        low = self.lo > other.lo or (self.lo == other.lo and (self.lo_open or not other.lo_open or self.lo == -INF))
        high = self.hi < other.hi or (self.hi == other.hi and (self.hi_open or not other.hi_open or self.hi == INF))
        return low and high

    def meets(self, x: float) -> bool:
        return x in self

    def join(self, other: Interval) -> Interval:
        """The smallest interval around both."""
        if self.lo != other.lo:
            low = self if self.lo < other.lo else other
            lo, lo_open = low.lo, low.lo_open
        else:
            lo, lo_open = self.lo, self.lo_open and other.lo_open
        if self.hi != other.hi:
            high = self if self.hi > other.hi else other
            hi, hi_open = high.hi, high.hi_open
        else:
            hi, hi_open = self.hi, self.hi_open and other.hi_open
        return Interval(lo, hi, lo_open, hi_open)

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo, self.hi_open, self.lo_open)

    def __add__(self, other: Interval) -> Interval:
        lo = self.lo + other.lo if not (math.isinf(self.lo) or math.isinf(other.lo)) else -INF
        hi = self.hi + other.hi if not (math.isinf(self.hi) or math.isinf(other.hi)) else INF
        exact_lo = self.lo == 0 or other.lo == 0
        exact_hi = self.hi == 0 or other.hi == 0
        # a rounded sum may land on 0 although the true one is below it, so it is moved outwards even from 0
        lo = lo if exact_lo else math.nextafter(lo, -INF)
        hi = hi if exact_hi else math.nextafter(hi, INF)
        return Interval(
            lo, hi, (self.lo_open or other.lo_open) and exact_lo, (self.hi_open or other.hi_open) and exact_hi
        )

    def __sub__(self, other: Interval) -> Interval:
        return self + (-other)

    def __mul__(self, other: Interval) -> Interval:
        if 1.0 == self.lo == self.hi or 1.0 == other.lo == other.hi:
            return other if 1.0 == self.lo == self.hi else self
        corners = [_product(a, b) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        infinite = not (self.bounded and other.bounded)
        lo, hi = min(corners), max(corners)
        lo = lo if infinite and lo == INF else down(lo)
        hi = hi if infinite and hi == -INF else up(hi)
        nonzero = self.nonzero and other.nonzero
        return Interval(min(lo, hi), hi, nonzero and lo == 0, nonzero and hi == 0)

    def scaled(self, factor: float) -> Interval:
        return self * Interval(factor, factor)

    def times(self, count: int) -> Interval:
        """The range of a sum of `count` elements."""
        if count == 0:
            return point(0.0)
        if count == 1:
            return self
        lo = self.lo * count if self.lo else 0.0
        hi = self.hi * count if self.hi else 0.0
        return Interval(down(lo), up(hi), self.lo == 0 and self.lo_open, self.hi == 0 and self.hi_open)

    def square(self) -> Interval:
        if self.nonzero or self.nonnegative or self.nonpositive:
            return self * self if not (self.lo < 0 < self.hi) else Interval(0.0, INF)
        top = max(-self.lo, self.hi)
        return Interval(0.0, up(_product(top, top)))

    def reciprocal(self) -> Interval:
        """1/x for x in the interval without 0."""
        if self.positive:
            lo = 0.0 if self.hi == INF else down(1.0 / self.hi, 4)
            hi = INF if self.lo == 0 or 1.0 / self.lo == INF else up(1.0 / self.lo, 4)
            return Interval(lo, hi, lo == 0.0)
        if self.negative:
            return -(-self).reciprocal()
        return Interval()

    def monotone(self, f: Callable[[float], float], increasing: bool = True, ulps: int = 4) -> Interval:
        """The image under a monotone function, evaluated with at most `ulps` error at finite ends.

        An end that evaluates to NaN or overflows becomes infinite.
        """
        if not increasing:
            return -self.monotone(lambda x: -f(x), True, ulps)
        lo, hi = _at(f, self.lo, -INF), _at(f, self.hi, INF)
        for _ in range(ulps):
            # from 0 too: the value may have underflowed
            lo, hi = math.nextafter(lo, -INF), math.nextafter(hi, INF)
        return Interval(lo, max(lo, hi))

    def clip(self, lo: float = -INF, hi: float = INF, lo_open: bool = False, hi_open: bool = False) -> Interval:
        """The part inside [lo, hi]: for images whose range is known."""
        low, low_open = (self.lo, self.lo_open) if self.lo > lo else (lo, lo_open or (self.lo == lo and self.lo_open))
        high, high_open = (
            (self.hi, self.hi_open) if self.hi < hi else (hi, hi_open or (self.hi == hi and self.hi_open))
        )
        return Interval(low, high, low_open, high_open) if low <= high else Interval(lo, hi, lo_open, hi_open)

    def data(self) -> list[float | bool | None]:
        """As JSON: [lo or null, hi or null, lo_open, hi_open]."""
        return [
            None if self.lo == -INF else self.lo,
            None if self.hi == INF else self.hi,
            self.lo_open,
            self.hi_open,
        ]

    def __str__(self) -> str:
        left, right = "(" if self.lo_open or self.lo == -INF else "[", ")" if self.hi_open or self.hi == INF else "]"
        return f"{left}{self.lo + 0.0:.6g}, {self.hi + 0.0:.6g}{right}"  # + 0.0 turns -0 into 0


def _product(a: float, b: float) -> float:
    if a == 0 or b == 0:
        return 0.0
    product = a * b
    # an underflow keeps its sign, so that rounding outwards stays outwards
    return product if product else math.copysign(5e-324, a) * math.copysign(1.0, b)


def _at(f: Callable[[float], float], x: float, otherwise: float) -> float:
    try:
        y = f(x)
    except (OverflowError, ValueError, ZeroDivisionError):
        return otherwise
    return otherwise if y != y else y


def point(x: float) -> Interval:
    return Interval(x, x)


REALS = Interval()
NONNEGATIVE = Interval(0.0, INF)
POSITIVE = Interval(0.0, INF, True, False)
UNIT = Interval(0.0, 1.0)


def hull(intervals: list[Interval]) -> Interval:
    """The smallest interval around all of them; the reals for none."""
    if not intervals:
        return REALS
    first, *rest = intervals
    for other in rest:
        first = first.join(other)
    return first
