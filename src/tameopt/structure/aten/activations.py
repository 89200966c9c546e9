"""Activations whose formula depends on arguments: gelu, elu, softplus, leaky_relu and their relatives."""

from __future__ import annotations

import math

from tameopt.structure.aten._row import Row
from tameopt.structure.ranges import INF, Interval
from tameopt.structure.rules._call import Call, NoRuleError
from tameopt.structure.rules.elementwise import JUMP, KINK, Elementwise, apply
from tameopt.structure.rules.network import kinked
from tameopt.structure.tame import CLASSICAL, EXPONENTIAL, PFAFFIAN
from tameopt.structure.value import Value, constant

_EXP = frozenset({EXPONENTIAL})
# softplus above its threshold is computed as x: below 20 that is a visible jump, from 20 on it is rounding (2e-9)
_ROUNDING_THRESHOLD = 20.0


def gelu(call: Call) -> list[Value]:
    """x Phi(x), or its tanh approximation."""
    tanh = call.arguments.get("approximate") == "tanh"
    f = Elementwise(
        lambda x: Interval(0.0 if x.nonnegative else -0.1700409, max(x.hi, 0.0)),
        _EXP if tanh else frozenset({PFAFFIAN}),
    )
    return [apply(f, call.value("self"))]


def softplus(call: Call) -> list[Value]:
    """log(1 + e^(beta x)) / beta; the switch to x above the threshold is taken as rounding."""
    beta, threshold = call.number("beta", 1.0), call.number("threshold", 20.0)
    if beta <= 0:
        raise NoRuleError(f"softplus with beta = {beta}")
    if threshold < _ROUNDING_THRESHOLD:
        raise NoRuleError(f"softplus with threshold {threshold}: below 20 it is visibly discontinuous")
    f = Elementwise(lambda x: Interval(max(0.0, x.lo), INF, True), _EXP, shape="convex", monotone=1)
    return [apply(f, call.value("self"))]


def elu(call: Call) -> list[Value]:
    """scale (x if x > 0 else alpha (e^(input_scale x) - 1)); C^1 when alpha input_scale = 1."""
    alpha, scale, inner = call.number("alpha", 1.0), call.number("scale", 1.0), call.number("input_scale", 1.0)
    if alpha < 0 or scale <= 0 or inner <= 0:
        raise NoRuleError(f"elu with alpha = {alpha}, scale = {scale}, input_scale = {inner}")
    return [apply(_elu(scale, scale * alpha, alpha * inner), call.value("self"))]


def celu(call: Call) -> list[Value]:
    """x if x > 0 else alpha (e^(x / alpha) - 1); C^1."""
    alpha = call.number("alpha", 1.0)
    if alpha <= 0:
        raise NoRuleError(f"celu with alpha = {alpha}")
    return [apply(_elu(1.0, alpha, 1.0), call.value("self"))]


def selu(call: Call) -> list[Value]:
    """1.0507 (x if x > 0 else 1.6733 (e^x - 1))."""
    return [apply(_elu(1.0508, 1.7582, 1.6732), call.value("self"))]


def _elu(scale: float, depth: float, ratio: float) -> Elementwise:
    """Slope `scale` to the right, bounded by -depth to the left; ratio: of the slopes left and right of 0."""
    return Elementwise(
        lambda x: Interval(
            0.0 if x.nonnegative else math.nextafter(-depth, -INF),
            math.nextafter(max(x.hi, 0.0) * scale, INF),
        ),
        _EXP,
        kinks=(0.0,),
        bend=(1, CLASSICAL) if ratio == 1 else KINK,
        shape="convex" if ratio <= 1 else "",
        monotone=1,
    )


def leaky_relu(call: Call) -> list[Value]:
    """max(x, 0) + slope min(x, 0)."""
    slope = call.number("negative_slope", 0.01)

    def image(x: Interval) -> Interval:
        negative = Interval(min(x.lo, 0.0), min(x.hi, 0.0)).scaled(slope)
        positive = Interval(max(x.lo, 0.0), max(x.hi, 0.0))
        return negative.join(positive)

    f = Elementwise(
        image,
        degree=1,
        kinks=(0.0,),
        shape="convex" if slope <= 1 else "concave",
        monotone=1 if slope >= 0 else 0,
        homogeneous=True,
        bend=KINK,
    )
    return [apply(f, call.value("self"))]


def _shrink_step(call: Call) -> list[Value]:
    limit = call.number("lambd", 0.5)
    f = Elementwise(lambda x: x.join(Interval(0.0, 0.0)), degree=1, kinks=(-limit, limit), bend=JUMP)
    return [apply(f, call.value("self"))]


def softshrink(call: Call) -> list[Value]:
    """x moved towards 0 by lambd, 0 within."""
    limit = call.number("lambd", 0.5)
    if limit < 0:
        raise NoRuleError(f"softshrink with lambd = {limit}")
    f = Elementwise(lambda x: x.join(Interval(0.0, 0.0)), degree=1, kinks=(-limit, limit), monotone=1, bend=KINK)
    return [apply(f, call.value("self"))]


def glu(call: Call) -> list[Value]:
    """a sigmoid(b) of the two halves."""
    x = call.value("self")
    if not x.varies:
        return [constant(Interval())]
    top = max(abs(x.range.lo), abs(x.range.hi))
    return [
        x.but(
            range=Interval(-top, top) if not x.range.nonnegative else Interval(0.0, top),
            generators=x.generators | _EXP,
            degree=None,
            shape="",
            homogeneous=0 if x.homogeneous == 0 else None,
        )
    ]


def rrelu(call: Call) -> list[Value]:
    """leaky_relu with slopes drawn at random; given the noise, or in evaluation mode, it is one."""
    x = call.value("self")
    lower, upper = call.number("lower", 0.125), call.number("upper", 1.0 / 3)
    slopes = max(abs(lower), abs(upper), 1.0)
    return [kinked(x, x.range.join(x.range.scaled(slopes)).join(Interval(0.0, 0.0)), "", x.homogeneous)] * len(
        call.outputs
    )


_LIPSCHITZ = "an element of the Clarke subdifferential, probed"

ROWS: tuple[Row, ...] = (
    Row("gelu", gelu, "Pfaffian; R_exp with approximate='tanh'", "analytic", "globally", "exact"),
    Row("softplus", softplus, "R_exp", "analytic", "globally", "exact"),
    Row("elu", elu, "R_exp", "C^1 for alpha = 1, else Lipschitz", "globally", "exact for alpha = 1, else probed"),
    Row("celu", celu, "R_exp", "C^1", "globally", "exact"),
    Row("selu", selu, "R_exp", "Lipschitz", "globally", _LIPSCHITZ),
    Row("leaky_relu", leaky_relu, "piecewise linear", "Lipschitz", "globally", _LIPSCHITZ),
    Row("softshrink", softshrink, "piecewise linear", "Lipschitz", "globally", _LIPSCHITZ),
    Row("hardshrink", _shrink_step, "piecewise linear", "discontinuous", "no", "almost everywhere"),
    Row("glu", glu, "R_exp", "analytic", "locally", "exact"),
    Row("rrelu_with_noise", rrelu, "piecewise linear given the noise", "Lipschitz", "globally", _LIPSCHITZ),
    Row(
        "rrelu_with_noise_functional", rrelu, "piecewise linear given the noise", "Lipschitz", "globally", _LIPSCHITZ
    ),
)
