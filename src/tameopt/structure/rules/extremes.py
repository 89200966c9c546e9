"""Maxima, minima, clamps and positions of the largest."""

from __future__ import annotations

from tameopt.structure.ranges import Interval
from tameopt.structure.rules._call import Call
from tameopt.structure.rules.elementwise import composed_shape
from tameopt.structure.rules.linear import operand, reduced_count
from tameopt.structure.rules.network import kinked
from tameopt.structure.tame import (
    ALMOST_EVERYWHERE,
    CLASSICAL,
    DISCONTINUOUS,
)
from tameopt.structure.value import Value, constant, join


def largest(call: Call) -> list[Value]:
    """Maxima of several elements (amax, max_pool, max.dim values), and where they are."""
    if call.arguments.get("other") is not None:
        return pair_largest(call)
    x = call.tensors[0]
    single = "pool" not in call.name and reduced_count(call) == 1
    if single and len(call.outputs) == 1:
        return [x]
    ranges = x.range
    values = kinked(x, ranges, composed_shape("convex", 1, x), x.homogeneous).but(extended=x.extended)
    return [values, *[indices(x)] * (len(call.outputs) - 1)]


def smallest(call: Call) -> list[Value]:
    """Minima of several elements, and where they are."""
    if call.arguments.get("other") is not None:
        return pair_smallest(call)
    x = call.tensors[0]
    values = kinked(x, x.range, composed_shape("concave", 1, x), x.homogeneous)
    return [values, *[indices(x)] * (len(call.outputs) - 1)]


def ordered(call: Call) -> list[Value]:
    """sort, topk, median, kthvalue: values and their positions."""
    x = call.tensors[0]
    values = kinked(x, x.range, "", x.homogeneous)
    return [values, *[indices(x)] * (len(call.outputs) - 1)]


def indices(x: Value) -> Value:
    """Positions: locally constant where there is no tie."""
    if not x.varies:
        return constant(Interval(0.0))
    return x.but(
        range=Interval(0.0),
        degree=None if x.degree is None else 0,
        piecewise=True,
        smooth=DISCONTINUOUS,
        autodiff=max(x.autodiff, ALMOST_EVERYWHERE),
        shape="",
        homogeneous=0 if x.homogeneous is not None else None,
        extended=False,
        flat=True,
    )


def index_of(call: Call) -> list[Value]:
    """argmax, argmin, argsort."""
    return [indices(join(call.tensors))]


def pair_largest(call: Call) -> list[Value]:
    """maximum(x, y)."""
    return [_extreme(operand(call, "self"), operand(call, "other"), True)]


def pair_smallest(call: Call) -> list[Value]:
    """minimum(x, y)."""
    return [_extreme(operand(call, "self"), operand(call, "other"), False)]


def _extreme(x: Value, y: Value, largest: bool) -> Value:
    base = join([x, y])
    pick = max if largest else min
    lo, hi = pick(x.range.lo, y.range.lo), pick(x.range.hi, y.range.hi)
    ranges = Interval(lo, hi)
    ordered = x.range.lo >= y.range.hi, y.range.lo >= x.range.hi
    if any(ordered):
        return _winning(x if ordered[0] == largest else y, base)
    shape = composed_shape("convex" if largest else "concave", 1, base)
    return kinked(base, ranges, shape, base.homogeneous)


def _winning(chosen: Value, base: Value) -> Value:
    """The larger of two, known in advance; undefined where the other one is, and with its infinite derivatives."""
    if base.total and base.autodiff < ALMOST_EVERYWHERE:
        return chosen.but(autodiff=base.autodiff if chosen.varies else CLASSICAL)
    return chosen.but(
        varies=True,
        generators=base.generators,
        degree=None if base.degree is None else chosen.degree,
        piecewise=True,
        autodiff=base.autodiff,
        total=base.total,
    )


def clamp(call: Call) -> list[Value]:
    """min(max(x, lower), upper)."""
    x = call.tensors[0]
    for name, largest in (("min", True), ("min_val", True), ("max", False), ("max_val", False)):
        if call.arguments.get(name) is None:
            continue
        bound = call.arguments[name]
        if isinstance(bound, str) and bound in ("inf", "-inf"):
            continue
        x = _extreme(x, operand(call, name), largest)
    return [x]
