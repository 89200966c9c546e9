"""Normalisations, softmax, attention, pooling and losses."""

from __future__ import annotations

from tameopt.structure.ranges import INF, Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError
from tameopt.structure.rules.elementwise import composed_shape
from tameopt.structure.rules.linear import negated, operand, plus, reduced_count
from tameopt.structure.rules.products import integer_power, times
from tameopt.structure.tame import (
    ALGEBRAIC,
    ALMOST_EVERYWHERE,
    CLASSICAL,
    CONSERVATIVE,
    CONTINUOUS,
    DISCONTINUOUS,
    EXPONENTIAL,
    LIPSCHITZ,
    WRONG,
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
        return constant(ranges)
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


# -- selection of the largest -----------------------------------------------------------------------------


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


# -- losses ------------------------------------------------------------------------------------------------


def reduced(call: Call, losses: Value, count: int) -> Value:
    """The mean, the sum or the losses themselves, by `reduction` (0 none, 1 mean, 2 sum)."""
    if int(call.number("reduction", 1.0)) == 2:
        return losses.but(range=losses.range.times(count))
    return losses


def mse_loss(call: Call) -> list[Value]:
    difference = plus(call.value("self"), negated(call.value("target")))
    return [reduced(call, integer_power(difference, 2), max(call.size("self"), call.size("target")))]


def huber_like(call: Call) -> list[Value]:
    """huber_loss, smooth_l1_loss: quadratic near 0, linear far away; C^1, convex."""
    difference = plus(call.value("self"), negated(call.value("target")))
    name = "delta" if "delta" in call.arguments else "beta"
    if call.number(name, 1.0) <= 0:
        raise NoRuleError(f"{call.name} with {name} = 0")
    losses = difference.but(
        range=Interval(0.0),
        degree=None if difference.degree is None else 2 * difference.degree,
        piecewise=True,
        smooth=min(difference.smooth, 1),
        shape="convex" if difference.shape == AFFINE else "",
        homogeneous=None,
    )
    return [reduced(call, losses, max(call.size("self"), call.size("target")))]


def nll_loss(call: Call) -> list[Value]:
    """-w_y x_y: linear in the scores; the second output is the weight of the batch, a constant."""
    x = call.value("self")
    call.require_constant(["target"])
    weight = call.maybe("weight")
    if weight is not None and (weight.varies or not weight.range.nonnegative):
        raise NoRuleError("class weights that are negative or depend on theta")
    picked = negated(x.but(extended=False))
    if x.extended:
        raise NoRuleError("class scores that are -inf")
    ranges = hull([picked.range, point(0.0)])
    if int(call.number("reduction", 1.0)) == 2 or weight is not None:
        ranges = Interval(0.0 if picked.range.nonnegative else -INF, 0.0 if picked.range.nonpositive else INF)
    return [picked.but(range=ranges), constant(Interval(0.0))][: len(call.outputs)]


def bce_with_logits(call: Call) -> list[Value]:
    """log(1 + e^x) - y x: convex in x."""
    x, y = call.value("self"), call.value("target")
    weights = [value for name in ("weight", "pos_weight") if (value := call.maybe(name)) is not None]
    known = all(not value.varies and value.range.nonnegative for value in weights)
    fixed = not y.varies and y.range.inside(Interval(0.0, 1.0)) and known
    shape = composed_shape("convex", 0, x) if fixed else ""
    losses = analytic([x, y, *weights], {EXPONENTIAL}, Interval(0.0) if fixed else Interval(), shape)
    return [reduced(call, losses, call.size("self"))]


def bce(call: Call) -> list[Value]:
    """-y log p - (1 - y) log(1 - p), with torch's clamp of the logarithms at -100."""
    p, y = call.value("self"), call.value("target")
    weight = call.maybe("weight")
    inside = p.range.inside(Interval(0.0, 1.0))
    if not inside:
        raise NoRuleError("binary_cross_entropy of values that are not proved to lie in [0, 1]")
    values = [p, y] if weight is None else [p, y, weight]
    fixed = y.range.inside(Interval(0.0, 1.0)) and (weight is None or weight.range.nonnegative)
    base = analytic(values, {EXPONENTIAL}, Interval(0.0) if fixed else Interval())
    # the clamp bends the loss where p or 1 - p falls below e^-100, and its gradient there is not autodiff's
    return [
        reduced(
            call,
            base.but(
                smooth=min(base.smooth, LIPSCHITZ),
                autodiff=WRONG,
                piecewise=True,
            ),
            call.size("self"),
        )
    ]


def soft_margin(call: Call) -> list[Value]:
    """log(1 + exp(-y x))."""
    x, y = call.value("self"), call.value("target")
    fixed = not y.varies
    losses = analytic(
        [x, y], {EXPONENTIAL}, Interval(0.0, INF, True), composed_shape("convex", 0, x) if fixed else ""
    )
    return [reduced(call, losses, call.size("self"))]


def margin(call: Call) -> list[Value]:
    """Hinge losses with constant targets: piecewise linear (p = 1) or quadratic (p = 2), nonnegative."""
    call.require_constant(["target"])
    x = call.tensors[0]
    p = int(call.number("p", 1.0))
    base = kinked(x, Interval(0.0))
    if p == 2:
        base = base.but(degree=None if x.degree is None else 2 * x.degree)
    return [base, *[constant(Interval())] * (len(call.outputs) - 1)]


def distance(call: Call) -> list[Value]:
    """Pairwise Euclidean distances (cdist, pdist): continuous; the gradient at coinciding points is 0."""
    if call.number("p", 2.0) != 2:
        raise NoRuleError("pairwise distances of an order other than 2")
    values = call.tensors
    base = join(values)
    return [euclidean(base, Interval(0.0))]
