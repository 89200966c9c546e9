"""The checker's rules: from what is known about the arguments of an operator to what is known about its results."""

from __future__ import annotations

import math
from collections.abc import Callable

from tameopt.structure.checker._activations import activation, attention, glu, log_softmax, logsumexp, prelu, rrelu
from tameopt.structure.checker._arithmetic import (
    euclidean,
    extreme,
    inverse,
    many_factors,
    normalised,
    power,
    whole_power,
)
from tameopt.structure.checker._branches import chosen
from tameopt.structure.checker._choices import (
    accumulate,
    clamp,
    extremes,
    gather,
    masked_choice,
    threshold,
    truth,
    write,
)
from tameopt.structure.checker._elementwise import apply_scalar
from tameopt.structure.checker._fact import (
    INF,
    REALS,
    ZERO,
    Bounds,
    Fact,
    Reject,
    add,
    bent,
    fixed,
    negate,
    product,
    scale,
    smooth_map,
    step,
    worst,
)
from tameopt.structure.checker._losses import bce, huber, margin, mse, nll, soft_margin
from tameopt.structure.checker._masks import admit
from tameopt.structure.checker._more import MORE
from tameopt.structure.checker._rows import RULES, SCALARS
from tameopt.structure.checker._step import Step


def _affine(s: Step, a: Fact) -> Fact:
    if s.has("weight"):
        a = product(a, s.fact("weight"))
    return add(a, s.fact("bias")) if s.has("bias") else a


def derive(s: Step) -> list[Fact]:
    """What is known about each output of a call.

    Raises Reject when the operator has no row or the row does not cover the call.
    """
    op = s.op if s.op in RULES or s.op in SCALARS else s.op.rstrip("_")
    admit(s, RULES.get(op, ""))
    if op in SCALARS:
        found = [apply_scalar(SCALARS[op], s.fact("self"))]
    elif op in RULES:
        found = _RULES[RULES[op]](s)
    else:
        raise Reject(f"{s.op} is not in the checker's table")
    return found + [found[-1]] * (len(s.outputs) - len(found))


def _convert(s: Step) -> list[Fact]:
    a, dtype = s.facts[0], s.dtypes[0]
    if "complex" in dtype or ("float" not in dtype and a.masked):
        raise Reject("complex numbers, or a mask as integers")
    if "float" in dtype or not a.varies:
        return [a]
    if "bool" in dtype:
        return [step(a.but(bounds=Bounds(0.0, 1.0)), Bounds(0.0, 1.0), True)]
    return _round(s)


def _round(s: Step) -> list[Fact]:
    a = s.facts[0]
    return [step(a, Bounds(a.bounds.lo - 1, a.bounds.hi + 1), True)]


def _copy(s: Step) -> list[Fact]:
    a = s.fact("src")
    if "float" not in s.dtypes[0] and a.varies:
        raise Reject("copy into integers")
    return [a]


def _matrix(s: Step, left: str, right: str) -> Fact:
    return product(s.fact(left), s.fact(right), s.shapes[left][-1])


def _addmm(s: Step) -> list[Fact]:
    beta, alpha = s.number("beta", 1.0), s.number("alpha", 1.0)
    one = scale(s.fact(s.names[0]), Bounds(beta, beta))
    return [add(one, scale(_matrix(s, s.names[1], s.names[2]), Bounds(alpha, alpha)))]


def _with_alpha(s: Step, name: str) -> Fact:
    alpha = s.number("alpha", 1.0)
    return s.fact(name) if alpha == 1 else scale(s.fact(name), Bounds(alpha, alpha))


def _convolution(s: Step) -> list[Fact]:
    shape = s.shapes["weight"]
    if s.arguments.get("transposed"):
        count = math.prod(shape[2:]) * (shape[0] // int(s.number("groups", 1.0)))
    else:
        count = math.prod(shape[1:])
    out = product(s.fact("input"), s.fact("weight"), count, zeros=True)
    return [add(out, s.fact("bias")) if s.has("bias") else out]


def _division(s: Step) -> list[Fact]:
    factor = inverse(s.fact("other"))
    out = product(s.fact("self"), factor)
    out = out.but(total=s.fact("self").total and factor.total)
    if s.arguments.get("rounding_mode") is None:
        return [out]
    return [step(out, Bounds(out.bounds.lo - 1, out.bounds.hi + 1), True)]


def _pow(s: Step) -> list[Fact]:
    exponent, base = s.fact("exponent"), s.fact("self")
    if not exponent.varies and exponent.bounds.lo == exponent.bounds.hi:
        return [power(base, exponent.bounds.lo)]
    both, defined = worst([base, exponent]), base.bounds.positive
    if not both.varies:
        return [fixed(Bounds(0.0, INF, True) if defined else REALS).but(total=defined)]
    return [
        both.but(
            bounds=Bounds(0.0, INF, True) if defined else REALS,
            needs=both.needs | {"exp"},
            degree=None,
            autodiff=both.autodiff if defined else max(both.autodiff, 3),
            smooth=both.smooth if defined else -2,
            total=both.total and defined and not both.masked,
            shape="",
            power=None,
        )
    ]


def _batch_norm(s: Step) -> list[Fact]:
    eps = s.number("eps")
    training = bool(s.arguments.get("training", s.arguments.get("train", "no_training" not in s.op)))
    if training:
        return [_affine(s, normalised(s.fact("input"), eps)), normalised(s.fact("input"), eps)]
    mean, variance = s.fact("running_mean"), s.fact("running_var")
    if variance.varies or not variance.bounds.plus(Bounds(eps, eps)).positive:
        raise Reject("a running variance that may not be positive")
    centred = add(s.fact("input"), negate(mean))
    return [_affine(s, scale(centred, Bounds(0.0, INF, True))), fixed(REALS)]


def _var(s: Step) -> list[Fact]:
    a, correction = s.fact("self"), s.arguments.get("correction")
    offset = float(correction) if correction is not None else float(bool(s.arguments.get("unbiased", True)))
    if s.per_output() <= offset:
        raise Reject("the variance of too few elements")
    shape = "convex" if a.shape == "affine" else ""
    if s.op.startswith("std"):
        return [euclidean(a, Bounds(0.0)), a]
    return [whole_power(a, 2).but(bounds=Bounds(0.0), shape=shape), a]


def _norm(s: Step) -> list[Fact]:
    a = s.fact("self")
    p = s.number("ord", s.number("p", 2.0))
    if a.masked or p <= 0:
        raise Reject(f"a norm of order {p}")
    nonzero = a.bounds.positive or a.bounds.negative
    bounds = Bounds(0.0, INF, nonzero)
    if p in (1.0, INF):
        return [bent(a, bounds, "convex" if a.shape == "affine" else "", a.power)]
    out = euclidean(a, bounds)
    if p == 2 and nonzero and a.varies:
        return [out.but(smooth=a.smooth, autodiff=a.autodiff)]
    if p != int(p):
        out = out.but(needs=out.needs | {"exp"})
    return [out if p >= 1 else out.but(smooth=min(a.smooth, -1), autodiff=max(a.autodiff, 3), shape="")]


def _unseen(s: Step) -> list[Fact]:
    """Written where autodiff does not look: it keeps the derivative of what was there before."""
    a = s.fact("self")
    if a.varies:
        return [a.but(autodiff=4)]
    return [a.but(varies=True, degree=0, shape="affine", power=0, autodiff=4) if s.fact("behind").varies else a]


def _total(s: Step) -> list[Fact]:
    bounds = s.facts[0].bounds
    for fact in s.facts[1:]:
        bounds = bounds.plus(fact.bounds)
    return [worst(s.facts).but(bounds=bounds)]


def _addc(s: Step, divide: bool) -> list[Fact]:
    second = s.fact("tensor2")
    factor = inverse(second) if divide else second
    both = product(s.fact("tensor1"), factor)
    both = both.but(total=s.fact("tensor1").total and factor.total)
    value = s.number("value", 1.0)
    return [add(s.fact("self"), scale(both, Bounds(value, value)))]


def _cumsum(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [a.but(bounds=a.bounds.union(a.bounds.repeated(max(s.shapes["self"], default=1))))]


def _cumprod(s: Step) -> list[Fact]:
    a, shape = s.fact("self"), s.shapes["self"]
    count = max(int(shape[int(s.number("dim"))]) if shape else 1, 1)
    out = many_factors(a, count)
    return [out.but(bounds=out.bounds.union(a.bounds), power=None if count > 1 else a.power)]


def _average(s: Step) -> list[Fact]:
    a = s.facts[0]
    return [a.but(bounds=REALS if s.arguments.get("divisor_override") is not None else a.bounds.union(ZERO))]


def _lerp(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [add(a, product(s.fact("weight"), add(s.fact("end"), negate(a))))]


def _pad(s: Step) -> list[Fact]:
    return [worst([s.facts[0], s.fact("value") if "value" in s.arguments else fixed(ZERO)])]


def _linear(s: Step) -> list[Fact]:
    a = worst(s.facts)
    return [a.but(bounds=REALS, shape=a.shape if a.shape == "affine" else "")]


def _mul(s: Step) -> list[Fact]:
    if s.arguments.get("square"):
        return [whole_power(s.fact("self"), 2)]
    return [product(s.fact("self"), s.fact("other"))]


def _sum(s: Step) -> list[Fact]:
    return [s.facts[0].but(bounds=s.facts[0].bounds.repeated(s.per_output()))]


def _filled(s: Step) -> list[Fact]:
    return [s.fact("fill_value" if "fill_value" in s.arguments else "value")]


_RULES: dict[str, Callable[[Step], list[Fact]]] = {
    "same": lambda s: [s.facts[0]],
    "zeros": lambda s: [fixed(ZERO)],
    "ones": lambda s: [fixed(Bounds(1.0, 1.0))],
    "anything": lambda s: [fixed(REALS)],
    "fill": _filled,
    "linear": _linear,
    "or zero": lambda s: [worst([s.facts[0], fixed(ZERO)])],
    "average": _average,
    "together": lambda s: [worst(s.facts)],
    "pad": _pad,
    "convert": _convert,
    "copy": _copy,
    "add": lambda s: [add(s.fact("self"), _with_alpha(s, "other"))],
    "sub": lambda s: [add(s.fact("self"), negate(_with_alpha(s, "other")))],
    "rsub": lambda s: [add(s.fact("other"), negate(_with_alpha(s, "self")))],
    "sum": _sum,
    "cumsum": _cumsum,
    "total": _total,
    "unseen": _unseen,
    "accumulate": accumulate,
    "lerp": _lerp,
    "gather": gather,
    "write": write,
    "round": _round,
    "mul": _mul,
    "matmul": lambda s: [_matrix(s, s.names[0], s.names[1])],
    "addmm": _addmm,
    "addcmul": lambda s: _addc(s, False),
    "addcdiv": lambda s: _addc(s, True),
    "convolution": _convolution,
    "prod": lambda s: [many_factors(s.facts[0], s.per_output())],
    "cumprod": _cumprod,
    "div": _division,
    "reciprocal": lambda s: [inverse(s.fact("self"))],
    "pow": _pow,
    "prelu": prelu,
    "softmax": lambda s: [smooth_map([s.fact("self")], {"exp"}, Bounds(0.0, 1.0, not s.fact("self").masked))],
    "log softmax": log_softmax,
    "logsumexp": logsumexp,
    "attention": attention,
    "normalise": lambda s: [_affine(s, normalised(s.fact("input"), s.number("eps"))),
                            normalised(s.fact("input"), s.number("eps"))],
    "rms": lambda s: [_affine(s, normalised(s.fact("input"), s.number("eps", 1e-16))),
                      normalised(s.fact("input"), s.number("eps", 1e-16))],
    "batch norm": _batch_norm,
    "var": _var,
    "std": _var,
    "norm": _norm,
    "distance": lambda s: [_distance(s)],
    "max": lambda s: extremes(True, s),
    "min": lambda s: extremes(False, s),
    "sort": lambda s: [bent(s.facts[0], s.facts[0].bounds, "", s.facts[0].power), step(s.facts[0], Bounds(0.0))],
    "where is": lambda s: [step(worst(s.facts), Bounds(0.0))],
    "maximum": lambda s: [extreme(s.fact("self"), s.fact("other"), True)],
    "minimum": lambda s: [extreme(s.fact("self"), s.fact("other"), False)],
    "clamp": clamp,
    "mse": mse,
    "huber": huber,
    "nll": nll,
    "bce logits": lambda s: bce(s, True),
    "bce": lambda s: bce(s, False),
    "soft margin": soft_margin,
    "margin": margin,
    "truth": truth,
    "chosen": chosen,
    "where": lambda s: masked_choice(s, "condition", "self", "other"),
    "masked fill": lambda s: masked_choice(s, "mask", "self", "value"),
    "threshold": threshold,
    "gelu": activation,
    "softplus": activation,
    "elu": activation,
    "leaky relu": activation,
    "softshrink": activation,
    "hardshrink": activation,
    "glu": glu,
    "rrelu": rrelu,
    **MORE,
}  # fmt: skip


def _distance(s: Step) -> Fact:
    if s.number("p", 2.0) != 2:
        raise Reject("a distance of another order")
    return euclidean(worst(s.facts), Bounds(0.0))
