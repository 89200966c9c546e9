"""Operators that move, add or average elements: linear in all tensor arguments together."""

from __future__ import annotations

import math

from tameopt.structure.ranges import Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError, selected_by
from tameopt.structure.tame import ALMOST_EVERYWHERE, DISCONTINUOUS, WILD
from tameopt.structure.value import Value, constant, flipped, join, number


def first(call: Call) -> Value:
    """The first tensor argument."""
    return call.tensors[0]


def view(call: Call) -> list[Value]:
    """The same elements, rearranged, repeated or dropped; every output alike."""
    return [first(call)] * len(call.outputs)


def shape_only(call: Call) -> list[Value]:
    """A tensor whose values do not depend on the values of the arguments."""
    return [constant(Interval())] * len(call.outputs)


def zeros_like(call: Call) -> list[Value]:
    return [number(0.0)]


def ones_like(call: Call) -> list[Value]:
    return [number(1.0)]


def filled(call: Call) -> list[Value]:
    """Every element is the fill value."""
    value = call.arguments.get("fill_value", call.arguments.get("value"))
    if isinstance(value, Value):
        return [value]
    name = "fill_value" if "fill_value" in call.arguments else "value"
    return [scalar(call, name)]


def scalar(call: Call, name: str) -> Value:
    """A Python number among the arguments as a Value; -inf is a mask."""
    x = call.number(name)
    if math.isfinite(x):
        return number(x)
    if x == -math.inf:
        return constant(Interval(), extended=True)
    raise NoRuleError(f"{call.name} with {name} = {x}")


def operand(call: Call, name: str) -> Value:
    """A tensor or number argument as a Value."""
    found = call.maybe(name)
    return found if found is not None else scalar(call, name)


def scaled(x: Value, factor: Value) -> Value:
    """x times a constant."""
    if factor.varies:
        raise NoRuleError("a factor that must be constant depends on theta")
    if factor.extended or (x.extended and not factor.range.positive):
        raise NoRuleError("a mask of -inf is multiplied with a number that may not be positive")
    if factor.range.nonnegative:
        shape = x.shape
    elif factor.range.nonpositive:
        shape = flipped(x.shape)
    else:
        shape = x.shape if x.shape == "affine" else ""
    return x.but(range=x.range * factor.range, shape=shape)


def negated(x: Value) -> Value:
    if x.extended:
        raise NoRuleError("a mask of -inf is negated")
    return x.but(range=-x.range, shape=flipped(x.shape))


def total(values: list[Value], ranges: Interval) -> Value:
    """A sum of these values, in the given range."""
    return join(values).but(range=ranges)


def plus(x: Value, y: Value) -> Value:
    return total([x, y], x.range + y.range)


def add(call: Call) -> list[Value]:
    """self + alpha other."""
    x, y = operand(call, "self"), operand(call, "other")
    alpha = call.number("alpha", 1.0)
    return [plus(x, y if alpha == 1 else scaled(y, number(alpha)))]


def sub(call: Call) -> list[Value]:
    """self - alpha other."""
    x, y = operand(call, "self"), operand(call, "other")
    return [plus(x, negated(scaled(y, number(call.number("alpha", 1.0)))))]


def rsub(call: Call) -> list[Value]:
    """other - alpha self."""
    x, y = operand(call, "self"), operand(call, "other")
    return [plus(y, negated(scaled(x, number(call.number("alpha", 1.0)))))]


def reduced_count(call: Call, name: str = "self") -> int:
    """How many elements go into one output element of a reduction."""
    outputs = call.output_size
    if outputs == 0:
        raise NoRuleError(f"{call.name} of an empty tensor")
    return call.size(name) // outputs


def sum_(call: Call) -> list[Value]:
    x = call.value("self")
    return [x.but(range=x.range.times(reduced_count(call)))]


def mean(call: Call) -> list[Value]:
    if reduced_count(call) == 0:
        raise NoRuleError("the mean of no elements")
    return [call.value("self")]


def cumsum(call: Call) -> list[Value]:
    x = call.value("self")
    count = max(call.shapes["self"], default=1)
    return [x.but(range=hull([x.range, x.range.times(count)]))]


def join_all(call: Call) -> list[Value]:
    """Elements of every tensor argument, side by side."""
    return [join(call.tensors)] * len(call.outputs)


def padded(call: Call) -> list[Value]:
    """The elements and a constant."""
    value = scalar(call, "value") if "value" in call.arguments else number(0.0)
    return [join([first(call), value])]


def with_zero(call: Call) -> list[Value]:
    """Some elements, or zeros."""
    x = first(call)
    return [join([x, number(0.0)]).but(homogeneous=x.homogeneous)] * len(call.outputs)


def averaged(call: Call) -> list[Value]:
    """Averages of elements and of zeros of the padding."""
    x = first(call)
    if call.arguments.get("divisor_override") is not None:
        return [x.but(range=Interval(), shape=x.shape)]
    return [x.but(range=hull([x.range, point(0.0)]))]


def interpolated(call: Call) -> list[Value]:
    """Convex combinations of elements (bilinear, nearest)."""
    return [first(call)] * len(call.outputs)


def linear_unbounded(call: Call) -> list[Value]:
    """Linear, without a bound on the range (bicubic weights, FFT)."""
    x = join(call.tensors)
    return [x.but(range=Interval(), shape=x.shape if x.shape == "affine" else "")] * len(call.outputs)


def accumulated(call: Call) -> list[Value]:
    """Sums of arbitrary subsets of the elements of the tensor arguments (scatter_add, index_add)."""
    call.require_constant(["index", "indices"])
    values = [value for name, value in call.arguments.items() if isinstance(value, Value) and "ind" not in name]
    joined = join(values)
    ranges = Interval()
    if joined.range.nonnegative:
        ranges = Interval(0.0)
    elif joined.range.nonpositive:
        ranges = Interval(hi=0.0)
    return [joined.but(range=ranges)]


def step_function(x: Value, ranges: Interval) -> Value:
    """A locally constant function of x with infinitely many steps on the line (rounding)."""
    if not x.varies:
        return constant(ranges)
    generators = x.generators if x.range.bounded else x.generators | {WILD}
    return Value(
        True,
        ranges,
        generators,
        None if x.degree is None or not x.range.bounded else 0,
        True,
        DISCONTINUOUS,
        max(x.autodiff, ALMOST_EVERYWHERE),
        x.total,
        "",
        0 if x.homogeneous == 0 else None,
        flat=True,
    )


def rounded(call: Call) -> list[Value]:
    """floor, ceil, round, trunc."""
    x = first(call)
    lo, hi = x.range.lo, x.range.hi
    return [step_function(x, Interval(lo if math.isinf(lo) else lo - 1, hi if math.isinf(hi) else hi + 1))]


def converted(call: Call) -> list[Value]:
    """A change of dtype: exact between floating types (up to rounding), a truncation to integers."""
    x = first(call)
    dtype = call.dtypes[0]
    if "complex" in dtype:
        raise NoRuleError("complex tensors are not covered: view them as real pairs")
    if "float" not in dtype and x.extended:
        raise NoRuleError("a mask of -inf becomes an integer")
    if "bool" in dtype and x.varies:
        return [step_function(x.but(range=Interval(0.0, 1.0)), Interval(0.0, 1.0))]
    if "float" not in dtype and x.varies:
        return rounded(call)
    return [x]


def copied(call: Call) -> list[Value]:
    """copy_: the elements of the source, converted."""
    x = call.value("src")
    if "float" not in call.dtypes[0] and x.varies:
        raise NoRuleError("values that depend on theta are written into an integer tensor")
    return [x]


def gathered(call: Call) -> list[Value]:
    """Elements of the first tensor chosen by the others."""
    base, *rest = call.tensors
    if any(index.varies for index in rest) and "torch.bool" in str(call.types):
        raise NoRuleError(f"{call.name} with a boolean mask that depends on theta: its length depends on theta")
    result = base
    for index in rest:
        result = selected_by(result, index)
    return [result]


def lerp(call: Call) -> list[Value]:
    """self + weight (end - self)."""
    from tameopt.structure.rules.products import times

    x, end, weight = call.value("self"), call.value("end"), operand(call, "weight")
    return [plus(x, times(weight, plus(end, negated(x))))]
