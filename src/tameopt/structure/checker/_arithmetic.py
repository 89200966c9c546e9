"""Quotients, powers, maxima, norms and normalisation of facts."""

from __future__ import annotations

from tameopt.structure.checker._elementwise import absolute, image, reach, safe
from tameopt.structure.checker._fact import (
    INF,
    REALS,
    Bounds,
    Fact,
    Reject,
    bent,
    fixed,
    smooth_map,
    through,
    worst,
)


def inverse(a: Fact) -> Fact:
    b = a.bounds
    nonzero = b.positive or b.negative
    if b.positive:
        low = 0.0 if b.hi == INF else max(0.0, safe(lambda x: 1.0 / x, b.hi, True))
        bounds = Bounds(low, INF if b.lo == 0 else safe(lambda x: 1.0 / x, b.lo, False), low == 0)
    elif b.negative:
        high = 0.0 if b.lo == -INF else min(0.0, safe(lambda x: 1.0 / x, b.lo, False))
        bounds = Bounds(-INF if b.hi == 0 else safe(lambda x: 1.0 / x, b.hi, True), high, False, high == 0)
    else:
        bounds = REALS
    if not a.varies:
        return fixed(bounds).but(total=nonzero)
    return a.but(
        bounds=bounds,
        needs=a.needs | {"algebraic"},
        degree=None,
        autodiff=a.autodiff if nonzero else max(a.autodiff, 3),
        total=a.total and nonzero and not a.masked,
        shape=through("convex", -1, a) if b.positive else through("concave", -1, a) if b.negative else "",
        power=None if a.power is None else -a.power,
    )


def whole_power(a: Fact, n: int) -> Fact:
    if n == 0:
        # constant where a is defined, but backprop multiplies its 0 with the derivative of a
        free = a.but(bounds=Bounds(1.0, 1.0), smooth=1000, shape="affine", power=0, masked=False, flat=True)
        return free.but(varies=a.varies and (not a.total or a.autodiff >= 3), degree=None if a.degree is None else 0)
    if n == 1:
        return a
    if a.masked:
        raise Reject("a power of a mask")
    b = absolute(a.bounds)
    signless = n % 2 == 0 or a.bounds.lo >= 0
    if n == 2:
        bounds = image("square", a.bounds)
    elif signless:
        bounds = Bounds(0.0, INF, b.positive)
    else:
        bounds = REALS
    if n > 2 and a.bounds.finite and b.hi < 1e30 and n < 10:
        top = b.hi**n * (1 + 1e-12)
        bounds = Bounds(0.0, top, bounds.lo_open) if signless else Bounds(-top, top)
    slope = 1 if a.bounds.lo >= 0 else -1 if n % 2 == 0 and a.bounds.hi <= 0 else 0
    return a.but(
        bounds=bounds,
        degree=None if a.degree is None else n * a.degree,
        shape=through("convex", slope, a) if signless else "",
        power=None if a.power is None else n * a.power,
    )


def power(a: Fact, p: float) -> Fact:
    if p == int(p):
        return whole_power(a, int(p)) if p >= 0 else inverse(whole_power(a, int(-p)))
    b = a.bounds
    if not a.varies:
        return fixed(Bounds(0.0, INF, b.positive)).but(total=b.positive or (b.lo >= 0 and p > 0))
    scaled = None if a.power is None else p * a.power
    return a.but(
        bounds=Bounds(0.0, INF, b.positive),
        needs=a.needs | {"algebraic" if p * 64 == int(p * 64) else "exp"},
        degree=None,
        smooth=a.smooth if b.positive else min(a.smooth, int(p) if p > 1 else -1),
        autodiff=a.autodiff if b.positive or (p > 1 and b.lo >= 0) else max(a.autodiff, 3),
        total=a.total and (b.positive or (b.lo >= 0 and p > 0)) and not a.masked,
        shape=through("convex", 1, a) if p > 1 and b.lo >= 0 else "",
        power=int(scaled) if scaled is not None and scaled == int(scaled) else (0 if a.power == 0 else None),
    )


def extreme(a: Fact, b: Fact, up: bool) -> Fact:
    pick = max if up else min
    base = worst([a, b])
    left, right = reach(a), reach(b)
    ahead = left.lo >= right.hi, right.lo >= left.hi
    if any(ahead):
        return _winning(a if ahead[0] == up else b, base)
    bounds = Bounds(pick(left.lo, right.lo), pick(left.hi, right.hi))
    found = bent(base, bounds, through("convex" if up else "concave", 1, base), base.power)
    return found.but(masked=a.masked and b.masked if up else base.masked)


def _winning(chosen: Fact, base: Fact) -> Fact:
    """The larger of two, known in advance; undefined where the other one is, and with its infinite derivatives."""
    if base.total and base.autodiff < 3:
        return chosen.but(autodiff=base.autodiff if chosen.varies else 0)
    return chosen.but(
        varies=True,
        needs=base.needs,
        degree=None if base.degree is None else chosen.degree,
        pieces=True,
        autodiff=base.autodiff,
        total=base.total,
    )


def many_factors(a: Fact, count: int) -> Fact:
    if count == 1:
        return a
    top = 1.0 if a.bounds.lo >= 0 and a.bounds.hi <= 1 else INF
    bounds = Bounds(0.0, top, a.bounds.positive) if a.bounds.lo >= 0 else REALS
    return a.but(
        bounds=bounds,
        degree=None if a.degree is None else count * a.degree,
        shape="",
        power=None if a.power is None else count * a.power,
    )


def euclidean(a: Fact, bounds: Bounds) -> Fact:
    if not a.varies:
        return fixed(bounds)
    return a.but(
        bounds=bounds,
        needs=a.needs | {"algebraic"},
        degree=None,
        smooth=min(a.smooth, 0),
        autodiff=max(a.autodiff, 2),
        shape="convex" if a.shape == "affine" else "",
    )


def normalised(a: Fact, eps: float) -> Fact:
    if not a.varies:
        return fixed(REALS)
    base = smooth_map([a], {"algebraic"}, REALS)
    if eps > 0:
        return base
    return base.but(smooth=-2, total=False, autodiff=max(base.autodiff, 3), power=None if a.power is None else 0)
