"""Losses."""

from __future__ import annotations

from tameopt.structure.ranges import INF, Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError
from tameopt.structure.rules.elementwise import composed_shape
from tameopt.structure.rules.linear import negated, plus
from tameopt.structure.rules.network import analytic, kinked
from tameopt.structure.rules.products import integer_power
from tameopt.structure.tame import (
    EXPONENTIAL,
    LIPSCHITZ,
    WRONG,
)
from tameopt.structure.value import AFFINE, Value, constant


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
