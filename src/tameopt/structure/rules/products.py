"""Products, quotients and powers."""

from __future__ import annotations

from tameopt.structure.ranges import INF, NONNEGATIVE, Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError
from tameopt.structure.rules.elementwise import composed_shape
from tameopt.structure.rules.linear import operand, plus, reduced_count, scaled
from tameopt.structure.tame import ALGEBRAIC, ALMOST_EVERYWHERE, ANALYTIC, CONSERVATIVE, CONTINUOUS, EXPONENTIAL
from tameopt.structure.value import Value, join, number


def times(x: Value, y: Value, count: int = 1, or_zero: bool = False) -> Value:
    """The sum of `count` products of an element of x and one of y (some of them absent with `or_zero`)."""
    if x.extended or y.extended:
        masked, factor = (x, y) if x.extended else (y, x)
        if count > 1 or or_zero or factor.varies or factor.extended or not factor.range.positive:
            raise NoRuleError("a mask of -inf enters a product")
        return scaled(masked, factor)
    product = x.range * y.range
    if or_zero:
        product = hull([product, point(0.0)])
    ranges = product.times(count)
    if not x.varies or not y.varies:
        constant, varying = (x, y) if not x.varies else (y, x)
        return scaled(varying, constant).but(range=ranges, total=x.total and y.total)
    base = join([x, y])
    degree = None if x.degree is None or y.degree is None else x.degree + y.degree
    homogeneous = None if x.homogeneous is None or y.homogeneous is None else x.homogeneous + y.homogeneous
    return base.but(range=ranges, degree=degree, shape="", homogeneous=homogeneous)


def mul(call: Call) -> list[Value]:
    """self other; a call whose arguments are one tensor comes marked as a square."""
    if call.arguments.get("square"):
        return [integer_power(call.value("self"), 2)]
    return [times(operand(call, "self"), operand(call, "other"))]


def matmul(call: Call) -> list[Value]:
    """mm, bmm, mv, dot and their relatives: sums of products over one dimension."""
    x, y = call.tensors[0], call.tensors[1]
    names = [name for name, value in call.arguments.items() if isinstance(value, Value)]
    return [times(x, y, call.shapes[names[0]][-1])]


def addmm(call: Call) -> list[Value]:
    """beta self + alpha mat1 mat2."""
    names = [name for name, value in call.arguments.items() if isinstance(value, Value)]
    _, left, right = names
    product = times(call.value(left), call.value(right), call.shapes[left][-1])
    return [
        plus(
            scaled(call.value("self"), number(call.number("beta", 1.0))),
            scaled(product, number(call.number("alpha", 1.0))),
        )
    ]


def addcmul(call: Call) -> list[Value]:
    """self + value tensor1 tensor2."""
    product = times(call.value("tensor1"), call.value("tensor2"))
    return [plus(call.value("self"), scaled(product, number(call.number("value", 1.0))))]


def addcdiv(call: Call) -> list[Value]:
    """self + value tensor1 / tensor2."""
    ratio = quotient(call.value("tensor1"), call.value("tensor2"))
    return [plus(call.value("self"), scaled(ratio, number(call.number("value", 1.0))))]


def convolution(call: Call) -> list[Value]:
    """Sums of products of weights and inputs, with zeros of the padding."""
    x, weight = call.value("input"), call.value("weight")
    shape = call.shapes["weight"]
    count = 1
    for length in shape[1:]:
        count *= int(length)
    if call.arguments.get("transposed"):
        # an output element meets at most in_channels / groups * kernel terms
        count = count // int(shape[1]) * (int(shape[0]) // int(call.number("groups", 1.0)))
    result = times(x, weight, count, or_zero=True)
    bias = call.maybe("bias")
    return [result if bias is None else plus(result, bias)]


def prelu(call: Call) -> list[Value]:
    """max(x, 0) + weight min(x, 0)."""
    x, weight = call.value("self"), call.value("weight")
    if not weight.varies:
        base = join([x, times(x, weight)])
        met = 0.0 in x.range and x.varies
        shape = ""
        if x.shape == "affine" and not met:
            shape = "affine"
        return [
            base.but(
                piecewise=base.piecewise or met,
                smooth=min(base.smooth, 0) if met else base.smooth,
                autodiff=max(base.autodiff, CONSERVATIVE) if met else base.autodiff,
                shape=shape,
                homogeneous=x.homogeneous,
            )
        ]
    product = times(x, weight)
    base = join([x, product])
    return [
        base.but(
            piecewise=True,
            smooth=min(base.smooth, 0),
            autodiff=max(base.autodiff, CONSERVATIVE),
            shape="",
            homogeneous=None,
        )
    ]


def reciprocal_of(y: Value) -> Value:
    """1 / y."""
    if not y.varies and y.range.nonzero:
        return y.but(range=y.range.reciprocal())
    if not y.varies:
        # the elements are finite numbers; where one is 0 the quotient is not finite
        return y.but(range=Interval(), total=False)
    defined = y.range.nonzero
    shape = ""
    if y.range.positive:
        shape = composed_shape("convex", -1, y)
    elif y.range.negative:
        shape = composed_shape("concave", -1, y)
    return y.but(
        range=y.range.reciprocal() if defined else Interval(),
        generators=y.generators | {ALGEBRAIC},
        degree=None,
        autodiff=y.autodiff if defined else max(y.autodiff, ALMOST_EVERYWHERE),
        total=y.total and defined and not y.extended,
        shape=shape,
        homogeneous=None if y.homogeneous is None else -y.homogeneous,
    )


def quotient(x: Value, y: Value) -> Value:
    return times(x, reciprocal_of(y)).but(total=x.total and reciprocal_of(y).total)


def div(call: Call) -> list[Value]:
    if call.arguments.get("rounding_mode") is not None:
        from tameopt.structure.rules.linear import step_function

        ratio = quotient(operand(call, "self"), operand(call, "other"))
        low, high = ratio.range.lo, ratio.range.hi
        return [step_function(ratio, Interval(low - 1, high + 1))]
    return [quotient(operand(call, "self"), operand(call, "other"))]


def reciprocal(call: Call) -> list[Value]:
    return [reciprocal_of(call.value("self"))]


def integer_power(x: Value, n: int) -> Value:
    """x^n for an integer n >= 0."""
    if n == 0:
        # constant where x is defined, but backprop multiplies its 0 with the derivative of x
        return x.but(
            varies=x.varies and (not x.total or x.autodiff >= ALMOST_EVERYWHERE),
            range=point(1.0),
            degree=None if x.degree is None else 0,
            smooth=ANALYTIC,
            shape="affine",
            homogeneous=0,
            extended=False,
            flat=True,
        )
    if x.extended and n > 1:
        raise NoRuleError("a power of a mask of -inf")
    even = n % 2 == 0
    if n == 2:
        ranges = x.range.square()
    else:
        ranges = NONNEGATIVE if even or x.range.nonnegative else Interval()
        if x.range.bounded:
            top = max(abs(x.range.lo), abs(x.range.hi))
            bound = top**n * (1 + 1e-12) if top < 1e30 and n < 10 else INF
            ranges = Interval(0.0 if ranges.nonnegative else -bound, bound)
        if x.range.positive:
            ranges = Interval(0.0, ranges.hi, True)
    convex = even or x.range.nonnegative
    monotone = 1 if x.range.nonnegative else (-1 if even and x.range.nonpositive else 0)
    shape = x.shape if n == 1 else (composed_shape("convex", monotone, x) if convex else "")
    return x.but(
        range=x.range if n == 1 else ranges,
        degree=None if x.degree is None else n * x.degree,
        shape=shape,
        homogeneous=None if x.homogeneous is None else n * x.homogeneous,
    )


def real_power(x: Value, p: float) -> Value:
    """x^p for a number p, as a real function: x >= 0 unless p is an integer."""
    if float(p).is_integer():
        if p >= 0:
            return integer_power(x, int(p))
        return reciprocal_of(integer_power(x, int(-p)))
    exact = (p * 64).is_integer()  # a double is rational; a long one is no exponent a person meant to be algebraic
    positive, nonnegative = x.range.positive, x.range.nonnegative
    defined = positive or (nonnegative and p > 0)
    if positive:
        smooth = ANALYTIC
    elif p > 1:
        smooth = int(p)
    else:
        smooth = CONTINUOUS
    homogeneous = 0 if x.homogeneous == 0 else None
    if x.homogeneous is not None and (p * x.homogeneous).is_integer():
        homogeneous = int(p * x.homogeneous)
    autodiff = x.autodiff if positive or (p > 1 and nonnegative) else max(x.autodiff, ALMOST_EVERYWHERE)
    return x.but(
        range=Interval(0.0, INF, positive),
        generators=x.generators | {ALGEBRAIC if exact else EXPONENTIAL},
        degree=None,
        smooth=min(x.smooth, smooth),
        autodiff=autodiff,
        total=x.total and defined and not x.extended,
        shape=composed_shape("convex", 1, x) if p > 1 and nonnegative else "",
        homogeneous=homogeneous,
    )


def power(call: Call) -> list[Value]:
    """self ** exponent."""
    exponent = call.maybe("exponent")
    if exponent is None:
        return [real_power(operand(call, "self"), call.number("exponent"))]
    x = operand(call, "self")
    if not exponent.varies and exponent.range.lo == exponent.range.hi:
        return [real_power(x, exponent.range.lo)]
    defined = x.range.positive
    base = join([x, exponent])
    return [
        base.but(
            range=Interval(0.0, INF, True) if defined else Interval(),
            generators=base.generators | {EXPONENTIAL},
            degree=None,
            autodiff=base.autodiff if defined else max(base.autodiff, ALMOST_EVERYWHERE),
            smooth=base.smooth if defined else min(base.smooth, -2),
            total=base.total and defined and not base.extended,
            shape="",
            homogeneous=None,
        )
    ]


def product_of(call: Call) -> list[Value]:
    """prod: the product along a dimension."""
    x = call.value("self")
    return [repeated_product(x, reduced_count(call))]


def repeated_product(x: Value, count: int) -> Value:
    """The product of `count` elements of x."""
    sign = Interval(0.0) if x.range.nonnegative else Interval()
    if x.range.nonnegative and x.range.hi <= 1:
        sign = Interval(0.0, 1.0)
    if x.range.positive:
        sign = Interval(sign.lo, sign.hi, True)
    return x.but(
        range=x.range if count == 1 else sign,
        degree=None if x.degree is None else count * x.degree,
        shape=x.shape if count == 1 else "",
        homogeneous=None if x.homogeneous is None else count * x.homogeneous,
    )


def cumprod(call: Call) -> list[Value]:
    x = call.value("self")
    count = int(call.shapes["self"][int(call.number("dim"))]) if call.shapes["self"] else 1
    joined = hull([x.range, repeated_product(x, max(count, 1)).range])
    longest = repeated_product(x, max(count, 1))
    return [longest.but(range=joined, homogeneous=None if count > 1 else x.homogeneous)]
