"""The checker of step-size certificates: exact rationals, the schedule's plain data, nothing else.

A certificate claims that a schedule (its JSON) has, or has not, one of the summability properties of stochastic
approximation, from bounds alpha_k <= upper s(k) g^floor(k/m) and alpha_k >= lower s(k), s(k) = (k+1)^-p log(k+e)^-r.
`check` derives bounds of its own from the schedule, accepts the claimed ones only when they follow, and then
applies Bertrand's criterion: sum s(k)^w is finite iff p w > 1, or p w = 1 and r w > 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any


def _rational(number: Any) -> Fraction:
    """A JSON number as the decimal it is written with, a JSON string as a fraction."""
    if isinstance(number, bool) or not isinstance(number, (int, float, str)):
        raise ValueError(f"a number of a schedule must be int, float or 'p/q', got {number!r}.")
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


@dataclass(frozen=True)
class _Bounds:
    upper: Fraction
    lower: Fraction | None
    p: Fraction = Fraction(0)
    r: Fraction = Fraction(0)
    start: int = 0
    every: int = 1
    shrinks: bool = False
    positive: bool = True


def _check_positive(*numbers: Fraction) -> None:
    if any(number <= 0 for number in numbers):
        raise ValueError(f"the numbers of this schedule must be > 0, got {[str(number) for number in numbers]}.")


def _constant(data: Mapping[str, Any]) -> _Bounds:
    a = _rational(data["a"])
    _check_positive(a)
    return _Bounds(a, a)


def _power(data: Mapping[str, Any]) -> _Bounds:
    a, p, shift = _rational(data["a"]), _rational(data["p"]), _rational(data.get("shift", 1))
    _check_positive(a, shift)
    if p < 0:
        raise ValueError(f"p must be >= 0, got {p}.")
    # (k + shift)/(k + 1) lies between min(1, shift) and max(1, shift); raising to p <= ceil(p) keeps the order
    small, large = min(shift, Fraction(1)), max(shift, Fraction(1))
    return _Bounds(a * (1 / small) ** ceil(p), a * (1 / large) ** ceil(p), p)


def _held(level: Fraction, start: int) -> _Bounds:
    if level < 0 or start < 0:
        raise ValueError(f"a step and its number must be >= 0, got {level} from {start}.")
    return _Bounds(level, level or None, start=start, positive=level > 0)


def _cosine(data: Mapping[str, Any]) -> _Bounds:
    _check_positive(_rational(data["a"]))
    return _held(_rational(data.get("a_min", 0)), int(data["steps"]))


_RULES: dict[str, Callable[[Mapping[str, Any]], _Bounds]] = {
    "constant": _constant,
    "power": _power,
    "cosine": _cosine,
}


def _bounds(data: Mapping[str, Any]) -> _Bounds:
    rule = _RULES.get(str(data.get("kind")))
    if rule is None:
        raise ValueError(f"no bounds are known for a schedule of kind {data.get('kind')!r}.")
    return rule(data)


def _follow(claimed: Mapping[str, Any], own: _Bounds) -> bool:
    """Whether the claimed bounds follow from our own: no sharper, on no more steps."""
    shrinks = claimed["shrink"] is not None
    if shrinks and not (0 < _rational(claimed["shrink"][0]) < 1 and own.shrinks):
        return False
    same = _rational(claimed["p"]) == own.p and _rational(claimed["r"]) == own.r
    upper = _rational(claimed["upper"]) >= own.upper
    lower = claimed["lower"] is None or (
        own.lower is not None and 0 < _rational(claimed["lower"]) <= own.lower and int(claimed["every"]) == own.every
    )
    return (
        same and upper and lower and int(claimed["start"]) >= own.start and bool(claimed["positive"]) <= own.positive
    )


def _finite(bounds: _Bounds, weight: Fraction) -> bool:
    """sum alpha_k^weight < inf follows from the upper bound."""
    p, r = bounds.p * weight, bounds.r * weight
    return bounds.upper == 0 or bounds.shrinks or p > 1 or (p == 1 and r > 1)


def _infinite(bounds: _Bounds, weight: Fraction) -> bool:
    """sum alpha_k^weight = inf follows from the lower bound."""
    if bounds.lower is None:
        return False
    p, r = bounds.p * weight, bounds.r * weight
    if bounds.every == 0:  # only infinitely many terms are bounded below: enough when they do not shrink
        return p == 0 and r <= 0
    return p < 1 or (p == 1 and r <= 1)


def _vanishes(bounds: _Bounds) -> bool:
    return bounds.upper == 0 or bounds.shrinks or bounds.p > 0 or (bounds.p == 0 and bounds.r > 0)


def _stays(bounds: _Bounds) -> bool:
    return bounds.lower is not None and bounds.p == 0 and bounds.r <= 0


def _subgaussian(bounds: _Bounds) -> bool:
    # alpha_k <= C k^-p log^-r: exp(-c/alpha_k) <= exp(-(c/C) k^p log^r), summable for every c when p > 0, and
    # when p = 0 with r > 1, where log(k)^r outgrows every multiple of log(k)
    return bounds.upper == 0 or bounds.shrinks or bounds.p > 0 or (bounds.p == 0 and bounds.r > 1)


def _not_subgaussian(bounds: _Bounds) -> bool:
    # alpha_k >= C log(k+e)^-r with r <= 1: with c = C a term is at least 1/(k+e)
    if bounds.lower is None or bounds.p != 0:
        return False
    return bounds.r <= 0 if bounds.every == 0 else bounds.r <= 1


def check(data: Mapping[str, Any]) -> bool:
    """Whether the certificate holds.

    data: {"claim", "holds", "weight" (of sum alpha^weight), "schedule": its JSON, "tail": the claimed bounds}.

    Raises ValueError when `data` is not such a certificate.
    """
    try:
        claim, holds, schedule, tail = data["claim"], data["holds"], data["schedule"], data["tail"]
        own = _bounds(schedule)
        if not _follow(tail, own):
            return False
        bounds = _Bounds(
            _rational(tail["upper"]),
            None if tail["lower"] is None else _rational(tail["lower"]),
            own.p,
            own.r,
            int(tail["start"]),
            int(tail["every"]),
            tail["shrink"] is not None,
            bool(tail["positive"]),
        )
        weight = _rational(data.get("weight", 1))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a certificate of step sizes: {error!r}.") from error
    if claim == "step.sum_diverges":
        return weight == 1 and (_infinite(bounds, weight) if holds else _finite(bounds, weight))
    if claim in ("step.square_summable", "step.moment_summable"):
        if weight <= 1 or (claim == "step.square_summable" and weight != 2):
            return False
        return _finite(bounds, weight) if holds else _infinite(bounds, weight)
    if claim == "step.subgaussian":
        return _subgaussian(bounds) if holds else _not_subgaussian(bounds)
    if claim == "step.vanishes":
        return _vanishes(bounds) if holds else _stays(bounds)
    if claim == "step.positive":
        return bounds.positive if holds else bounds.upper == 0
    if claim == "step.constant":
        return bool(holds) and _is_constant(schedule)
    raise ValueError(f"a certificate of step sizes cannot claim {claim!r}.")


def _is_constant(schedule: Mapping[str, Any]) -> bool:
    kind = schedule["kind"]
    return kind == "constant" or (kind == "power" and _rational(schedule["p"]) == 0)
