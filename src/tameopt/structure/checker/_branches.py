"""Conditions that the bounds decide, and functions that Python chooses by its decisions on theta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tameopt.structure.checker._elementwise import reach
from tameopt.structure.checker._fact import Bounds, Fact, Reject, choose, worst
from tameopt.structure.checker._step import Step


def always(s: Step, facts: Sequence[Fact]) -> bool | None:
    """What a comparison or its like gives for every theta, if the bounds tell; None otherwise."""
    op = s.op.rstrip("_")
    shapes = [shape for shape in (*s.shapes.values(), *s.outputs) if all(isinstance(n, int) for n in shape)]
    if any(0 in shape for shape in shapes) or not all(fact.total for fact in facts):
        return None
    if op in ("lt", "le", "gt", "ge") and len(facts) == 2:
        small, large = facts if op[0] == "l" else (facts[1], facts[0])
        a, b = reach(small), reach(large)
        # a < b, or a <= b, for all elements; or never
        if a.hi < b.lo or (a.hi == b.lo and math.isfinite(a.hi) and (op[1] == "e" or a.hi_open or b.lo_open)):
            return True
        if b.hi < a.lo or (b.hi == a.lo and math.isfinite(a.lo) and (op[1] == "t" or a.lo_open or b.hi_open)):
            return False
    if op in ("eq", "ne") and not any(fact.masked for fact in facts):
        if s.arguments.get("itself"):
            return op == "eq"
        if s.arguments.get("other") in ("inf", "-inf"):
            return op == "ne"
    if op.startswith("is") and not facts[0].masked:
        return op == "isfinite"
    if op in ("any", "all", "logical_not"):
        return _settled(facts[0]) if op != "logical_not" else _negated(_settled(facts[0]))
    return None


def _settled(a: Fact) -> bool | None:
    return {(0.0, 0.0): False, (1.0, 1.0): True}.get((a.bounds.lo, a.bounds.hi))


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def chosen(s: Step) -> list[Fact]:
    """One of the tensors, by decisions that together leave no case out."""
    tensors, conditions = s.arguments["tensors"], list(s.arguments["conditions"])
    ways = [tuple(way) for way in s.arguments["ways"]]
    raising = [tuple(way) for way in s.arguments["raising"]]
    if len(ways) != len(tensors) or len(conditions) != sum(len(way) for way in ways):
        raise Reject("ways without their conditions")
    by_prefix: dict[tuple[bool, ...], Fact] = {}
    at = 0
    for way in ways:
        for k in range(len(way)):
            by_prefix.setdefault(way[:k], conditions[at + k])
        at += len(way)
    _complete((), [*ways, *raising], by_prefix)
    found = worst(tensors)
    for condition in conditions:
        found = choose(found, condition)
    return [found.but(total=False) if raising else found]


def _complete(
    prefix: tuple[bool, ...], ways: Sequence[tuple[bool, ...]], conditions: Mapping[tuple[bool, ...], Fact]
) -> None:
    """Reject unless the ways that begin with `prefix` cover what can follow it."""
    if prefix in ways:
        if ways.count(prefix) > 1 or any(len(way) > len(prefix) and way[: len(prefix)] == prefix for way in ways):
            raise Reject("two ways for the same decisions")
        return
    for answer in (False, True):
        longer = (*prefix, answer)
        if any(way[: len(longer)] == longer for way in ways):
            _complete(longer, ways, conditions)
        elif prefix not in conditions or _settled(conditions[prefix]) is not (not answer):
            raise Reject(f"the way {longer} is not covered")


def settled_bounds(answer: bool) -> Bounds:
    return Bounds(float(answer), float(answer))
