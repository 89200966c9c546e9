"""The checker's rules for activations, softmax and attention."""

from __future__ import annotations

import math

from tameopt.structure.checker._elementwise import apply_scalar
from tameopt.structure.checker._fact import (
    INF,
    REALS,
    ZERO,
    Bounds,
    Fact,
    Reject,
    bent,
    fixed,
    product,
    smooth_map,
    through,
    worst,
)
from tameopt.structure.checker._rows import Scalar
from tameopt.structure.checker._step import Step


def prelu(s: Step) -> list[Fact]:
    a, weight = s.fact("self"), s.fact("weight")
    base = worst([a, product(a, weight)])
    if weight.varies:
        return [bent(base, base.bounds)]
    if a.varies and a.bounds.holds(0.0):
        return [bent(base, base.bounds, "", a.power)]
    return [base.but(shape="affine" if a.shape == "affine" else "", power=a.power)]


def activation(s: Step) -> list[Fact]:
    name, a = s.op.rstrip("_"), s.fact("self")
    if name == "gelu":
        needs = "exp" if s.arguments.get("approximate") == "tanh" else "pfaffian"
        return [apply_scalar(Scalar("dip:-0.1700409", needs), a)]
    if name == "softplus":
        if s.number("beta", 1.0) <= 0 or s.number("threshold", 20.0) < 20:
            raise Reject("softplus with a visible jump")
        out = apply_scalar(Scalar("exp", "exp", shape="convex", slope=1), a)
        return [out.but(bounds=Bounds(max(0.0, a.bounds.lo), INF, True))]
    if name == "leaky_relu":
        slope = s.number("negative_slope", 0.01)
        shape, direction = ("convex" if slope <= 1 else "concave"), (1 if slope >= 0 else 0)
        row = Scalar("any", degree=1, kinks=(0.0,), bend=(0, 2), shape=shape, slope=direction, ray=True)
        low = Bounds(min(a.bounds.lo, 0.0), min(a.bounds.hi, 0.0)).times(Bounds(slope, slope))
        return [apply_scalar(row, a).but(bounds=low.union(Bounds(max(a.bounds.lo, 0.0), max(a.bounds.hi, 0.0))))]
    if name in ("elu", "celu", "selu"):
        return [elu(s, a)]
    limit = s.number("lambd", 0.5)
    kind = (0, 2) if name == "softshrink" else (-2, 3)
    if limit < 0:
        raise Reject("a negative shrinkage")
    row = Scalar("any", degree=1, kinks=(-limit, limit), bend=kind, slope=1 if kind[0] == 0 else 0)
    return [apply_scalar(row, a).but(bounds=a.bounds.union(ZERO))]


def elu(s: Step, a: Fact) -> Fact:
    name = s.op.rstrip("_")
    alpha, size, inner = s.number("alpha", 1.0), s.number("scale", 1.0), s.number("input_scale", 1.0)
    if name == "selu":
        alpha, size = 1.67327, 1.05071
    if name == "celu":
        inner = 1.0 / alpha if alpha > 0 else 0.0
    if alpha < 0 or size <= 0 or inner <= 0:
        raise Reject("an unusual elu")
    joins = name == "celu" or alpha * inner == 1
    shape = "convex" if joins or alpha * inner <= 1 else ""
    row = Scalar("any", "exp", kinks=(0.0,), bend=(1, 0) if joins else (0, 2), shape=shape, slope=1)
    low = 0.0 if a.bounds.lo >= 0 else math.nextafter(-size * alpha, -INF)
    return apply_scalar(row, a).but(bounds=Bounds(low, math.nextafter(max(a.bounds.hi, 0.0) * size, INF)))


def glu(s: Step) -> list[Fact]:
    a = s.fact("self")
    if not a.varies:
        return [fixed(REALS)]
    top = max(abs(a.bounds.lo), abs(a.bounds.hi))
    bounds = Bounds(0.0 if a.bounds.lo >= 0 else -top, top)
    return [a.but(bounds=bounds, needs=a.needs | {"exp"}, degree=None, shape="", power=0 if a.power == 0 else None)]


def rrelu(s: Step) -> list[Fact]:
    a = s.fact("self")
    top = max(abs(s.number("lower", 0.125)), abs(s.number("upper", 1 / 3)), 1.0)
    return [bent(a, a.bounds.union(a.bounds.times(Bounds(top, top))).union(ZERO), "", a.power)]


def attention(s: Step) -> list[Fact]:
    needs = {"exp", "algebraic"}
    bounds = REALS if s.number("dropout_p", 0.0) > 0 else s.fact("value").bounds.union(ZERO)
    return [smooth_map(s.facts, needs, bounds), smooth_map(s.facts, needs, REALS)]


def log_softmax(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [smooth_map([a], {"exp"}, Bounds(-INF, 0.0), through("concave", 0, a)).but(masked=a.masked)]


def logsumexp(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [smooth_map([a], {"exp"}, Bounds(-INF if a.masked else a.bounds.lo, INF), through("convex", 1, a))]
