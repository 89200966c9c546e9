"""Comparisons, masks and choices."""

from __future__ import annotations

import math
from collections.abc import Callable

from tameopt.structure.ranges import INF, Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError, selected_by
from tameopt.structure.rules.elementwise import with_limit
from tameopt.structure.rules.linear import operand
from tameopt.structure.tame import ALMOST_EVERYWHERE, DISCONTINUOUS
from tameopt.structure.value import Value, constant, join, number

BOOLEAN = Interval(0.0, 1.0)


def truth(values: list[Value]) -> Value:
    """A condition on these values: 0 or 1, locally constant off a definable set of measure zero."""
    base = join(values)
    if not base.varies:
        return constant(BOOLEAN)
    return base.but(
        range=BOOLEAN,
        degree=None if base.degree is None else 0,
        piecewise=True,
        smooth=DISCONTINUOUS,
        autodiff=max(base.autodiff, ALMOST_EVERYWHERE),
        shape="",
        homogeneous=None if base.homogeneous is None else 0,
        extended=False,
        flat=True,
    )


_ORDER: dict[str, Callable[[Interval, Interval], bool]] = {
    "lt": lambda x, y: x.hi < y.lo or (x.hi == y.lo and (x.hi_open or y.lo_open)),
    "le": lambda x, y: x.hi <= y.lo,
    "gt": lambda x, y: x.lo > y.hi or (x.lo == y.hi and (x.lo_open or y.hi_open)),
    "ge": lambda x, y: x.lo >= y.hi,
}
_NEGATION = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}
# of a number that is defined for every theta
_OF_NUMBERS = {"isnan": 0.0, "isinf": 0.0, "isposinf": 0.0, "isneginf": 0.0, "isfinite": 1.0}


def decided(name: str, values: list[Value], call: Call) -> Value | None:
    """What a comparison gives wherever theta is, by the ranges alone; None when they do not tell."""
    ranges = [with_limit(value) for value in values]
    empty = any(math.prod(shape) == 0 for shape in (*call.shapes.values(), *call.outputs))
    if empty or not all(value.total for value in values):
        return None
    itself = call.arguments.get("same") or call.arguments.get("other") in ("inf", "-inf")
    if name in ("eq", "ne") and itself and not any(value.extended for value in values):
        # x == x for every number, and no number is infinite
        return number(float((name == "eq") == bool(call.arguments.get("same"))))
    if name in _ORDER and len(ranges) == 2:
        if _ORDER[name](*ranges):
            return number(1.0)
        return number(0.0) if _ORDER[_NEGATION[name]](*ranges) else None
    if name in _OF_NUMBERS and not values[0].extended:
        return number(_OF_NUMBERS[name])
    if name in ("any", "all") and ranges[0].lo == ranges[0].hi in (0.0, 1.0):
        return number(ranges[0].lo)
    if name == "logical_not" and ranges[0].lo == ranges[0].hi in (0.0, 1.0):
        return number(1.0 - ranges[0].lo)
    return None


def branches(call: Call) -> Value:
    """One of several tensors, by decisions of Python on theta; it may raise instead."""
    found = join(call.arguments["tensors"])
    for condition in call.arguments["conditions"]:
        found = selected_by(found, condition)
    return found.but(total=False) if call.arguments["raising"] else found


def compared(call: Call) -> list[Value]:
    """eq, lt, isnan and their relatives, of tensors or a tensor and a number."""
    values = list(call.tensors)
    if "bool" not in call.dtypes[0] and any(value.varies for value in values):
        raise NoRuleError("bits of integers that depend on theta")
    x = call.arguments.get("other")
    if isinstance(x, (int, float)):
        values.append(number(float(x)))
    known = decided(call.name.rstrip("_"), values, call)
    return [known or truth(values)]


def limited(x: Value, comparison: str, bound: float) -> Value:
    """x, known to satisfy `x comparison bound` (a guard such as where(x > 0, x, 1))."""
    low = {"gt": (bound, True), "ge": (bound, False)}.get(comparison)
    high = {"lt": (bound, True), "le": (bound, False)}.get(comparison)
    lo, lo_open = low or (-INF, False)
    hi, hi_open = high or (INF, False)
    if x.range.lo >= hi or x.range.hi <= lo:
        # the branch is never taken, or at one point
        return x
    return x.but(range=x.range.clip(lo, hi, lo_open, hi_open))


def where(call: Call) -> list[Value]:
    """condition ? self : other; `guard` (which branch, comparison, bound) is set where the condition compares it."""
    condition = call.value("condition")
    branches = {"self": operand(call, "self"), "other": operand(call, "other")}
    for branch, comparison, bound in call.arguments.get("guards") or ():
        branches[branch] = limited(branches[branch], comparison, bound)
    both = join(list(branches.values()))
    return [_masked_extended(call, selected_by(both, condition))]


def written(call: Call) -> list[Value]:
    """index_put, scatter, select_scatter, copy: elements of the first tensor replaced by those of another."""
    call.require_constant(["index", "indices", "mask"])
    for argument in call.arguments.get("indices") or ():
        if isinstance(argument, Value) and argument.varies:
            raise NoRuleError(f"{call.name} at positions that depend on theta")
    first = call.tensors[0]
    for name in ("values", "src", "source", "value"):
        if name in call.arguments and call.arguments[name] is not None:
            other = operand(call, name)
            break
    else:
        raise NoRuleError(f"{call.name} without values")
    if call.arguments.get("accumulate"):
        sums = join([first, other])
        both = first.range.nonnegative and other.range.nonnegative
        return [sums.but(range=Interval(0.0) if both else Interval())]
    return [join([first, other])]


def _masked_extended(call: Call, value: Value) -> Value:
    if value.extended and call.value("condition" if "condition" in call.arguments else "mask").varies:
        raise NoRuleError("a mask of -inf that depends on theta")
    return value


def masked_fill(call: Call) -> list[Value]:
    """self, with `value` where the mask is true."""
    both = join([call.value("self"), operand(call, "value")])
    return [_masked_extended(call, selected_by(both, call.value("mask")))]


def threshold(call: Call) -> list[Value]:
    """x where x > threshold, else value."""
    x = call.value("self")
    limit, value = call.number("threshold"), call.number("value")
    if limit == value == 0:
        from tameopt.structure.aten.elementwise import FUNCTIONS
        from tameopt.structure.rules.elementwise import apply

        return [apply(FUNCTIONS["relu"], x)]
    result = selected_by(join([x, number(value)]), truth([x, number(limit)]))
    return [result.but(range=hull([x.range, point(value)]))]
