"""The checker's rules for operators met less often."""

from __future__ import annotations

from collections.abc import Callable

from tameopt.structure.checker._arithmetic import inverse
from tameopt.structure.checker._fact import (
    INF,
    REALS,
    ZERO,
    Bounds,
    Fact,
    Reject,
    bent,
    choose,
    fixed,
    product,
    smooth_map,
    step,
    through,
    worst,
)
from tameopt.structure.checker._step import Step


def _never(s: Step) -> list[Fact]:
    raise Reject(f"{s.op} is not covered")


def _not_everywhere(fact: Fact) -> Fact:
    return fact.but(total=False, autodiff=max(fact.autodiff, 3)) if fact.varies else fact


def _loose(fact: Fact) -> Fact:
    return fact.but(bounds=REALS, shape="affine" if fact.shape == "affine" else "")


def _dropout(s: Step) -> list[Fact]:
    a, p = s.fact("input"), s.number("p", 0.5)
    factor = 1.0 if not s.arguments.get("train", True) else 1 / (1 - p) if p < 1 else 0.0
    bounds = a.bounds.union(a.bounds.times(Bounds(factor, factor))).union(ZERO)
    return [a.but(bounds=bounds), fixed(Bounds(0.0, 1.0))]


def _scatter_reduce(s: Step) -> list[Fact]:
    s.constant("index")
    base, kind = worst([s.fact("self"), s.fact("src")]), s.arguments.get("reduce")
    if kind in ("amax", "amin"):
        return [bent(base, base.bounds, "", base.power)]
    if kind == "sum":
        return [base.but(bounds=Bounds(0.0) if base.bounds.lo >= 0 else REALS)]
    if kind == "mean":
        return [base]
    raise Reject("scatter_reduce of another kind")


def _bag(s: Step) -> list[Fact]:
    s.constant("indices", "offsets", "per_sample_weights")
    if s.number("mode", 0.0) == 2:
        raise Reject("maxima of bags")
    return [s.fact("weight").but(bounds=REALS), fixed(REALS)]


def _angle(s: Step) -> list[Fact]:
    base = worst([s.fact("self"), s.fact("other")])
    wide, narrow = Bounds(-3.1415927, 3.1415927), Bounds(-1.5707964, 1.5707964)
    if not base.varies:
        return [fixed(wide)]
    power = None if base.power is None else 0
    out = base.but(bounds=narrow, needs=base.needs | {"analytic"}, degree=None, shape="", power=power)
    if s.fact("other").bounds.positive:
        return [out]
    return [out.but(bounds=wide, smooth=-2, autodiff=max(base.autodiff, 3))]


def _remainder(s: Step) -> list[Fact]:
    a, c = s.fact("self"), s.fact("other")
    if c.varies or not (c.bounds.positive or c.bounds.negative):
        raise Reject("a modulus that varies or may be 0")
    top = max(abs(c.bounds.lo), abs(c.bounds.hi))
    return [_sawtooth(a, Bounds(-top, top))]


def _sawtooth(a: Fact, bounds: Bounds) -> Fact:
    out = step(a, bounds, True)
    return out.but(degree=None if out.degree is None else a.degree, flat=a.flat) if a.varies else out


def _tan(s: Step) -> list[Fact]:
    a = s.fact("self")
    out = smooth_map([a], {"analytic"} if a.bounds.finite else {"analytic", "wild"}, REALS)
    return [out if a.bounds.within(-1.5707963, 1.5707963) else _not_everywhere(out)]


def _grid(s: Step) -> list[Fact]:
    a, grid = s.fact("input"), s.fact("grid")
    mode, padding = s.number("interpolation_mode"), s.number("padding_mode")
    bounds = REALS if mode == 2 else a.bounds.union(ZERO)
    if not grid.varies:
        return [a.but(bounds=bounds, shape=a.shape if mode < 2 or a.shape == "affine" else "")]
    if mode != 0 or (padding == 2 and not grid.bounds.finite):
        raise Reject("a varying grid of another kind")
    degree = None if a.degree is None or grid.degree is None else a.degree + 2 * grid.degree
    return [bent(worst([a, grid]), bounds).but(degree=degree)]


def _determinant(s: Step) -> list[Fact]:
    name = s.names[0]
    a, n = s.fact(name), int(s.shapes[name][-1])
    det = a.but(
        bounds=REALS,
        degree=None if a.degree is None else n * a.degree,
        autodiff=max(a.autodiff, 3) if a.varies and n > 1 else a.autodiff,
        shape=a.shape if n == 1 else "",
        power=None if a.power is None else n * a.power,
    )
    rest = _not_everywhere(smooth_map([a], {"algebraic"}, REALS))
    return [det, rest.but(smooth=-2) if a.varies else rest]


def _partial(s: Step) -> list[Fact]:
    return [_not_everywhere(smooth_map(s.facts, {"algebraic"}, REALS))]


def _spectrum(s: Step) -> list[Fact]:
    a = s.facts[0]
    if not a.varies:
        return [fixed(REALS)]
    singular = "svd" in s.op
    values = a.but(
        bounds=Bounds(0.0) if singular else REALS,
        needs=a.needs | {"algebraic"},
        degree=None,
        smooth=min(a.smooth, 0),
        autodiff=max(a.autodiff, 3),
        shape="",
    )
    vectors = values.but(bounds=Bounds(-1.0, 1.0), smooth=-2, power=None)
    return [values if k == int(singular) else vectors for k in range(len(s.outputs))]


def _log_sum(s: Step) -> list[Fact]:
    return [smooth_map(s.facts, {"exp"}, REALS, through("convex", 1, worst(s.facts)))]


def _x_log_y(s: Step) -> list[Fact]:
    a, b = s.fact("self"), s.fact("other")
    out = smooth_map([a, b], {"exp"}, REALS)
    if not out.varies:
        return [out]
    if b.bounds.positive:
        return [out if b.varies else product(a, fixed(REALS))]
    return [_not_everywhere(out).but(smooth=-2)]


def _hypot(s: Step) -> list[Fact]:
    base = worst([s.fact("self"), s.fact("other")])
    if not base.varies:
        return [fixed(Bounds(0.0))]
    return [
        base.but(
            bounds=Bounds(0.0),
            needs=base.needs | {"algebraic"},
            degree=None,
            smooth=min(base.smooth, 0),
            autodiff=max(base.autodiff, 3),
            shape="convex" if base.shape == "affine" else "",
        )
    ]


def _numbers_only(s: Step) -> list[Fact]:
    a = s.fact("self")
    if a.total and not a.masked:
        return [a]
    nan = s.number("nan", 0.0)
    both = worst([a, fixed(Bounds(nan, nan))])
    return [both.but(bounds=REALS, masked=False, smooth=-2, autodiff=max(a.autodiff, 3), pieces=True, shape="")]


def _jump(s: Step) -> list[Fact]:
    base = worst(s.facts)
    if not base.varies:
        return [fixed(REALS)]
    top = max(abs(base.bounds.lo), abs(base.bounds.hi), 1.0)
    return [choose(base, step(base, Bounds(0.0))).but(bounds=Bounds(-top, top), power=None)]


def _logit(s: Step) -> list[Fact]:
    a, eps = s.fact("self"), s.number("eps", 0.0)
    out = smooth_map([a], {"exp"}, REALS)
    if not a.varies or (eps == 0 and a.bounds.within(0.0, 1.0, True, True)):
        return [out]
    if eps > 0:
        return [out.but(pieces=True, smooth=min(a.smooth, 0), autodiff=max(a.autodiff, 2))]
    return [_not_everywhere(out)]


def _normal(s: Step) -> list[Fact]:
    bounds = Bounds(-INF, 0.0) if "log" in s.op else Bounds(0.0, 1.0, True, True)
    return [smooth_map(s.facts[:1], {"pfaffian"}, bounds)]


def _erfinv(s: Step) -> list[Fact]:
    a = s.fact("self")
    out = smooth_map([a], {"pfaffian"}, REALS)
    return [out if a.bounds.within(-1.0, 1.0, True, True) else _not_everywhere(out)]


def _matrix_exp(s: Step) -> list[Fact]:
    a = s.facts[0]
    return [smooth_map([a], {"analytic", "exp"} | (set() if a.bounds.finite else {"wild"}), REALS)]


def _three(s: Step) -> list[Fact]:
    a, b, c = s.facts[:3]
    return [product(product(a, b), c).but(bounds=REALS)]


def _whole_quotient(s: Step) -> list[Fact]:
    factor = inverse(s.fact("other"))
    out = product(s.fact("self"), factor).but(total=s.fact("self").total and factor.total)
    return [step(out, Bounds(out.bounds.lo - 1, out.bounds.hi + 1), True)]


def _smooth_backward(s: Step) -> list[Fact]:
    plain = not s.op.startswith("gelu") or s.arguments.get("approximate") == "tanh"
    return [smooth_map(s.facts, {"exp", "algebraic"} if plain else {"pfaffian"}, REALS)]


def _polynomial_backward(s: Step) -> list[Fact]:
    gradient, y = s.facts[:2]
    return [product(gradient, worst([product(y, y), y, fixed(Bounds(1.0, 1.0))])).but(bounds=REALS)]


def _gated_backward(s: Step) -> list[Fact]:
    gradient, a = s.facts[:2]
    return [choose(worst([gradient, fixed(ZERO)]), step(a, Bounds(0.0))).but(bounds=REALS, shape="", power=None)]


def _linear_backward(s: Step) -> list[Fact]:
    out, *rest = s.facts
    for other in rest:
        if other.varies and "int" in str(s.types):
            out = choose(out, other)
    return [_loose(out)]


def _bilinear_backward(s: Step) -> list[Fact]:
    gradient = s.fact("grad_output")
    return [_loose(product(gradient, s.fact(name))) for name in ("weight", "input")] + [_loose(gradient)]


MORE: dict[str, Callable[[Step], list[Fact]]] = {
    "never": _never,
    "dropout": _dropout,
    "scatter reduce": _scatter_reduce,
    "bag": _bag,
    "trace": lambda s: [_loose(s.facts[0])],
    "angle": _angle,
    "remainder": _remainder,
    "fraction": lambda s: [_sawtooth(s.fact("self"), Bounds(-1.0, 1.0))],
    "whole quotient": _whole_quotient,
    "tan": _tan,
    "grid": _grid,
    "determinant": _determinant,
    "partial": _partial,
    "spectrum": _spectrum,
    "matrix exp": _matrix_exp,
    "log sum": _log_sum,
    "x log y": _x_log_y,
    "hypot": _hypot,
    "numbers only": _numbers_only,
    "jump": _jump,
    "logit": _logit,
    "normal": _normal,
    "erfinv": _erfinv,
    "alignments": lambda s: [smooth_map([s.fact("log_probs")], {"exp"}, REALS)],
    "three": _three,
    "smooth backward": _smooth_backward,
    "polynomial backward": _polynomial_backward,
    "gated backward": _gated_backward,
    "linear backward": _linear_backward,
    "bilinear backward": _bilinear_backward,
}
