"""The checker of step-size certificates: exact rationals, the schedule's plain data, nothing else.

A certificate claims that a schedule (its JSON) has, or has not, one of the summability properties of stochastic
approximation, from bounds alpha_k <= upper s(k) and alpha_k >= lower s(k), s(k) = (k+1)^-p log(k+e)^-r, and from
geometric shrinking, alpha_k <= C s(k) g^floor(k/m).
`check` derives bounds of its own from the schedule, accepts the claimed ones only when they follow, and then
applies Bertrand's criterion: sum s(k)^w is finite iff p w > 1, or p w = 1 and r w > 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
    zero_at: int | None = None


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


def _powerlog(data: Mapping[str, Any]) -> _Bounds:
    a, p, r = (_rational(data[name]) for name in ("a", "p", "r"))
    _check_positive(a)
    if p < 0 or (p == 0 and r < 0):
        raise ValueError(f"the steps must be bounded, got p = {p}, r = {r}.")
    return _Bounds(a, a, p, r)


def _geometric(data: Mapping[str, Any]) -> _Bounds:
    a, factor = _rational(data["a"]), _rational(data["factor"])
    _check_positive(a, factor)
    if factor > 1 or int(data.get("every", 1)) < 1:
        raise ValueError(f"the factor must be <= 1 and its period >= 1, got {factor}.")
    return _Bounds(a, a) if factor == 1 else _Bounds(a, None, shrinks=True)


def _held(level: Fraction, start: int) -> _Bounds:
    if level < 0 or start < 0:
        raise ValueError(f"a step and its number must be >= 0, got {level} from {start}.")
    return _Bounds(level, level or None, start=start, zero_at=None if level else start)


def _down_to(data: Mapping[str, Any]) -> _Bounds:
    _check_positive(_rational(data["a"]))
    return _held(_rational(data.get("a_min", 0)), int(data["steps"]))


def _linear(data: Mapping[str, Any]) -> _Bounds:
    _check_positive(_rational(data["a"]), _rational(data["start_factor"]))
    return _held(_rational(data["a"]) * _rational(data.get("end_factor", 1)), int(data["steps"]))


def _onecycle(data: Mapping[str, Any]) -> _Bounds:
    a, first, second = (_rational(data[name]) for name in ("a", "divisor", "final_divisor"))
    _check_positive(a, first, second)
    return _held(a / (first * second), int(data["steps"]))


def _multistep(data: Mapping[str, Any]) -> _Bounds:
    a, factor, at = _rational(data["a"]), _rational(data["factor"]), [int(k) for k in data["milestones"]]
    _check_positive(a, factor)
    if factor > 1:
        raise ValueError(f"the factor must be <= 1, got {factor}.")
    return _held(a * factor ** len(at), max(at, default=0))


def _restarts(data: Mapping[str, Any]) -> _Bounds:
    a, period, growth = _rational(data["a"]), int(data["period"]), int(data.get("growth", 1))
    _check_positive(a)
    if period < 1 or growth < 1:
        raise ValueError(f"period and growth must be >= 1, got {period} and {growth}.")
    # every restart is at a; within a period the cosine stays above -1
    return _Bounds(a, a, every=period if growth == 1 else 0)


def _warmup(data: Mapping[str, Any]) -> _Bounds:
    return _no_sooner(_bounds(data["then"]), int(data["steps"]))


def _no_sooner(bounds: _Bounds, start: int) -> _Bounds:
    every = max(1, bounds.every)
    late = max(0, start - bounds.start)
    return replace(bounds, start=bounds.start + ((late + every - 1) // every) * every)


def _table(data: Mapping[str, Any]) -> _Bounds:
    values = [_rational(number) for number in data["values"]]
    bounds = _bounds(data["then"])
    zeros = [k for k, number in enumerate(values) if number == 0]
    if any(number < 0 for number in values):
        raise ValueError("the steps of a table must be >= 0.")
    if bounds.zero_at is not None and not zeros:
        if bounds.zero_at >= len(values):
            zeros.append(bounds.zero_at)
        elif bounds.upper == 0:
            zeros.append(max(len(values), bounds.start))
        else:
            raise ValueError("a step that is 0 lies under the table.")
    return replace(_no_sooner(bounds, len(values)), zero_at=min(zeros) if zeros else None)


def _chain(data: Mapping[str, Any]) -> _Bounds:
    zeros, offset = [], 0
    for steps, part in data["parts"]:
        inner = _bounds(part)
        if int(steps) < 1:
            raise ValueError(f"a part must last at least 1 step, got {steps}.")
        if inner.zero_at is not None and inner.zero_at < int(steps):
            zeros.append(offset + inner.zero_at)
        offset += int(steps)
    last = _bounds(data["last"])
    if last.zero_at is not None:
        zeros.append(offset + last.zero_at)
    # for k + 1 >= 2 offset: (k+1)/2 <= k - offset + 1 and log(k+e)/2 <= log(k - offset + e)
    up = ceil(last.p) + max(0, ceil(last.r))
    down = max(0, ceil(-last.r))
    moved = replace(
        last,
        upper=last.upper * 2**up,
        lower=None if last.lower is None else last.lower / 2**down,
        start=last.start + offset,
        zero_at=min(zeros) if zeros else None,
    )
    return _no_sooner(moved, 2 * offset) if up + down > 0 else moved


def _product(data: Mapping[str, Any]) -> _Bounds:
    one, other = _bounds(data["left"]), _bounds(data["right"])
    zeros = [bounds.zero_at for bounds in (one, other) if bounds.zero_at is not None]
    start, every, lower = max(one.start, other.start), 1, None
    if one.lower is not None and other.lower is not None:
        dense = [bounds for bounds in (one, other) if bounds.every == 1]
        sparse = [bounds for bounds in (one, other) if bounds.every != 1]
        in_step = (
            not dense and one.every == other.every > 0 and (one.start - other.start) % one.every == 0
        )  # two progressions with one period that meet
        if dense or in_step:
            lower = one.lower * other.lower
        if lower is not None and sparse:
            every = sparse[0].every
            start = _no_sooner(sparse[0], start).start
    return _Bounds(
        one.upper * other.upper,
        lower,
        one.p + other.p,
        one.r + other.r,
        start,
        every,
        one.shrinks or other.shrinks,
        min(zeros) if zeros else None,
    )


_RULES: dict[str, Callable[[Mapping[str, Any]], _Bounds]] = {
    "constant": _constant,
    "power": _power,
    "powerlog": _powerlog,
    "step": _geometric,
    "exponential": _geometric,
    "multistep": _multistep,
    "linear": _linear,
    "polynomial": _down_to,
    "cosine": _down_to,
    "onecycle": _onecycle,
    "restarts": _restarts,
    "warmup": _warmup,
    "table": _table,
    "chain": _chain,
    "product": _product,
}


def _bounds(data: Mapping[str, Any]) -> _Bounds:
    rule = _RULES.get(str(data["kind"])) if isinstance(data, Mapping) else None
    if rule is None:
        raise ValueError(f"no bounds are known for a schedule of kind {data['kind'] if data else data!r}.")
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
    late = int(claimed["start"]) - own.start
    in_step = late >= 0 and late % max(1, own.every) == 0
    return same and upper and lower and in_step and claimed["zero_at"] == own.zero_at


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
            tail["zero_at"],
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
        return (bounds.zero_at is None) is bool(holds)
    if claim == "step.constant":
        return bool(holds) and own == _Bounds(own.upper, own.upper)
    raise ValueError(f"a certificate of step sizes cannot claim {claim!r}.")
