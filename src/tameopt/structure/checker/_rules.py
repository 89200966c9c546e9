"""The checker's rules: from what is known about the arguments of an operator to what is known about its results."""

from __future__ import annotations

import math
from collections.abc import Callable

from tameopt.structure.checker._fact import (
    INF,
    REALS,
    ZERO,
    Bounds,
    Fact,
    Reject,
    add,
    bent,
    choose,
    fixed,
    negate,
    product,
    scale,
    smooth_map,
    step,
    through,
    worst,
)
from tameopt.structure.checker._more import MORE
from tameopt.structure.checker._rows import RULES, SCALARS, Scalar
from tameopt.structure.checker._step import Step

# -- elementwise -------------------------------------------------------------------------------------------


def apply_scalar(row: Scalar, a: Fact) -> Fact:
    """An elementwise function of a."""
    inside = a.bounds.within(*row.domain)
    bounds = _image(row.image, a.bounds if inside else _clipped(a.bounds, row.domain))
    if not a.varies:
        return fixed(bounds)
    smooth, autodiff = a.smooth, a.autodiff
    met = any(a.bounds.holds(kink) for kink in row.kinks)
    if met:
        smooth, autodiff = min(smooth, row.bend[0]), max(autodiff, row.bend[1])
    lo, hi, lo_open, hi_open = row.domain
    touches = (not lo_open and a.bounds.holds(lo)) or (not hi_open and hi < INF and a.bounds.holds(hi))
    if row.edge < 1000 and (touches or not inside):
        smooth, autodiff = min(smooth, row.edge), max(autodiff, 3)
    if not inside:
        autodiff = max(autodiff, 3)
    lost = (row.bounded and not a.bounds.finite) or (row.wild_outside and not inside)
    degree = None if row.degree is None or a.degree is None or lost else row.degree * a.degree
    return Fact(
        bounds,
        True,
        a.needs | ({row.needs} if row.needs else set()) | ({"wild"} if lost else set()),
        degree,
        a.pieces or (met and row.degree is not None),
        smooth,
        autodiff,
        a.total and inside and not a.masked,
        through(row.shape, row.slope, a),
        a.power if row.ray else (0 if a.power == 0 else None),
        flat=a.flat or row.degree == 0,
    )


def _clipped(b: Bounds, domain: tuple[float, float, bool, bool]) -> Bounds:
    lo, hi, lo_open, hi_open = domain
    if b.lo > hi or b.hi < lo:
        return Bounds(lo, hi, lo_open, hi_open)
    left = (b.lo, b.lo_open) if b.lo > lo else (lo, lo_open or (b.lo == lo and b.lo_open))
    right = (b.hi, b.hi_open) if b.hi < hi else (hi, hi_open or (b.hi == hi and b.hi_open))
    return Bounds(left[0], right[0], left[1], right[1])


def _safe(f: Callable[[float], float], x: float, low: bool) -> float:
    """f(x) moved outwards by two units in the last place; infinite where it cannot be computed."""
    try:
        y = f(x)
    except (OverflowError, ValueError, ZeroDivisionError):
        return -INF if low else INF
    if y != y:
        return -INF if low else INF
    for _ in range(2):
        y = math.nextafter(y, -INF if low else INF)
    return y


def _increasing(f: Callable[[float], float], b: Bounds) -> Bounds:
    return Bounds(_safe(f, b.lo, True), _safe(f, b.hi, False))


def _sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > 0 else math.exp(x) / (math.exp(x) + 1.0)


# increasing functions with the ends of their ranges, and whether those are never attained
_RISING: dict[str, tuple[Callable[[float], float], float, float, bool]] = {
    "exp": (math.exp, 0.0, INF, True),
    "exp2": (lambda x: 2.0**x, 0.0, INF, True),
    "expm1": (math.expm1, -1.0, INF, True),
    "sigmoid": (_sigma, 0.0, 1.0, True),
    "log_sigmoid": (lambda x: min(x, 0.0) - math.log1p(math.exp(-abs(x))), -INF, 0.0, True),
    "sinh": (math.sinh, -INF, INF, False),
    "asinh": (math.asinh, -INF, INF, False),
    "acosh": (math.acosh, 0.0, INF, False),
    "atanh": (math.atanh, -INF, INF, False),
    "atan": (math.atan, -1.5707963267948968, 1.5707963267948968, False),
    "asin": (math.asin, -INF, INF, False),
    "erf": (math.erf, -1.0, 1.0, True),
}


def _image(name: str, b: Bounds) -> Bounds:
    if name.startswith("dip:"):
        return Bounds(0.0 if b.lo >= 0 else float(name[4:]), max(b.hi, 0.0))
    simple = {
        "any": REALS, "[0,6]": Bounds(0.0, 6.0), "[0,1]": Bounds(0.0, 1.0), "[-1,1]": Bounds(-1.0, 1.0),
        "lgamma": Bounds(-0.1214863, INF), "neg": b.minus(),
    }  # fmt: skip
    if name in simple:
        return simple[name]
    if name in _RISING:
        rising, lo, hi, is_open = _RISING[name]
        image = _increasing(rising, b)
        left = (image.lo, False) if image.lo > lo else (lo, is_open)
        right = (image.hi, False) if image.hi < hi else (hi, is_open)
        return Bounds(left[0], right[0], left[1], right[1])
    if name in ("acos", "erfc"):
        function, top = (math.acos, 3.1415927) if name == "acos" else (math.erfc, 2.0)
        found = Bounds(_safe(function, b.hi, True), _safe(function, b.lo, False))
        return Bounds(max(found.lo, 0.0), min(found.hi, top), found.lo <= 0 and name == "erfc")
    if name == "cosh":
        a = _absolute(b)
        return Bounds(max(1.0, _safe(math.cosh, a.lo, True)), _safe(math.cosh, a.hi, False))
    if name == "relu":
        return Bounds(max(b.lo, 0.0), max(b.hi, 0.0), b.lo > 0 and b.lo_open, b.hi > 0 and b.hi_open)
    if name == "abs":
        return _absolute(b)
    if name == "square":
        a = _absolute(b)
        return a.times(a)
    if name in ("log", "log2", "log10"):
        found = _increasing({"log": math.log, "log2": math.log2, "log10": math.log10}[name], b)
        return Bounds(max(found.lo, 0.0), found.hi) if b.lo >= 1 else found
    if name == "log1p":
        found = _increasing(math.log1p, b)
        return Bounds(max(found.lo, 0.0), found.hi) if b.lo >= 0 else found
    if name == "tanh":
        found = _increasing(math.tanh, b)
        low = max(found.lo, 0.0 if b.lo >= 0 else -1.0)
        high = min(found.hi, 0.0 if b.hi <= 0 else 1.0)
        return Bounds(low, high, low == -1, high == 1)
    if name == "sqrt":
        found = _increasing(math.sqrt, b)
        return Bounds(max(found.lo, 0.0), found.hi, found.lo <= 0 and b.positive)
    if name == "rsqrt":
        low = 0.0 if b.hi == INF else _safe(lambda x: 1.0 / math.sqrt(x), b.hi, True)
        high = _safe(lambda x: 1.0 / math.sqrt(x), b.lo, False)
        return Bounds(max(low, 0.0), high, low <= 0)
    raise Reject(f"the image {name!r} is not known")


def _absolute(b: Bounds) -> Bounds:
    if b.lo >= 0:
        return b
    if b.hi <= 0:
        return b.minus()
    return Bounds(0.0, max(-b.lo, b.hi))


# -- arithmetic --------------------------------------------------------------------------------------------


def inverse(a: Fact) -> Fact:
    b = a.bounds
    nonzero = b.positive or b.negative
    if b.positive:
        low = 0.0 if b.hi == INF else max(0.0, _safe(lambda x: 1.0 / x, b.hi, True))
        bounds = Bounds(low, INF if b.lo == 0 else _safe(lambda x: 1.0 / x, b.lo, False), low == 0)
    elif b.negative:
        high = 0.0 if b.lo == -INF else min(0.0, _safe(lambda x: 1.0 / x, b.lo, False))
        bounds = Bounds(-INF if b.hi == 0 else _safe(lambda x: 1.0 / x, b.hi, True), high, False, high == 0)
    else:
        bounds = REALS
    if not a.varies:
        return fixed(bounds).but(total=nonzero)
    return a.but(
        bounds=bounds,
        needs=a.needs | {"algebraic"},
        degree=None,
        autodiff=a.autodiff if nonzero else max(a.autodiff, 3),
        total=a.total and nonzero and not a.masked,
        shape=through("convex", -1, a) if b.positive else through("concave", -1, a) if b.negative else "",
        power=None if a.power is None else -a.power,
    )


def _whole_power(a: Fact, n: int) -> Fact:
    if n == 0:
        # constant where a is defined, but backprop multiplies its 0 with the derivative of a
        free = a.but(bounds=Bounds(1.0, 1.0), smooth=1000, shape="affine", power=0, masked=False, flat=True)
        return free.but(varies=a.varies and (not a.total or a.autodiff >= 3), degree=None if a.degree is None else 0)
    if n == 1:
        return a
    b = _absolute(a.bounds)
    signless = n % 2 == 0 or a.bounds.lo >= 0
    if n == 2:
        bounds = _image("square", a.bounds)
    elif signless:
        bounds = Bounds(0.0, INF, b.positive)
    else:
        bounds = REALS
    if n > 2 and a.bounds.finite and b.hi < 1e30 and n < 10:
        top = b.hi**n * (1 + 1e-12)
        bounds = Bounds(0.0, top, bounds.lo_open) if signless else Bounds(-top, top)
    slope = 1 if a.bounds.lo >= 0 else -1 if n % 2 == 0 and a.bounds.hi <= 0 else 0
    return a.but(
        bounds=bounds,
        degree=None if a.degree is None else n * a.degree,
        shape=through("convex", slope, a) if signless else "",
        power=None if a.power is None else n * a.power,
    )


def _power(a: Fact, p: float) -> Fact:
    if p == int(p):
        return _whole_power(a, int(p)) if p >= 0 else inverse(_whole_power(a, int(-p)))
    b = a.bounds
    if not a.varies:
        return fixed(Bounds(0.0, INF, b.positive)).but(total=b.positive or (b.lo >= 0 and p > 0))
    scaled = None if a.power is None else p * a.power
    return a.but(
        bounds=Bounds(0.0, INF, b.positive),
        needs=a.needs | {"algebraic" if p * 64 == int(p * 64) else "exp"},
        degree=None,
        smooth=a.smooth if b.positive else min(a.smooth, int(p) if p > 1 else -1),
        autodiff=a.autodiff if b.positive or (p > 1 and b.lo >= 0) else max(a.autodiff, 3),
        total=a.total and (b.positive or (b.lo >= 0 and p > 0)) and not a.masked,
        shape=through("convex", 1, a) if p > 1 and b.lo >= 0 else "",
        power=int(scaled) if scaled is not None and scaled == int(scaled) else (0 if a.power == 0 else None),
    )


def _extreme(a: Fact, b: Fact, up: bool) -> Fact:
    pick = max if up else min
    base = worst([a, b])
    ahead = a.bounds.lo >= b.bounds.hi, b.bounds.lo >= a.bounds.hi
    if any(ahead):
        return _winning(a if ahead[0] == up else b, base)
    bounds = Bounds(pick(a.bounds.lo, b.bounds.lo), pick(a.bounds.hi, b.bounds.hi))
    return bent(base, bounds, through("convex" if up else "concave", 1, base), base.power)


def _winning(chosen: Fact, base: Fact) -> Fact:
    """The larger of two, known in advance; undefined where the other one is, and with its infinite derivatives."""
    if base.total and base.autodiff < 3:
        return chosen.but(autodiff=base.autodiff if chosen.varies else 0)
    return chosen.but(
        varies=True,
        needs=base.needs,
        degree=None if base.degree is None else chosen.degree,
        pieces=True,
        autodiff=base.autodiff,
        total=base.total,
    )


def _many_factors(a: Fact, count: int) -> Fact:
    if count == 1:
        return a
    top = 1.0 if a.bounds.lo >= 0 and a.bounds.hi <= 1 else INF
    bounds = Bounds(0.0, top, a.bounds.positive) if a.bounds.lo >= 0 else REALS
    return a.but(
        bounds=bounds,
        degree=None if a.degree is None else count * a.degree,
        shape="",
        power=None if a.power is None else count * a.power,
    )


def _reduced(s: Step, losses: Fact, count: int) -> Fact:
    return losses.but(bounds=losses.bounds.repeated(count)) if s.number("reduction", 1.0) == 2 else losses


def _difference(s: Step) -> tuple[Fact, int]:
    count = max(math.prod(s.shapes["self"]), math.prod(s.shapes["target"]))
    return add(s.fact("self"), negate(s.fact("target"))), count


def _euclidean(a: Fact, bounds: Bounds) -> Fact:
    if not a.varies:
        return fixed(bounds)
    return a.but(
        bounds=bounds,
        needs=a.needs | {"algebraic"},
        degree=None,
        smooth=min(a.smooth, 0),
        autodiff=max(a.autodiff, 2),
        shape="convex" if a.shape == "affine" else "",
    )


def _normalised(a: Fact, eps: float) -> Fact:
    if not a.varies:
        return fixed(REALS)
    base = smooth_map([a], {"algebraic"}, REALS)
    if eps > 0:
        return base
    return base.but(smooth=-2, total=False, autodiff=max(base.autodiff, 3), power=None if a.power is None else 0)


def _affine(s: Step, a: Fact) -> Fact:
    if s.has("weight"):
        a = product(a, s.fact("weight"))
    return add(a, s.fact("bias")) if s.has("bias") else a


# -- the rules ---------------------------------------------------------------------------------------------


def derive(s: Step) -> list[Fact]:
    """What is known about each output of a call.

    Raises Reject when the operator has no row or the row does not cover the call.
    """
    op = s.op if s.op in RULES or s.op in SCALARS else s.op.rstrip("_")
    if op in SCALARS:
        found = [apply_scalar(SCALARS[op], s.fact("self"))]
    elif op in RULES:
        found = _RULES[RULES[op]](s)
    else:
        raise Reject(f"{s.op} is not in the checker's table")
    return found + [found[-1]] * (len(s.outputs) - len(found))


def _convert(s: Step) -> list[Fact]:
    a, dtype = s.facts[0], s.dtypes[0]
    if "complex" in dtype:
        raise Reject("complex")
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


def _gather(s: Step) -> list[Fact]:
    base, *rest = s.facts
    if any(fact.varies for fact in rest) and "torch.bool" in str(s.types):
        raise Reject("a boolean index that varies")
    for fact in rest:
        base = choose(base, fact)
    return [base]


def _write(s: Step) -> list[Fact]:
    s.constant("index", "indices", "mask")
    name = next((name for name in ("values", "src", "source", "value") if s.arguments.get(name) is not None), None)
    if name is None:
        raise Reject("nothing is written")
    base, other = s.facts[0], s.fact(name)
    both = worst([base, other])
    if s.arguments.get("accumulate"):
        return [both.but(bounds=Bounds(0.0) if base.bounds.lo >= 0 and other.bounds.lo >= 0 else REALS)]
    return [both]


def _accumulate(s: Step) -> list[Fact]:
    s.constant("index", "indices")
    base = worst([s.fact(name) for name in s.names if "ind" not in name])
    if base.bounds.lo >= 0:
        return [base.but(bounds=Bounds(0.0))]
    return [base.but(bounds=Bounds(-INF, 0.0) if base.bounds.hi <= 0 else REALS)]


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
        return [_power(base, exponent.bounds.lo)]
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


def _prelu(s: Step) -> list[Fact]:
    a, weight = s.fact("self"), s.fact("weight")
    base = worst([a, product(a, weight)])
    if weight.varies:
        return [bent(base, base.bounds)]
    if a.varies and a.bounds.holds(0.0):
        return [bent(base, base.bounds, "", a.power)]
    return [base.but(shape="affine" if a.shape == "affine" else "", power=a.power)]


def _batch_norm(s: Step) -> list[Fact]:
    eps = s.number("eps")
    training = bool(s.arguments.get("training", s.arguments.get("train", "no_training" not in s.op)))
    if training:
        return [_affine(s, _normalised(s.fact("input"), eps)), _normalised(s.fact("input"), eps)]
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
        return [_euclidean(a, Bounds(0.0)), a]
    return [_whole_power(a, 2).but(bounds=Bounds(0.0), shape=shape), a]


def _norm(s: Step) -> list[Fact]:
    a = s.fact("self")
    p = s.number("ord", s.number("p", 2.0))
    if a.masked or p <= 0:
        raise Reject(f"a norm of order {p}")
    nonzero = a.bounds.positive or a.bounds.negative
    bounds = Bounds(0.0, INF, nonzero)
    if p in (1.0, INF):
        return [bent(a, bounds, "convex" if a.shape == "affine" else "", a.power)]
    out = _euclidean(a, bounds)
    if p == 2 and nonzero and a.varies:
        return [out.but(smooth=a.smooth, autodiff=a.autodiff)]
    if p != int(p):
        out = out.but(needs=out.needs | {"exp"})
    return [out if p >= 1 else out.but(smooth=min(a.smooth, -1), autodiff=max(a.autodiff, 3), shape="")]


def _extremes(up: bool, s: Step) -> list[Fact]:
    if s.arguments.get("other") is not None:
        return [_extreme(s.fact("self"), s.fact("other"), up)]
    a = s.facts[0]
    if "pool" not in s.op and len(s.outputs) == 1 and s.per_output() == 1:
        return [a]
    values = bent(a, a.bounds, through("convex" if up else "concave", 1, a), a.power)
    return [values, step(a, Bounds(0.0))]


def _clamp(s: Step) -> list[Fact]:
    a = s.facts[0]
    for name, up in (("min", True), ("min_val", True), ("max", False), ("max_val", False)):
        if s.arguments.get(name) not in (None, "inf", "-inf"):
            a = _extreme(a, s.fact(name), up)
    return [a]


def _nll(s: Step) -> list[Fact]:
    s.constant("target", "weight")
    a = negate(s.fact("self"))
    bounds = a.bounds.union(ZERO)
    if s.has("weight") and s.fact("weight").bounds.lo < 0:
        raise Reject("a negative class weight")
    if s.number("reduction", 1.0) == 2 or s.has("weight"):
        bounds = Bounds(0.0 if a.bounds.lo >= 0 else -INF, 0.0 if a.bounds.hi <= 0 else INF)
    return [a.but(bounds=bounds), fixed(Bounds(0.0))]


def _bce(s: Step, logits: bool) -> list[Fact]:
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
    return [_reduced(s, out, math.prod(s.shapes["self"]))]


def _masked_choice(s: Step, chooser: str, first: str, second: str) -> list[Fact]:
    branches = {first: s.fact(first), second: s.fact(second)}
    for branch, relation, bound in s.arguments.get("guards") or ():
        fact = branches[branch]
        half = {
            "gt": (bound, INF, True, False), "ge": (bound, INF, False, False),
            "lt": (-INF, bound, False, True), "le": (-INF, bound, False, False),
        }[relation]  # fmt: skip
        if not (fact.bounds.lo > half[1] or fact.bounds.hi < half[0]):
            branches[branch] = fact.but(bounds=_clipped(fact.bounds, half))
    both = worst(list(branches.values()))
    if both.masked and s.fact(chooser).varies:
        raise Reject("a mask of -inf that varies")
    return [choose(both, s.fact(chooser))]


def _truth(s: Step) -> list[Fact]:
    facts = list(s.facts)
    if "bool" not in s.dtypes[0] and any(fact.varies for fact in facts):
        raise Reject("bits of integers that vary")
    if isinstance(s.arguments.get("other"), (int, float)):
        x = float(s.arguments["other"])
        facts.append(fixed(Bounds(x, x)))
    return [step(worst(facts), Bounds(0.0, 1.0))]


def _threshold(s: Step) -> list[Fact]:
    a, limit, value = s.fact("self"), s.number("threshold"), s.number("value")
    if limit == value == 0:
        return [apply_scalar(SCALARS["relu"], a)]
    other, passed = fixed(Bounds(value, value)), worst([a, fixed(Bounds(limit, limit))])
    return [choose(worst([a, other]), step(passed, Bounds(0.0, 1.0))).but(bounds=a.bounds.union(other.bounds))]


def _huber(s: Step) -> list[Fact]:
    a, count = _difference(s)
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
    return [_reduced(s, losses, count)]


def _soft_margin(s: Step) -> list[Fact]:
    a, y = s.fact("self"), s.fact("target")
    out = smooth_map([a, y], {"exp"}, Bounds(0.0, INF, True), "" if y.varies else through("convex", 0, a))
    return [_reduced(s, out, math.prod(s.shapes["self"]))]


def _margin(s: Step) -> list[Fact]:
    s.constant("target")
    a = s.facts[0]
    out = bent(a, Bounds(0.0))
    if s.number("p", 1.0) == 2:
        out = out.but(degree=None if a.degree is None else 2 * a.degree)
    return [out, fixed(REALS)]


def _activation(s: Step) -> list[Fact]:
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
        return [_elu(s, a)]
    limit = s.number("lambd", 0.5)
    kind = (0, 2) if name == "softshrink" else (-2, 3)
    if limit < 0:
        raise Reject("a negative shrinkage")
    row = Scalar("any", degree=1, kinks=(-limit, limit), bend=kind, slope=1 if kind[0] == 0 else 0)
    return [apply_scalar(row, a).but(bounds=a.bounds.union(ZERO))]


def _elu(s: Step, a: Fact) -> Fact:
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


def _glu(s: Step) -> list[Fact]:
    a = s.fact("self")
    if not a.varies:
        return [fixed(REALS)]
    top = max(abs(a.bounds.lo), abs(a.bounds.hi))
    bounds = Bounds(0.0 if a.bounds.lo >= 0 else -top, top)
    return [a.but(bounds=bounds, needs=a.needs | {"exp"}, degree=None, shape="", power=0 if a.power == 0 else None)]


def _rrelu(s: Step) -> list[Fact]:
    a = s.fact("self")
    top = max(abs(s.number("lower", 0.125)), abs(s.number("upper", 1 / 3)), 1.0)
    return [bent(a, a.bounds.union(a.bounds.times(Bounds(top, top))).union(ZERO), "", a.power)]


def _attention(s: Step) -> list[Fact]:
    needs = {"exp", "algebraic"}
    bounds = REALS if s.number("dropout_p", 0.0) > 0 else s.fact("value").bounds.union(ZERO)
    return [smooth_map(s.facts, needs, bounds), smooth_map(s.facts, needs, REALS)]


def _log_softmax(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [smooth_map([a], {"exp"}, Bounds(-INF, 0.0), through("concave", 0, a)).but(masked=a.masked)]


def _logsumexp(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [smooth_map([a], {"exp"}, Bounds(-INF if a.masked else a.bounds.lo, INF), through("convex", 1, a))]


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


def _mse(s: Step) -> list[Fact]:
    a, count = _difference(s)
    return [_reduced(s, _whole_power(a, 2), count)]


def _cumsum(s: Step) -> list[Fact]:
    a = s.fact("self")
    return [a.but(bounds=a.bounds.union(a.bounds.repeated(max(s.shapes["self"], default=1))))]


def _cumprod(s: Step) -> list[Fact]:
    a, shape = s.fact("self"), s.shapes["self"]
    count = max(int(shape[int(s.number("dim"))]) if shape else 1, 1)
    out = _many_factors(a, count)
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
        return [_whole_power(s.fact("self"), 2)]
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
    "accumulate": _accumulate,
    "lerp": _lerp,
    "gather": _gather,
    "write": _write,
    "round": _round,
    "mul": _mul,
    "matmul": lambda s: [_matrix(s, s.names[0], s.names[1])],
    "addmm": _addmm,
    "addcmul": lambda s: _addc(s, False),
    "addcdiv": lambda s: _addc(s, True),
    "convolution": _convolution,
    "prod": lambda s: [_many_factors(s.facts[0], s.per_output())],
    "cumprod": _cumprod,
    "div": _division,
    "reciprocal": lambda s: [inverse(s.fact("self"))],
    "pow": _pow,
    "prelu": _prelu,
    "softmax": lambda s: [smooth_map([s.fact("self")], {"exp"}, Bounds(0.0, 1.0, not s.fact("self").masked))],
    "log softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "attention": _attention,
    "normalise": lambda s: [_affine(s, _normalised(s.fact("input"), s.number("eps"))),
                            _normalised(s.fact("input"), s.number("eps"))],
    "rms": lambda s: [_affine(s, _normalised(s.fact("input"), s.number("eps", 1e-16))),
                      _normalised(s.fact("input"), s.number("eps", 1e-16))],
    "batch norm": _batch_norm,
    "var": _var,
    "std": _var,
    "norm": _norm,
    "distance": lambda s: [_distance(s)],
    "max": lambda s: _extremes(True, s),
    "min": lambda s: _extremes(False, s),
    "sort": lambda s: [bent(s.facts[0], s.facts[0].bounds, "", s.facts[0].power), step(s.facts[0], Bounds(0.0))],
    "where is": lambda s: [step(worst(s.facts), Bounds(0.0))],
    "maximum": lambda s: [_extreme(s.fact("self"), s.fact("other"), True)],
    "minimum": lambda s: [_extreme(s.fact("self"), s.fact("other"), False)],
    "clamp": _clamp,
    "mse": _mse,
    "huber": _huber,
    "nll": _nll,
    "bce logits": lambda s: _bce(s, True),
    "bce": lambda s: _bce(s, False),
    "soft margin": _soft_margin,
    "margin": _margin,
    "truth": _truth,
    "where": lambda s: _masked_choice(s, "condition", "self", "other"),
    "masked fill": lambda s: _masked_choice(s, "mask", "self", "value"),
    "threshold": _threshold,
    "gelu": _activation,
    "softplus": _activation,
    "elu": _activation,
    "leaky relu": _activation,
    "softshrink": _activation,
    "hardshrink": _activation,
    "glu": _glu,
    "rrelu": _rrelu,
    **MORE,
}  # fmt: skip


def _distance(s: Step) -> Fact:
    if s.number("p", 2.0) != 2:
        raise Reject("a distance of another order")
    return _euclidean(worst(s.facts), Bounds(0.0))
