"""Elementwise functions of one number and their images of intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

from tameopt.structure.checker._fact import (
    INF,
    REALS,
    Bounds,
    Fact,
    Reject,
    fixed,
    through,
)
from tameopt.structure.checker._rows import Scalar


def apply_scalar(row: Scalar, a: Fact) -> Fact:
    """An elementwise function of a; at -inf its limit there, which is attained."""
    if a.masked:
        found = apply_scalar(row, a.but(bounds=reach(a), masked=False))
        return found.but(bounds=Bounds(found.bounds.lo, found.bounds.hi, False, found.bounds.hi_open))
    inside = a.bounds.within(*row.domain)
    bounds = image(row.image, a.bounds if inside else clipped(a.bounds, row.domain))
    if not a.varies:
        return fixed(bounds)
    smooth, autodiff = a.smooth, a.autodiff
    met = any(a.bounds.holds(kink) for kink in row.kinks)
    if met:
        smooth, autodiff = min(smooth, row.bend[0]), max(autodiff, row.bend[1])
    lo, hi, lo_open, hi_open = row.domain
    touches = (not lo_open and a.bounds.holds(lo)) or (not hi_open and hi < INF and a.bounds.holds(hi))
    if row.edge < 1000 and (touches or not inside):
        smooth, autodiff = min(smooth, row.edge), max(autodiff, 3)
    if not inside:
        autodiff = max(autodiff, 3)
    lost = (row.bounded and not a.bounds.finite) or (row.wild_outside and not inside)
    degree = None if row.degree is None or a.degree is None or lost else row.degree * a.degree
    return Fact(
        bounds,
        True,
        a.needs | ({row.needs} if row.needs else set()) | ({"wild"} if lost else set()),
        degree,
        a.pieces or (met and row.degree is not None),
        smooth,
        autodiff,
        a.total and inside,
        through(row.shape, row.slope, a),
        a.power if row.ray else (0 if a.power == 0 else None),
        flat=a.flat or row.degree == 0,
    )


def reach(a: Fact) -> Bounds:
    """The bounds of a, down to -inf where some elements are that."""
    return Bounds(-INF, a.bounds.hi, False, a.bounds.hi_open) if a.masked else a.bounds


def clipped(b: Bounds, domain: tuple[float, float, bool, bool]) -> Bounds:
    lo, hi, lo_open, hi_open = domain
    if b.lo > hi or b.hi < lo:
        return Bounds(lo, hi, lo_open, hi_open)
    left = (b.lo, b.lo_open) if b.lo > lo else (lo, lo_open or (b.lo == lo and b.lo_open))
    right = (b.hi, b.hi_open) if b.hi < hi else (hi, hi_open or (b.hi == hi and b.hi_open))
    return Bounds(left[0], right[0], left[1], right[1])


def safe(f: Callable[[float], float], x: float, low: bool) -> float:
    """f(x) moved outwards by two units in the last place; infinite where it cannot be computed."""
    try:
        y = f(x)
    except (OverflowError, ValueError, ZeroDivisionError):
        return -INF if low else INF
    if y != y:
        return -INF if low else INF
    for _ in range(2):
        y = math.nextafter(y, -INF if low else INF)
    return y


def _increasing(f: Callable[[float], float], b: Bounds) -> Bounds:
    return Bounds(safe(f, b.lo, True), safe(f, b.hi, False))


def _sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > 0 else math.exp(x) / (math.exp(x) + 1.0)


# increasing functions with the ends of their ranges, and whether those are never attained
_RISING: dict[str, tuple[Callable[[float], float], float, float, bool]] = {
    "exp": (math.exp, 0.0, INF, True),
    "exp2": (lambda x: 2.0**x, 0.0, INF, True),
    "expm1": (math.expm1, -1.0, INF, True),
    "sigmoid": (_sigma, 0.0, 1.0, True),
    "log_sigmoid": (lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))), -INF, 0.0, True),
    "sinh": (math.sinh, -INF, INF, False),
    "asinh": (math.asinh, -INF, INF, False),
    "acosh": (math.acosh, 0.0, INF, False),
    "atanh": (math.atanh, -INF, INF, False),
    "atan": (math.atan, -1.5707963267948968, 1.5707963267948968, False),
    "asin": (math.asin, -INF, INF, False),
    "erf": (math.erf, -1.0, 1.0, True),
}


def image(name: str, b: Bounds) -> Bounds:
    if name.startswith("dip:"):
        return Bounds(0.0 if b.lo >= 0 else float(name[4:]), max(b.hi, 0.0))
    simple = {
        "any": REALS, "[0,6]": Bounds(0.0, 6.0), "[0,1]": Bounds(0.0, 1.0), "[-1,1]": Bounds(-1.0, 1.0),
        "lgamma": Bounds(-0.1214863, INF), "neg": b.minus(),
    }  # fmt: skip
    if name in simple:
        return simple[name]
    if name in _RISING:
        rising, lo, hi, is_open = _RISING[name]
        image = _increasing(rising, b)
        left = (image.lo, False) if image.lo > lo else (lo, is_open)
        right = (image.hi, False) if image.hi < hi else (hi, is_open)
        return Bounds(left[0], right[0], left[1], right[1])
    if name in ("acos", "erfc"):
        function, top = (math.acos, 3.1415927) if name == "acos" else (math.erfc, 2.0)
        found = Bounds(safe(function, b.hi, True), safe(function, b.lo, False))
        return Bounds(max(found.lo, 0.0), min(found.hi, top), found.lo <= 0 and name == "erfc")
    if name == "cosh":
        a = absolute(b)
        return Bounds(max(1.0, safe(math.cosh, a.lo, True)), safe(math.cosh, a.hi, False))
    if name == "relu":
        return Bounds(max(b.lo, 0.0), max(b.hi, 0.0), b.lo > 0 and b.lo_open, b.hi > 0 and b.hi_open)
    if name == "abs":
        return absolute(b)
    if name == "square":
        a = absolute(b)
        return a.times(a)
    if name in ("log", "log2", "log10"):
        found = _increasing({"log": math.log, "log2": math.log2, "log10": math.log10}[name], b)
        return Bounds(max(found.lo, 0.0), found.hi) if b.lo >= 1 else found
    if name == "log1p":
        found = _increasing(math.log1p, b)
        return Bounds(max(found.lo, 0.0), found.hi) if b.lo >= 0 else found
    if name == "tanh":
        found = _increasing(math.tanh, b)
        low = max(found.lo, 0.0 if b.lo >= 0 else -1.0)
        high = min(found.hi, 0.0 if b.hi <= 0 else 1.0)
        return Bounds(low, high, low == -1, high == 1)
    if name == "sqrt":
        found = _increasing(math.sqrt, b)
        return Bounds(max(found.lo, 0.0), found.hi, found.lo <= 0 and b.positive)
    if name == "rsqrt":
        low = 0.0 if b.hi == INF else safe(lambda x: 1.0 / math.sqrt(x), b.hi, True)
        high = safe(lambda x: 1.0 / math.sqrt(x), b.lo, False)
        return Bounds(max(low, 0.0), high, low <= 0)
    raise Reject(f"the image {name!r} is not known")


def absolute(b: Bounds) -> Bounds:
    if b.lo >= 0:
        return b
    if b.hi <= 0:
        return b.minus()
    return Bounds(0.0, max(-b.lo, b.hi))
