"""The checker's rules for choices: indices, masks, maxima, clamps and comparisons."""

from __future__ import annotations

from tameopt.structure.checker._arithmetic import extreme
from tameopt.structure.checker._branches import always, settled_bounds
from tameopt.structure.checker._elementwise import apply_scalar, clipped
from tameopt.structure.checker._fact import (
    INF,
    REALS,
    Bounds,
    Fact,
    Reject,
    bent,
    choose,
    fixed,
    step,
    through,
    worst,
)
from tameopt.structure.checker._masks import reads_border_only
from tameopt.structure.checker._rows import SCALARS
from tameopt.structure.checker._step import Step


def gather(s: Step) -> list[Fact]:
    base, *rest = s.facts
    if any(fact.varies for fact in rest) and "torch.bool" in str(s.types):
        raise Reject("a boolean index that varies")
    for fact in rest:
        base = choose(base, fact)
    return [base]


def write(s: Step) -> list[Fact]:
    s.constant("index", "indices", "mask")
    name = next((name for name in ("values", "src", "source", "value") if s.arguments.get(name) is not None), None)
    if name is None:
        raise Reject("nothing is written")
    base, other = s.facts[0], s.fact(name)
    both = worst([base, other])
    if s.arguments.get("accumulate"):
        return [both.but(bounds=Bounds(0.0) if base.bounds.lo >= 0 and other.bounds.lo >= 0 else REALS)]
    return [both]


def accumulate(s: Step) -> list[Fact]:
    s.constant("index", "indices")
    base = worst([s.fact(name) for name in s.names if "ind" not in name])
    if base.bounds.lo >= 0:
        return [base.but(bounds=Bounds(0.0))]
    return [base.but(bounds=Bounds(-INF, 0.0) if base.bounds.hi <= 0 else REALS)]


def extremes(up: bool, s: Step) -> list[Fact]:
    if s.arguments.get("other") is not None:
        return [extreme(s.fact("self"), s.fact("other"), up)]
    a = s.facts[0]
    if "pool" not in s.op and len(s.outputs) == 1 and s.per_output() == 1:
        return [a]
    values = bent(a, a.bounds, through("convex" if up else "concave", 1, a), a.power)
    values = values.but(masked=a.masked and not s.arguments.get("border"))
    if s.op.startswith("max_pool") and reads_border_only(s):
        values = values.but(masked=True)
    return [values, step(a, Bounds(0.0))]


def clamp(s: Step) -> list[Fact]:
    a = s.facts[0]
    for name, up in (("min", True), ("min_val", True), ("max", False), ("max_val", False)):
        if s.arguments.get(name) not in (None, "inf", "-inf"):
            a = extreme(a, s.fact(name), up)
    return [a]


def masked_choice(s: Step, chooser: str, first: str, second: str) -> list[Fact]:
    branches = {first: s.fact(first), second: s.fact(second)}
    for branch, relation, bound in s.arguments.get("guards") or ():
        fact = branches[branch]
        half = {
            "gt": (bound, INF, True, False), "ge": (bound, INF, False, False),
            "lt": (-INF, bound, False, True), "le": (-INF, bound, False, False),
        }[relation]  # fmt: skip
        if not (fact.bounds.lo >= half[1] or fact.bounds.hi <= half[0]):
            branches[branch] = fact.but(bounds=clipped(fact.bounds, half))
    both = worst(list(branches.values()))
    if both.masked and s.fact(chooser).varies:
        raise Reject("a mask of -inf that varies")
    return [choose(both, s.fact(chooser))]


def truth(s: Step) -> list[Fact]:
    facts = list(s.facts)
    if "bool" not in s.dtypes[0] and any(fact.varies for fact in facts):
        raise Reject("bits of integers that vary")
    if isinstance(s.arguments.get("other"), (int, float)):
        x = float(s.arguments["other"])
        facts.append(fixed(Bounds(x, x)))
    answer = always(s, facts)
    return [fixed(settled_bounds(answer)) if answer is not None else step(worst(facts), Bounds(0.0, 1.0))]


def threshold(s: Step) -> list[Fact]:
    a, limit, value = s.fact("self"), s.number("threshold"), s.number("value")
    if limit == value == 0:
        return [apply_scalar(SCALARS["relu"], a)]
    other, passed = fixed(Bounds(value, value)), worst([a, fixed(Bounds(limit, limit))])
    return [choose(worst([a, other]), step(passed, Bounds(0.0, 1.0))).but(bounds=a.bounds.union(other.bounds))]
