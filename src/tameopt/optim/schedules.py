"""Step-size schedules alpha_k as data: called with k, saved as JSON, read by `noise.step_conditions`.

Every schedule says what alpha_k is for *all* k >= 0, also past the planned end of a run: what the steps do in the
limit is decided from that. Decimals mean what is written: p=0.6 is 3/5; a `fractions.Fraction` is exact too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any

from tameopt.optim.schedule import Real, Schedule
from tameopt.optim.schedule_compositions import Chain, Product, Table, Warmup
from tameopt.optim.schedule_shapes import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Power,
    PowerLog,
    Step,
)

__all__ = [
    "Chain", "Constant", "Cosine", "CosineRestarts", "Exponential", "Linear", "MultiStep", "OneCycle", "Polynomial",
    "Power", "PowerLog", "Product", "Real", "Schedule", "Step", "Table", "Warmup", "from_json", "kinds", "parse",
]  # fmt: skip

_KINDS: dict[str, type[Schedule]] = {
    entry.kind: entry
    for entry in (
        Constant, Power, PowerLog, Step, MultiStep, Exponential, Linear, Polynomial, Cosine, CosineRestarts, OneCycle,
        Warmup, Chain, Product, Table,
    )
}  # fmt: skip


def kinds() -> tuple[str, ...]:
    """The kinds of schedule that `parse` names."""
    return tuple(_BY_NAME)


def _revived(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return from_json(entry)
    if isinstance(entry, str):
        return Fraction(entry)
    if isinstance(entry, (list, tuple)):
        return tuple(_revived(part) for part in entry)
    return entry


def from_json(data: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_json` saved.

    Raises ValueError for an unknown kind, missing or unknown fields.

    >>> from_json(Power(0.1, 0.75).to_json()) == Power(0.1, 0.75)
    True
    """
    kind = _kind(data.get("kind"), _KINDS)
    given = {name: _revived(entry) for name, entry in data.items() if name != "kind"}
    try:
        return kind(**given)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(kind))
        raise ValueError(f"a {kind.kind!r} schedule has the fields {known}, got {sorted(given)}: {error}.") from error


def _kind(name: object, among: Mapping[str, type[Schedule]]) -> type[Schedule]:
    if name in among:
        return among[str(name)]
    near = difflib.get_close_matches(str(name), among, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"a schedule must be one of {', '.join(among)}, got {name!r}.{hint}")


_BY_NAME = {kind.kind: kind for kind in _KINDS.values() if any(field.name == "a" for field in fields(kind))}


def parse(text: str, lr: float, steps: int) -> Schedule:
    """The schedule that a command line names: "constant", "power:0.75", "power:p=2/3", "cosine:warmup=100".

    text: a kind, then after a colon its fields by position or name, except `a` and `steps`; whole numbers joined by
    "+" make a list (multistep:milestones=1000+2000,factor=0.1); "warmup=100" goes with every kind.
    lr: the step size `a`. steps: the planned length of the run, for schedules that end.

    Raises ValueError saying which kinds and fields there are.

    >>> str(parse("power:3/4", lr=0.1, steps=6_000))
    '0.1 / (k+1)^0.75'
    """
    name, _, rest = text.strip().partition(":")
    kind = _kind(name.strip().lower(), _BY_NAME)
    names = [field.name for field in fields(kind) if field.name not in ("a", "steps")]
    given: dict[str, Any] = {"a": lr}
    if any(field.name == "steps" for field in fields(kind)):
        given["steps"] = steps
    warmup: Any = 0
    for position, part in enumerate(filter(None, (part.strip() for part in rest.split(",")))):
        key, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            key, number = (names[position] if position < len(names) else ""), part
        if key == "warmup" and key not in names:
            warmup = _number(number, text)
            continue
        if key not in names:
            raise ValueError(
                f"the fields of {kind.kind!r} are {', '.join(names) or 'none'}, got {part!r} in {text!r}."
            )
        given[key] = (
            tuple(_number(one, text) for one in number.split("+")) if key == "milestones" else _number(number, text)
        )
    try:
        found = kind(**given)
    except TypeError as error:
        raise ValueError(f"a {kind.kind!r} schedule needs {', '.join(names)}, got {text!r}: {error}.") from error
    return Warmup(found, warmup) if warmup else found


def _number(digits: str, text: str) -> Real:
    try:
        number = Fraction(digits)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"a schedule's fields must be numbers, got {digits!r} in {text!r}.") from error
    return int(number) if number.denominator == 1 else number
