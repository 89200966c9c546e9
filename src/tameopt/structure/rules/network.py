"""Normalisations, softmax, attention, variances and norms."""

from __future__ import annotations

from tameopt.structure.ranges import INF, Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError
from tameopt.structure.rules.elementwise import composed_shape
from tameopt.structure.rules.linear import negated, plus, reduced_count
from tameopt.structure.rules.products import integer_power, times
from tameopt.structure.tame import (
    ALGEBRAIC,
    ALMOST_EVERYWHERE,
    CONSERVATIVE,
    CONTINUOUS,
    DISCONTINUOUS,
    EXPONENTIAL,
    LIPSCHITZ,
)
from tameopt.structure.value import AFFINE, Value, constant, join, number


def analytic(values: list[Value], generators: set[str], ranges: Interval, shape: str = "") -> Value:
    """An analytic function, defined everywhere, of these values."""
    base = join(values)
    if not base.varies:
        return constant(ranges)
    return base.but(
        range=ranges,
        generators=base.generators | generators,
        degree=None if generators else base.degree,
        shape=shape,
        homogeneous=0 if all(value.homogeneous == 0 for value in values) else None,
        extended=False,
    )


def kinked(base: Value, ranges: Interval, shape: str = "", homogeneous: int | None = None) -> Value:
    """A piecewise linear, Lipschitz function of elements like `base`."""
    if not base.varies:
        return constant(ranges, base.extended)
    return base.but(
        range=ranges,
        piecewise=True,
        smooth=min(base.smooth, LIPSCHITZ),
        autodiff=max(base.autodiff, CONSERVATIVE),
        shape=shape,
        homogeneous=homogeneous,
    )


# -- softmax and attention ---------------------------------------------------------------------------------


def softmax(call: Call) -> list[Value]:
    """exp(x_i) / sum exp(x_j): analytic; rows without a finite entry are refused by the trace (NaN)."""
    x = call.value("self")
    return [analytic([x], {EXPONENTIAL}, Interval(0.0, 1.0, not x.extended))]


def log_softmax(call: Call) -> list[Value]:
    """x_i - log sum exp(x_j): concave in x."""
    x = call.value("self")
    result = analytic([x], {EXPONENTIAL}, Interval(-INF, 0.0), composed_shape("concave", 0, x))
    return [result.but(extended=x.extended)]


def logsumexp(call: Call) -> list[Value]:
    """log sum exp(x_j): convex and increasing."""
    x = call.value("self")
    # log sum exp >= max x_j; above by log(count), which a range with an infinite end does not need
    ranges = Interval(x.range.lo if not x.extended else -INF, INF)
    return [analytic([x], {EXPONENTIAL}, ranges, composed_shape("convex", 1, x))]


def attention(call: Call) -> list[Value]:
    """softmax(q k^T scale + mask) v and bookkeeping: analytic in everything."""
    tensors = call.tensors
    value = call.value("value")
    dropped = call.number("dropout_p", 0.0) > 0
    ranges = Interval() if dropped else hull([value.range, point(0.0)])
    output = analytic(tensors, {EXPONENTIAL, ALGEBRAIC}, ranges)
    return [output] + [analytic(tensors, {EXPONENTIAL, ALGEBRAIC}, Interval())] * (len(call.outputs) - 1)


# -- normalisation -----------------------------------------------------------------------------------------


def normalised(x: Value, eps: float) -> Value:
    """(x - mean) / sqrt(var + eps)."""
    if not x.varies:
        return constant(Interval())
    if eps > 0:
        return analytic([x], {ALGEBRAIC}, Interval())
    base = analytic([x], {ALGEBRAIC}, Interval())
    return base.but(
        smooth=DISCONTINUOUS,
        total=False,
        autodiff=max(base.autodiff, ALMOST_EVERYWHERE),
        homogeneous=0 if x.homogeneous is not None else None,
    )


def affine_after(call: Call, x: Value) -> Value:
    """x weight + bias."""
    weight, bias = call.maybe("weight"), call.maybe("bias")
    if weight is not None:
        x = times(x, weight)
    return x if bias is None else plus(x, bias)


def layer_norm(call: Call) -> list[Value]:
    """native_layer_norm, native_group_norm: output, mean, rstd."""
    x = call.value("input")
    output = affine_after(call, normalised(x, call.number("eps")))
    rest = normalised(x, call.number("eps")).but(range=Interval())
    return [output] + [rest] * (len(call.outputs) - 1)


def rms_norm(call: Call) -> list[Value]:
    """x / sqrt(mean x^2 + eps) weight; without eps torch takes the dtype's machine epsilon."""
    x = call.value("input") if call.maybe("input") is not None else call.tensors[0]
    eps = call.number("eps", 1e-16)
    return [affine_after(call, normalised(x, eps))] + [normalised(x, eps)] * (len(call.outputs) - 1)


def batch_norm(call: Call) -> list[Value]:
    """native_batch_norm and its variants, with batch statistics or running ones."""
    x = call.value("input")
    eps = call.number("eps")
    training = bool(call.arguments.get("training", call.arguments.get("train", "no_training" not in call.name)))
    if training:
        return layer_norm(call)
    mean, variance = call.maybe("running_mean"), call.maybe("running_var")
    if mean is None or variance is None:
        raise NoRuleError("batch_norm in evaluation mode without running statistics")
    deviation = plus(variance, number(eps))
    if variance.varies:
        raise NoRuleError("running statistics that depend on theta")
    if not deviation.range.positive:
        raise NoRuleError("a running variance that may be negative")
    centred = plus(x, negated(mean))
    inverse = constant(Interval(0.0, INF, True))
    output = affine_after(call, times(centred, inverse))
    return [output] + [constant(Interval())] * (len(call.outputs) - 1)


# -- variance and norms ------------------------------------------------------------------------------------


def variance_of(call: Call) -> Value:
    """var: a polynomial of the elements, convex in them."""
    x = call.value("self")
    correction = call.arguments.get("correction")
    unbiased = call.arguments.get("unbiased", True)
    offset = float(correction) if correction is not None else (1.0 if unbiased else 0.0)
    if reduced_count(call) <= offset:
        raise NoRuleError(f"the variance of {reduced_count(call)} element(s)")
    squared = integer_power(x, 2)
    return squared.but(range=Interval(0.0), shape="convex" if x.shape == AFFINE else "")


def var(call: Call) -> list[Value]:
    return [variance_of(call)]


def var_mean(call: Call) -> list[Value]:
    return [variance_of(call), call.value("self")]


def euclidean(x: Value, ranges: Interval, homogeneous: bool = True) -> Value:
    """A norm of elements of x which is analytic away from 0; 0 is not excluded."""
    if not x.varies:
        return constant(ranges)
    return x.but(
        range=ranges,
        generators=x.generators | {ALGEBRAIC},
        degree=None,
        smooth=min(x.smooth, LIPSCHITZ),
        autodiff=max(x.autodiff, CONSERVATIVE),
        shape="convex" if x.shape == AFFINE else "",
        homogeneous=x.homogeneous if homogeneous else None,
    )


def std(call: Call) -> list[Value]:
    """sqrt(var): a Euclidean norm of the centred elements."""
    variance_of(call)
    return [euclidean(call.value("self"), Interval(0.0))]


def std_mean(call: Call) -> list[Value]:
    return [*std(call), call.value("self")]


def vector_norm(call: Call) -> list[Value]:
    """(sum |x|^p)^(1/p)."""
    x = call.value("self")
    p = call.number("ord", call.number("p", 2.0))
    count = reduced_count(call)
    if x.extended:
        raise NoRuleError("a norm of a mask of -inf")
    positive = x.range.nonzero and count >= 1
    ranges = Interval(0.0, INF, positive)
    if p == 2:
        result = euclidean(x, ranges)
        if positive and x.varies:
            result = result.but(smooth=x.smooth, autodiff=x.autodiff)
        return [result]
    if p == 1 or p == INF:
        shape = "convex" if x.shape == AFFINE else ""
        return [kinked(x, ranges, shape, x.homogeneous)]
    if p == 0 or p < 0:
        raise NoRuleError(f"a norm of order {p}")
    result = euclidean(x, ranges)
    if not float(p).is_integer():
        result = result.but(generators=result.generators | {EXPONENTIAL})
    if p < 1:
        result = result.but(smooth=min(x.smooth, CONTINUOUS), autodiff=max(x.autodiff, ALMOST_EVERYWHERE), shape="")
    return [result]


def distance(call: Call) -> list[Value]:
    """Pairwise Euclidean distances (cdist, pdist): continuous; the gradient at coinciding points is 0."""
    if call.number("p", 2.0) != 2:
        raise NoRuleError("pairwise distances of an order other than 2")
    values = call.tensors
    base = join(values)
    return [euclidean(base, Interval(0.0))]
