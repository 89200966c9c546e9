"""What the checker knows about a tensor, and arithmetic with its bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

ANALYTIC = 1000
INF = math.inf


class Reject(Exception):
    """The certificate claims more than the checker can derive, or uses an operator it does not know."""


@dataclass(frozen=True)
class Bounds:
    """lo <= x <= hi; `lo_open`, `hi_open`: the end is not attained."""

    lo: float = -INF
    hi: float = INF
    lo_open: bool = False
    hi_open: bool = False

    def within(self, lo: float, hi: float, lo_open: bool = False, hi_open: bool = False) -> bool:
        """Whether all points lie in the given interval."""
        left = self.lo > lo or lo == -INF or (self.lo == lo and (self.lo_open or not lo_open))
        right = self.hi < hi or hi == INF or (self.hi == hi and (self.hi_open or not hi_open))
        return left and right

    @property
    def positive(self) -> bool:
        return self.within(0.0, INF, True)

    @property
    def negative(self) -> bool:
        return self.within(-INF, 0.0, False, True)

    @property
    def finite(self) -> bool:
        return self.lo > -INF and self.hi < INF

    def holds(self, x: float) -> bool:
        return (self.lo < x or (self.lo == x and not self.lo_open)) and (
            x < self.hi or (x == self.hi and not self.hi_open)
        )

    def minus(self) -> Bounds:
        return Bounds(-self.hi, -self.lo, self.hi_open, self.lo_open)

    def plus(self, other: Bounds) -> Bounds:
        lo, lo_open = _end_sum(self.lo, other.lo, self.lo_open or other.lo_open)
        hi, hi_open = _end_sum(-self.hi, -other.hi, self.hi_open or other.hi_open)
        return Bounds(lo, -hi, lo_open, hi_open)

    def times(self, other: Bounds) -> Bounds:
        for one, rest in ((self, other), (other, self)):
            if one.lo == one.hi == 1:
                return rest
        pairs = [(a, b) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        lo = min(_below(a, b) for a, b in pairs)
        hi = -min(_below(-a, b) for a, b in pairs)
        nonzero = (self.positive or self.negative) and (other.positive or other.negative)
        return Bounds(lo, hi, nonzero and lo == 0, nonzero and hi == 0)

    def repeated(self, count: int) -> Bounds:
        """Sums of `count` such numbers."""
        if count == 0:
            return Bounds(0.0, 0.0)
        if count == 1:
            return self
        scaled = self.times(Bounds(float(count), float(count)))
        return Bounds(scaled.lo, scaled.hi, self.lo == 0 and self.lo_open, self.hi == 0 and self.hi_open)

    def union(self, other: Bounds) -> Bounds:
        lo, hi = min(self.lo, other.lo), max(self.hi, other.hi)
        return Bounds(
            lo, hi, not (self.reaches(lo) or other.reaches(lo)), not (self.reaches(hi) or other.reaches(hi))
        )

    def reaches(self, end: float) -> bool:
        return (self.lo == end and not self.lo_open) or (self.hi == end and not self.hi_open)


def _end_sum(a: float, b: float, is_open: bool) -> tuple[float, bool]:
    """A lower bound of a + b; it stays exact, and may stay open, when one of them is 0."""
    if a == -INF or b == -INF:
        return -INF, False
    if a == 0 or b == 0:
        return a + b, is_open
    return math.nextafter(a + b, -INF), False


def _below(a: float, b: float) -> float:
    """A lower bound of the product a b, where 0 times infinity is 0."""
    if a == 0 or b == 0:
        return 0.0
    product = a * b
    if product == 0:
        return 0.0 if (a > 0) == (b > 0) else -5e-324
    if math.isinf(a) or math.isinf(b):
        return product
    return math.nextafter(product, -INF)


REALS = Bounds()
ZERO = Bounds(0.0, 0.0)


@dataclass(frozen=True)
class Fact:
    """The checker's knowledge of the elements of a tensor, for every theta."""

    bounds: Bounds
    varies: bool = True
    needs: frozenset[str] = frozenset()
    degree: int | None = 0
    pieces: bool = False
    smooth: int = ANALYTIC
    autodiff: int = 0
    total: bool = True
    shape: str = "affine"
    power: int | None = 0
    masked: bool = False
    flat: bool = False

    def but(self, **changes: Any) -> Fact:
        return replace(self, **changes)

    @property
    def is_zero(self) -> bool:
        return self.bounds.lo == 0 == self.bounds.hi


def fixed(bounds: Bounds, masked: bool = False) -> Fact:
    """A constant."""
    return Fact(bounds, varies=False, masked=masked, flat=True)


def worst(facts: Sequence[Fact]) -> Fact:
    """What holds of every element of several tensors, or of a sum of them (but for the bounds)."""
    bounds = facts[0].bounds
    for fact in facts[1:]:
        bounds = bounds.union(fact.bounds)
    masked = any(fact.masked for fact in facts)
    moving = [fact for fact in facts if fact.varies]
    if not moving:
        return fixed(bounds, masked).but(total=all(fact.total for fact in facts))
    known = [fact.degree for fact in moving if fact.degree is not None]
    powers = {fact.power for fact in facts if not fact.is_zero} or {0}
    return Fact(
        bounds,
        True,
        frozenset(need for fact in moving for need in fact.needs),
        max(known) if len(known) == len(moving) else None,
        any(fact.pieces for fact in moving),
        min(fact.smooth for fact in moving),
        max(fact.autodiff for fact in moving),
        all(fact.total for fact in facts),
        common_shape([fact.shape for fact in facts]),
        powers.pop() if len(powers) == 1 else None,
        masked,
        all(fact.flat for fact in moving),
    )


def common_shape(shapes: Sequence[str]) -> str:
    kinds = set(shapes)
    for allowed, name in (
        ({"affine"}, "affine"),
        ({"affine", "convex"}, "convex"),
        ({"affine", "concave"}, "concave"),
    ):
        if kinds <= allowed:
            return name
    return ""


def mirrored(shape: str) -> str:
    return {"convex": "concave", "concave": "convex"}.get(shape, shape)


def through(outer: str, slope: int, inner: Fact) -> str:
    """The shape of f(g): f convex and increasing after g convex is convex, and so on."""
    if inner.shape == "affine":
        return outer
    rising = inner.shape if slope > 0 else mirrored(inner.shape) if slope < 0 else ""
    if not rising:
        return ""
    return rising if outer in ("affine", rising) else ""


def add(a: Fact, b: Fact) -> Fact:
    return worst([a, b]).but(bounds=a.bounds.plus(b.bounds))


def negate(a: Fact) -> Fact:
    if a.masked:
        raise Reject("a mask is negated")
    return a.but(bounds=a.bounds.minus(), shape=mirrored(a.shape))


def scale(a: Fact, factor: Bounds) -> Fact:
    """a times a constant in `factor`."""
    if a.masked and not factor.positive:
        raise Reject("a mask times a number that may not be positive")
    if factor.lo >= 0:
        shape = a.shape
    elif factor.hi <= 0:
        shape = mirrored(a.shape)
    else:
        shape = "affine" if a.shape == "affine" else ""
    return a.but(bounds=a.bounds.times(factor), shape=shape)


def product(a: Fact, b: Fact, count: int = 1, zeros: bool = False) -> Fact:
    """Sums of `count` products, some of them missing with `zeros`."""
    if a.masked or b.masked:
        mask, factor = (a, b) if a.masked else (b, a)
        if factor.varies or factor.masked or count > 1 or zeros:
            raise Reject("a mask enters a product")
        return scale(mask, factor.bounds)
    one = a.bounds.times(b.bounds)
    bounds = (one.union(ZERO) if zeros else one).repeated(count)
    if not a.varies:
        return scale(b, a.bounds).but(bounds=bounds, total=a.total and b.total)
    if not b.varies:
        return scale(a, b.bounds).but(bounds=bounds, total=a.total and b.total)
    degree = a.degree + b.degree if a.degree is not None and b.degree is not None else None
    power = a.power + b.power if a.power is not None and b.power is not None else None
    return worst([a, b]).but(bounds=bounds, degree=degree, power=power, shape="")


def choose(base: Fact, chooser: Fact) -> Fact:
    """Elements of `base` chosen by something that may jump with theta."""
    if not chooser.varies:
        return base
    both = worst([base, chooser])
    return base.but(
        varies=True,
        needs=both.needs,
        degree=None if both.degree is None else base.degree,
        pieces=True,
        smooth=-2,
        autodiff=max(both.autodiff, 3),
        total=both.total,
        shape="",
        power=base.power if chooser.power == 0 else None,
        flat=base.flat and chooser.flat,
    )


def step(a: Fact, bounds: Bounds, anywhere: bool = False) -> Fact:
    """A locally constant function of a; with `anywhere` it has steps all along the line."""
    if not a.varies:
        return fixed(bounds)
    lost = anywhere and not a.bounds.finite
    invariant = a.power == 0 if anywhere else a.power is not None
    return a.but(
        bounds=bounds,
        needs=a.needs | {"wild"} if lost else a.needs,
        degree=None if lost or a.degree is None else 0,
        pieces=True,
        smooth=-2,
        autodiff=max(a.autodiff, 3),
        shape="",
        power=0 if invariant else None,
        masked=False,
        flat=True,
    )


def bent(a: Fact, bounds: Bounds, shape: str = "", power: int | None = None) -> Fact:
    """A piecewise linear Lipschitz function of elements like a."""
    if not a.varies:
        return fixed(bounds, a.masked)
    return a.but(
        bounds=bounds, pieces=True, smooth=min(a.smooth, 0), autodiff=max(a.autodiff, 2), shape=shape, power=power
    )


def smooth_map(facts: Sequence[Fact], needs: set[str], bounds: Bounds, shape: str = "") -> Fact:
    """An analytic function, defined everywhere, of all these."""
    base = worst(facts)
    if not base.varies:
        return fixed(bounds)
    return base.but(
        bounds=bounds,
        needs=base.needs | needs,
        degree=None if needs else base.degree,
        shape=shape,
        power=0 if all(fact.power == 0 for fact in facts) else None,
        masked=False,
    )
