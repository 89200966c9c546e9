"""Rules of operators met less often: linear algebra, special functions, sampling, derivatives inside the loss."""

from __future__ import annotations

from tameopt.structure.ranges import INF, Interval, hull, point
from tameopt.structure.rules._call import Call, NoRuleError, selected_by
from tameopt.structure.rules.elementwise import composed_shape
from tameopt.structure.rules.extremes import indices
from tameopt.structure.rules.linear import operand, scaled, step_function
from tameopt.structure.rules.network import analytic, euclidean, kinked
from tameopt.structure.rules.products import quotient, times
from tameopt.structure.tame import (
    ALGEBRAIC,
    ALMOST_EVERYWHERE,
    CONSERVATIVE,
    DISCONTINUOUS,
    EXPONENTIAL,
    LIPSCHITZ,
    PFAFFIAN,
    RESTRICTED_ANALYTIC,
    WILD,
)
from tameopt.structure.value import Value, constant, join, number

_REASONS = {
    "nonzero": "the shape of its result depends on theta",
    "masked_select": "the shape of its result depends on theta",
    "resize_": "it changes the shape of a tensor that depends on theta",
    "_fft_r2c": "complex tensors are not covered: use a real transform",
    "_fft_c2r": "complex tensors are not covered: use a real transform",
    "_local_scalar_dense": "a number leaves torch",
}


def refused(call: Call) -> list[Value]:
    """An operator that is known and not covered."""
    raise NoRuleError(_REASONS.get(call.name, "known, and not covered"))


def dropout(call: Call) -> list[Value]:
    """native_dropout, given the noise: some elements scaled by 1/(1-p), the others 0; and the mask."""
    x = call.value("input")
    p = call.number("p", 0.5)
    factor = 1.0 if not call.arguments.get("train", True) else (1 / (1 - p) if p < 1 else 0.0)
    spread = scaled(x, number(factor))
    ranges = hull([x.range, spread.range, point(0.0)])
    return [x.but(range=ranges), constant(Interval(0.0, 1.0))]


def scatter_reduce(call: Call) -> list[Value]:
    """Sums, means, maxima or minima of subsets of the elements of two tensors."""
    call.require_constant(["index"])
    base = join([call.value("self"), call.value("src")])
    kind = call.arguments.get("reduce")
    if kind in ("amax", "amin"):
        # ties share the gradient; no probe covers it, so autodiff counts as almost everywhere
        return [kinked(base, base.range, "", base.homogeneous)]
    if kind == "mean":
        return [base]
    if kind == "sum":
        ranges = Interval(0.0) if base.range.nonnegative else Interval()
        return [base.but(range=ranges)]
    raise NoRuleError(f"scatter_reduce with reduce = {kind!r}")


def embedding_bag(call: Call) -> list[Value]:
    """Sums or means of rows."""
    weight = call.value("weight")
    call.require_constant(["indices", "offsets", "per_sample_weights"])
    if int(call.number("mode", 0.0)) == 2:
        raise NoRuleError("embedding_bag with mode 'max'")
    return [weight.but(range=Interval()), *[constant(Interval())] * (len(call.outputs) - 1)]


def atan2(call: Call) -> list[Value]:
    """The angle of (other, self): analytic where other > 0, jumps across the negative half line."""
    y, x = call.value("self"), call.value("other")
    base = join([y, x])
    if not base.varies:
        return [constant(Interval(-3.1415927, 3.1415927))]
    fine = x.range.positive
    return [
        base.but(
            range=Interval(-1.5707964, 1.5707964) if fine else Interval(-3.1415927, 3.1415927),
            generators=base.generators | {RESTRICTED_ANALYTIC},
            degree=None,
            smooth=base.smooth if fine else DISCONTINUOUS,
            autodiff=base.autodiff if fine else max(base.autodiff, ALMOST_EVERYWHERE),
            shape="",
            homogeneous=0 if base.homogeneous is not None else None,
        )
    ]


def remainder(call: Call) -> list[Value]:
    """x modulo a constant c: x - c floor(x / c)."""
    x, c = call.value("self"), operand(call, "other")
    if c.varies or not c.range.nonzero:
        raise NoRuleError(f"{call.name} by a number that varies or may be 0")
    top = max(abs(c.range.lo), abs(c.range.hi))
    steps = step_function(x, Interval(-top, top))
    return [
        steps.but(degree=None if steps.degree is None or x.degree is None else x.degree, flat=not x.varies or x.flat)
    ]


def tangent(call: Call) -> list[Value]:
    """tan: definable on a bounded range; it has poles outside (-pi/2, pi/2)."""
    x = call.value("self")
    if not x.varies:
        return [constant(Interval())]
    inside = x.range.inside(Interval(-1.5707963, 1.5707963))
    generators = x.generators | {RESTRICTED_ANALYTIC} | (set() if x.range.bounded else {WILD})
    return [
        x.but(
            range=Interval(),
            generators=generators,
            degree=None,
            autodiff=x.autodiff if inside else max(x.autodiff, ALMOST_EVERYWHERE),
            total=x.total and inside,
            shape="",
            homogeneous=0 if x.homogeneous == 0 else None,
        )
    ]


def grid_sample(call: Call) -> list[Value]:
    """Bilinear samples: linear in the input, piecewise polynomial and continuous in the grid."""
    x, grid = call.value("input"), call.value("grid")
    mode, padding = int(call.number("interpolation_mode")), int(call.number("padding_mode"))
    ranges = Interval() if mode == 2 else hull([x.range, point(0.0)])
    if not grid.varies:
        return [x.but(range=ranges, shape=x.shape if mode < 2 or x.shape == "affine" else "")]
    if mode != 0:
        raise NoRuleError("grid_sample with a varying grid, other than bilinear")
    if padding == 2 and not grid.range.bounded:
        raise NoRuleError("grid_sample with reflection of an unbounded grid is periodic")
    base = join([x, grid])
    degree = None if x.degree is None or grid.degree is None else x.degree + 2 * grid.degree
    return [kinked(base, ranges).but(degree=degree, varies=True)]


def determinant(call: Call) -> list[Value]:
    """det: a polynomial; autodiff returns 0 at singular matrices, which is wrong where the rank is n - 1."""
    x = call.tensors[0]
    n = int(call.shapes[next(iter(call.shapes))][-1])
    result = x.but(
        range=Interval(),
        degree=None if x.degree is None else n * x.degree,
        autodiff=max(x.autodiff, ALMOST_EVERYWHERE) if x.varies and n > 1 else x.autodiff,
        shape=x.shape if n == 1 else "",
        homogeneous=None if x.homogeneous is None else n * x.homogeneous,
    )
    rest = partial(call)[0].but(smooth=DISCONTINUOUS) if x.varies else constant(Interval())
    return [result, *[rest] * (len(call.outputs) - 1)]


def partial(call: Call) -> list[Value]:
    """Semialgebraic and analytic where it is defined, which is not everywhere (inverse, Cholesky, solve)."""
    base = analytic(call.tensors, {ALGEBRAIC}, Interval())
    if not base.varies:
        return [base] * len(call.outputs)
    return [base.but(total=False, autodiff=max(base.autodiff, ALMOST_EVERYWHERE))] * len(call.outputs)


def spectrum(call: Call) -> list[Value]:
    """Eigenvalues or singular values (Lipschitz) and vectors (discontinuous)."""
    x = call.tensors[0]
    if not x.varies:
        return [constant(Interval())] * len(call.outputs)
    values = euclidean(x, Interval(0.0) if "svd" in call.name else Interval()).but(
        shape="", autodiff=max(x.autodiff, ALMOST_EVERYWHERE)
    )
    vectors = values.but(range=Interval(-1.0, 1.0), smooth=DISCONTINUOUS, homogeneous=None)
    which = 1 if "svd" in call.name else 0
    return [values if k == which else vectors for k in range(len(call.outputs))]


def weight_norm(call: Call) -> list[Value]:
    """g v / norm(v): undefined at v = 0."""
    base = analytic(call.tensors, {ALGEBRAIC}, Interval())
    return [base.but(total=False, autodiff=max(base.autodiff, ALMOST_EVERYWHERE))] * len(call.outputs)


def log_sum(call: Call) -> list[Value]:
    """logaddexp, logcumsumexp: convex and increasing."""
    base = join(call.tensors)
    return [analytic(call.tensors, {EXPONENTIAL}, Interval(), composed_shape("convex", 1, base))]


def x_log_y(call: Call) -> list[Value]:
    """x log y, 0 where x = 0."""
    x, y = operand(call, "self"), operand(call, "other")
    base = analytic([x, y], {EXPONENTIAL}, Interval())
    if not y.varies and not base.varies:
        return [base]
    if not y.varies and y.range.positive:
        return [times(x, constant(Interval()))]
    if y.range.positive:
        return [base]
    return [base.but(total=False, smooth=DISCONTINUOUS, autodiff=max(base.autodiff, ALMOST_EVERYWHERE))]


def hypotenuse(call: Call) -> list[Value]:
    """sqrt(x^2 + y^2); autodiff returns NaN at 0."""
    base = join([call.value("self"), call.value("other")])
    if not base.varies:
        return [constant(Interval(0.0))]
    return [euclidean(base, Interval(0.0)).but(autodiff=max(base.autodiff, ALMOST_EVERYWHERE))]


def nan_to_num(call: Call) -> list[Value]:
    """The identity where it is finite."""
    x = call.value("self")
    if x.total and not x.extended:
        return [x]
    both = join([x, number(call.number("nan", 0.0))]).but(extended=False, range=Interval())
    return [both.but(smooth=DISCONTINUOUS, autodiff=max(x.autodiff, ALMOST_EVERYWHERE), piecewise=True, shape="")]


def jump(call: Call) -> list[Value]:
    """heaviside, copysign: a choice by the sign of a tensor."""
    base = join(call.tensors)
    if not base.varies:
        return [constant(Interval())]
    chosen = selected_by(base, indices(base))
    top = max(abs(base.range.lo), abs(base.range.hi), 1.0)
    return [chosen.but(range=Interval(-top, top), homogeneous=None)]


def logit(call: Call) -> list[Value]:
    """log(x / (1 - x)), clamped with eps."""
    x = call.value("self")
    eps = call.arguments.get("eps")
    if not x.varies:
        return [constant(Interval())]
    open_unit = x.range.inside(Interval(0.0, 1.0, True, True))
    clamped = eps is not None and float(eps) > 0
    base = analytic([x], {EXPONENTIAL}, Interval())
    if clamped:
        return [base.but(piecewise=True, smooth=min(x.smooth, LIPSCHITZ), autodiff=max(x.autodiff, CONSERVATIVE))]
    if open_unit:
        return [base]
    return [base.but(total=False, autodiff=max(base.autodiff, ALMOST_EVERYWHERE))]


def normal_distribution(call: Call) -> list[Value]:
    """ndtr, log_ndtr."""
    log = "log" in call.name
    return [analytic([call.tensors[0]], {PFAFFIAN}, Interval(-INF, 0.0) if log else Interval(0.0, 1.0, True, True))]


def inverse_error_function(call: Call) -> list[Value]:
    """erfinv: the inverse of a definable function is definable."""
    x = call.value("self")
    base = analytic([x], {PFAFFIAN}, Interval())
    if not x.varies or x.range.inside(Interval(-1.0, 1.0, True, True)):
        return [base]
    return [base.but(total=False, autodiff=max(base.autodiff, ALMOST_EVERYWHERE))]


def matrix_exponential(call: Call) -> list[Value]:
    """exp of a matrix: it contains rotations, so it is definable for bounded arguments only."""
    x = call.tensors[0]
    found = analytic([x], {RESTRICTED_ANALYTIC, EXPONENTIAL}, Interval())
    return [found if x.range.bounded or not x.varies else found.but(generators=found.generators | {WILD})]


def connectionist(call: Call) -> list[Value]:
    """_ctc_loss: minus the log of a sum of exponentials over alignments, whose number does not depend on theta."""
    x = call.value("log_probs")
    return [analytic([x], {EXPONENTIAL}, Interval())] * len(call.outputs)


def trilinear(call: Call) -> list[Value]:
    """Sums of products of three elements."""
    a, b, c = call.tensors[:3]
    return [times(times(a, b), c).but(range=Interval())]


def floor_divide(call: Call) -> list[Value]:
    ratio = quotient(operand(call, "self"), operand(call, "other"))
    return [step_function(ratio, Interval(ratio.range.lo - 1, ratio.range.hi + 1))]


def fraction(call: Call) -> list[Value]:
    """x - trunc(x)."""
    x = call.value("self")
    steps = step_function(x, Interval(-1.0, 1.0))
    return [steps.but(degree=None if steps.degree is None else x.degree, flat=not x.varies or x.flat)]


# -- derivatives inside the loss: torch's backward kernels as functions of their arguments -----------------


def smooth_backward(call: Call) -> list[Value]:
    """Analytic in all arguments, of a class that contains exp and roots."""
    generators = {EXPONENTIAL, ALGEBRAIC}
    if call.name.startswith("gelu") and call.arguments.get("approximate") != "tanh":
        generators = {PFAFFIAN}
    return [analytic(call.tensors, generators, Interval())] * len(call.outputs)


def polynomial_backward(call: Call) -> list[Value]:
    """tanh_backward, sigmoid_backward: grad (1 - y^2), grad y (1 - y)."""
    gradient, y = call.tensors[0], call.tensors[1]
    square = times(y, y)
    return [times(gradient, join([square, y, number(1.0)])).but(range=Interval())]


def gated_backward(call: Call) -> list[Value]:
    """threshold_backward and its relatives: the gradient, scaled or dropped by the sign of the input."""
    gradient, x = call.tensors[0], call.tensors[1]
    chosen = selected_by(join([gradient, number(0.0)]), indices(x))
    # the gate may open at a limit other than 0, which no scaling of theta respects
    return [chosen.but(range=Interval(), shape="", homogeneous=None)]


def linear_backward(call: Call) -> list[Value]:
    """Linear in the gradient, the rest constant (pooling by averages, embedding, upsampling)."""
    gradient, *rest = call.tensors
    chosen = gradient
    for other in rest:
        if "int" in str(call.types) and other.varies:
            chosen = selected_by(chosen, other)
    return [chosen.but(range=Interval(), shape=chosen.shape if chosen.shape == "affine" else "")]


def bilinear_backward(call: Call) -> list[Value]:
    """convolution_backward: products of the gradient with the input or the weight."""
    gradient, x, weight = call.value("grad_output"), call.value("input"), call.value("weight")
    plain = Interval()
    found = [times(gradient, weight), times(gradient, x), gradient]
    return [value.but(range=plain, shape=value.shape if value.shape == "affine" else "") for value in found]
