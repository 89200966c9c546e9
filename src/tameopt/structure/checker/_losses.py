"""The checker's rules for losses."""

from __future__ import annotations

import math

from tameopt.structure.checker._arithmetic import whole_power
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
    smooth_map,
    through,
)
from tameopt.structure.checker._step import Step


def reduced(s: Step, losses: Fact, count: int) -> Fact:
    return losses.but(bounds=losses.bounds.repeated(count)) if s.number("reduction", 1.0) == 2 else losses


def difference(s: Step) -> tuple[Fact, int]:
    count = max(math.prod(s.shapes["self"]), math.prod(s.shapes["target"]))
    return add(s.fact("self"), negate(s.fact("target"))), count


def mse(s: Step) -> list[Fact]:
    a, count = difference(s)
    return [reduced(s, whole_power(a, 2), count)]


def huber(s: Step) -> list[Fact]:
    a, count = difference(s)
    if s.number("delta" if "delta" in s.arguments else "beta", 1.0) <= 0:
        raise Reject("huber with delta 0")
    if not a.varies:
        return [fixed(Bounds(0.0))]
    losses = a.but(
        bounds=Bounds(0.0),
        degree=None if a.degree is None else 2 * a.degree,
        pieces=True,
        smooth=min(a.smooth, 1),
        shape="convex" if a.shape == "affine" else "",
        power=None,
    )
    return [reduced(s, losses, count)]


def nll(s: Step) -> list[Fact]:
    s.constant("target", "weight")
    a = negate(s.fact("self"))
    bounds = a.bounds.union(ZERO)
    if s.has("weight") and s.fact("weight").bounds.lo < 0:
        raise Reject("a negative class weight")
    if s.number("reduction", 1.0) == 2 or s.has("weight"):
        bounds = Bounds(0.0 if a.bounds.lo >= 0 else -INF, 0.0 if a.bounds.hi <= 0 else INF)
    return [a.but(bounds=bounds), fixed(Bounds(0.0))]


def bce(s: Step, logits: bool) -> list[Fact]:
    a, target = s.fact("self"), s.fact("target")
    weights = [s.fact(name) for name in ("weight", "pos_weight") if s.has(name)]
    usual = target.bounds.within(0.0, 1.0) and all(weight.bounds.lo >= 0 for weight in weights)
    fixed_target = not target.varies and not any(weight.varies for weight in weights)
    bounds = Bounds(0.0) if usual and (fixed_target or not logits) else REALS
    shape = through("convex", 0, a) if usual and fixed_target and logits else ""
    out = smooth_map([a, target, *weights], {"exp"}, bounds, shape)
    if not logits:
        if not a.bounds.within(0.0, 1.0):
            raise Reject("probabilities outside [0, 1]")
        out = out.but(smooth=min(out.smooth, 0), autodiff=4, pieces=True)
    return [reduced(s, out, math.prod(s.shapes["self"]))]


def soft_margin(s: Step) -> list[Fact]:
    a, y = s.fact("self"), s.fact("target")
    out = smooth_map([a, y], {"exp"}, Bounds(0.0, INF, True), "" if y.varies else through("convex", 0, a))
    return [reduced(s, out, math.prod(s.shapes["self"]))]


def margin(s: Step) -> list[Fact]:
    s.constant("target")
    a = s.facts[0]
    out = bent(a, Bounds(0.0))
    if s.number("p", 1.0) == 2:
        out = out.but(degree=None if a.degree is None else 2 * a.degree)
    return [out, fixed(REALS)]
