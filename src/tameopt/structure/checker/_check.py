"""Replaying a structure certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tameopt.structure.checker._fact import INF, REALS, Bounds, Fact, Reject, fixed
from tameopt.structure.checker._kinks import convention_holds
from tameopt.structure.checker._masks import border
from tameopt.structure.checker._rules import derive
from tameopt.structure.checker._step import Step

KIND = "tameopt structure 1"


def check(data: Mapping[str, Any]) -> bool:
    """Whether every claim of the certificate follows from the recorded operators.

    data: {"kind", "nodes", "result", "claims"}: nodes are calls in order, result a reference, claims a mapping with
    any of "generators", "degree", "piecewise", "smooth", "autodiff", "total", "lower", "upper", "shape",
    "homogeneous". "conventions" holds, for each operator that autodiff meets at a kink, the gradients that the
    installed torch returned there; "finding", if given, names the one claim of `tameopt.claims` that must follow,
    "value" its number. Raises ValueError when data is not such a certificate.
    """
    if data.get("kind") != KIND:
        raise ValueError(f"a structure certificate must be of kind {KIND!r}, got {data.get('kind')!r}.")
    for key in ("nodes", "result", "claims"):
        if key not in data:
            raise ValueError(f"a structure certificate must have {key!r}, this one has {sorted(data)}.")
    try:
        fact = _fact_at(data["result"], _replayed(data["nodes"], data.get("conventions", {})))
        finding = data.get("finding")
        return _allows(fact, data["claims"]) and (finding is None or _SUFFICES[finding](fact, data))
    except (Reject, KeyError, IndexError, TypeError, AttributeError):
        # a malformed node is a certificate that does not replay
        return False


def _o_minimal(fact: Fact) -> bool:
    """Definable in one of the o-minimal structures of the references in the certificate."""
    return "wild" not in fact.needs


def _real(fact: Fact, smooth: int) -> bool:
    """Defined for every theta and at least that smooth."""
    return fact.total and not fact.masked and fact.smooth >= smooth


# which facts each claim follows from; the theorems are named in `tameopt.structure.findings`
_SUFFICES: dict[str, Callable[[Fact, Mapping[str, Any]], bool]] = {
    "F.tame": lambda fact, data: _o_minimal(fact),
    "F.semialgebraic": lambda fact, data: fact.needs <= {"algebraic"},
    "F.polynomial_degree": lambda fact, data: (
        not fact.needs and fact.degree is not None and fact.degree <= data["value"]
    ),
    "F.continuous": lambda fact, data: _real(fact, -1),
    "F.locally_lipschitz": lambda fact, data: _real(fact, 0),
    "F.C1": lambda fact, data: _real(fact, 1),
    "F.C2": lambda fact, data: _real(fact, 2),
    "F.analytic": lambda fact, data: _real(fact, 1000),
    "F.path_differentiable": lambda fact, data: _o_minimal(fact) and _real(fact, 0),
    "F.critical_values_finite": lambda fact, data: _o_minimal(fact) and _real(fact, 0),
    "F.kl": lambda fact, data: _o_minimal(fact) and _real(fact, -1),
    "F.autodiff": lambda fact, data: _o_minimal(fact) and _real(fact, 0) and fact.autodiff <= 2,
    "F.bounded_below": lambda fact, data: _real(fact, -2) and fact.bounds.lo >= data["value"] > -INF,
    "F.convex": lambda fact, data: _real(fact, -1) and fact.shape in ("affine", "convex"),
    "F.homogeneous": lambda fact, data: _real(fact, -2) and fact.power == data["value"],
}


def _replayed(nodes: Any, conventions: Mapping[str, Any]) -> dict[tuple[int, int], Fact]:
    facts: dict[tuple[int, int], Fact] = {}
    by_index = {node["index"]: node for node in nodes}
    for node in nodes:
        op = node["op"]
        if op == "theta":
            facts[node["index"], 0] = Fact(REALS, degree=1, power=1)
            continue
        arguments = {name: _argument(value, facts) for name, value in node["arguments"].items()}
        left, right = node["arguments"].get("self"), node["arguments"].get("other")
        if isinstance(left, dict) and "node" in left and left == right:
            arguments["square" if op.rstrip("_") == "mul" else "itself"] = True
        if op == "where":
            arguments["guards"] = _guards(node["arguments"], by_index)
        if op.startswith("max_pool"):
            arguments["border"] = border(node["arguments"], by_index, facts)
        step = Step(
            op,
            arguments,
            node["shapes"],
            tuple(tuple(shape) for shape in node["outputs"]),
            tuple(node["dtypes"]),
            node["types"],
        )
        for output, derived in enumerate(derive(step)):
            fact = derived if derived.varies else fixed(derived.bounds, derived.masked).but(total=derived.total)
            facts[node["index"], output] = _probed(_with_cuts(fact, node["cut"], arguments), step, conventions)
    return facts


def _guards(arguments: Mapping[str, Any], nodes: Mapping[int, Any]) -> list[tuple[str, str, float]]:
    """Branches of where(x > c, x, y) that the condition itself bounds."""
    condition = arguments["condition"]
    if "node" not in condition:
        return []
    test = nodes[condition["node"]]
    bound, compared = test["arguments"].get("other"), test["arguments"].get("self")
    negation = {"gt": "le", "le": "gt", "lt": "ge", "ge": "lt"}
    if test["op"] not in negation or not isinstance(bound, (int, float)) or "node" not in compared:
        return []
    sides = (("self", test["op"]), ("other", negation[test["op"]]))
    return [(branch, relation, float(bound)) for branch, relation in sides if arguments[branch] == compared]


def _probed(fact: Fact, step: Step, conventions: Mapping[str, Any]) -> Fact:
    """Autodiff is only trusted at a kink where what it returns was probed and is a Clarke subgradient."""
    if fact.autodiff < 2 or convention_holds(step.op, conventions.get(step.op, ())):
        return fact
    arguments = {
        name: tuple(_clean(item) for item in value) if isinstance(value, tuple) else _clean(value)
        for name, value in step.arguments.items()
    }
    alone = derive(replace(step, arguments=arguments))
    return fact if all(item.autodiff != 2 for item in alone) else fact.but(autodiff=max(fact.autodiff, 3))


def _clean(value: Any) -> Any:
    return value.but(autodiff=0) if isinstance(value, Fact) else value


def _with_cuts(fact: Fact, cut: Any, arguments: Mapping[str, Any]) -> Fact:
    """Autodiff is wrong downstream of a varying tensor that it does not follow."""
    level = fact.autodiff
    for name, reason in cut.items():
        value = arguments[name]
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Fact) and item.varies and fact.varies:
                level = max(level, 3 if item.flat and reason.startswith("detached") else 4)
    return fact.but(autodiff=level)


def _argument(value: Any, facts: Mapping[tuple[int, int], Fact]) -> Any:
    if isinstance(value, dict):
        return _fact_at(value, facts)
    if isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        return tuple(_fact_at(item, facts) if isinstance(item, dict) else None for item in value)
    return value


def _fact_at(reference: Mapping[str, Any], facts: Mapping[tuple[int, int], Fact]) -> Fact:
    if "constant" in reference:
        lo, hi, lo_open, hi_open = reference["constant"]
        bounds = Bounds(
            REALS.lo if lo is None else float(lo), REALS.hi if hi is None else float(hi), bool(lo_open), bool(hi_open)
        )
        return fixed(bounds, bool(reference["extended"]))
    return facts[reference["node"], reference["output"]]


def _allows(fact: Fact, claims: Mapping[str, Any]) -> bool:
    """Whether each claim is no stronger than the fact."""
    if "generators" in claims and not fact.needs <= set(claims["generators"]):
        return False
    if claims.get("degree") is not None and (fact.degree is None or fact.degree > claims["degree"]):
        return False
    if claims.get("piecewise") is False and fact.pieces:
        return False
    if "smooth" in claims and fact.smooth < claims["smooth"]:
        return False
    if "autodiff" in claims and fact.autodiff > claims["autodiff"]:
        return False
    if claims.get("total") and (not fact.total or fact.masked):
        return False
    if claims.get("lower") is not None and not fact.bounds.lo >= claims["lower"]:
        return False
    if claims.get("upper") is not None and not fact.bounds.hi <= claims["upper"]:
        return False
    shape = claims.get("shape", "")
    if shape and fact.shape not in ("affine", shape):
        return False
    return claims.get("homogeneous") is None or fact.power == claims["homogeneous"]
