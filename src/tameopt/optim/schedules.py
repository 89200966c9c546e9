"""Step-size schedules alpha_k as data: called with k, saved as JSON, read by `noise.step_conditions`.

Every schedule says what alpha_k is for *all* k >= 0, also past the planned end of a run: what the steps do in the
limit is decided from that. Decimals mean what is written: p=0.6 is 3/5; a `fractions.Fraction` is exact too.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

Real = int | float | Fraction


def _require(condition: bool, what: str, got: object, why: str) -> None:
    if not condition:
        raise ValueError(f"{what}, got {got}: {why}.")


def _positive(name: str, number: Real, why: str = "a step size is positive") -> None:
    _require(_finite(number) and number > 0, f"{name} must be > 0 and finite", number, why)


def _at_least(name: str, number: Real, least: int, why: str) -> None:
    _require(_finite(number) and number >= least, f"{name} must be >= {least} and finite", number, why)


def _whole(name: str, number: Real, least: int = 1) -> None:
    _require(
        isinstance(number, int) and not isinstance(number, bool) and number >= least,
        f"{name} must be a whole number >= {least}",
        number,
        "it counts steps",
    )


def _finite(number: Real) -> bool:
    if isinstance(number, bool) or not isinstance(number, (int, float, Fraction)):
        raise TypeError(f"a schedule's numbers must be int, float or Fraction, got {type(number).__name__}.")
    return math.isfinite(number)


def _short(number: Real) -> str:
    if isinstance(number, Fraction) and Fraction(repr(float(number))) != number:
        return f"({number})"
    return str(number) if isinstance(number, int) else f"{float(number):.12g}"


@dataclass(frozen=True)
class Schedule(ABC):
    """alpha_k for k = 0, 1, 2, …; a subclass says how and defines `__str__` for people."""

    kind: ClassVar[str] = ""

    def __call__(self, k: int) -> float:
        """alpha_k, float64. Raises ValueError for k < 0."""
        _require(k >= 0, "k must be >= 0", k, "steps are counted from 0")
        return float(self._at(int(k)))

    @abstractmethod
    def _at(self, k: int) -> float: ...

    def alphas(self, num_steps: int) -> np.ndarray:
        """(num_steps,) float64: alpha_0, …, alpha_{num_steps-1}.

        >>> Power(1.0, 1).alphas(3)
        array([1.        , 0.5       , 0.33333333])
        """
        return np.array([self(k) for k in range(num_steps)])

    def times(self, num_steps: int) -> np.ndarray:
        """(num_steps + 1,) float64: tau_0 = 0 and tau_k = alpha_0 + … + alpha_{k-1}, the times of the ODE method."""
        return np.concatenate([[0.0], np.cumsum(self.alphas(num_steps))])

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back to an equal schedule."""
        return {"kind": self.kind, **{field.name: _plain(getattr(self, field.name)) for field in fields(self)}}


def _plain(entry: Any) -> Any:
    if isinstance(entry, Schedule):
        return entry.to_json()
    if isinstance(entry, Fraction):
        return str(entry)
    if isinstance(entry, tuple):
        return [_plain(part) for part in entry]
    return entry


def _revived(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return from_json(entry)
    if isinstance(entry, str):
        return Fraction(entry)
    if isinstance(entry, (list, tuple)):
        return tuple(_revived(part) for part in entry)
    return entry


@dataclass(frozen=True)
class Constant(Schedule):
    """alpha_k = a.

    >>> Constant(0.05)(1_000)
    0.05
    """

    a: Real
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        _positive("a", self.a)

    def _at(self, k: int) -> float:
        return float(self.a)

    def __str__(self) -> str:
        return f"constant {_short(self.a)}"


@dataclass(frozen=True)
class Power(Schedule):
    """alpha_k = a / (k + shift)^p, p >= 0.

    >>> Power(1.0, Fraction(1, 2))(3)
    0.5
    """

    a: Real
    p: Real
    shift: Real = 1
    kind: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        _positive("a", self.a)
        _at_least("p", self.p, 0, "steps that grow without bound follow no schedule of the theory")
        _positive("shift", self.shift, "the first step divides by shift^p")

    def _at(self, k: int) -> float:
        return float(self.a) * float(k + self.shift) ** -float(self.p)

    def __str__(self) -> str:
        return f"{_short(self.a)} / (k+{_short(self.shift)})^{_short(self.p)}"


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up to a, half a cosine down to a_min at k = steps, then a_min for ever.

    alpha_k = a (k+1) / warmup for k < warmup; a_min + (a - a_min) (1 + cos(pi (k - warmup)/(steps - warmup))) / 2
    for warmup <= k <= steps. With a_min = 0 the steps past the end are 0.

    >>> Cosine(0.1, steps=100, warmup=10)(9)
    0.1
    """

    a: Real
    steps: int
    warmup: int = 0
    a_min: Real = 0
    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        _positive("a", self.a)
        _whole("steps", self.steps)
        _whole("warmup", self.warmup, 0)
        _require(
            self.warmup < self.steps, "warmup must be < steps", f"{self.warmup} of {self.steps}", "it ends first"
        )
        _at_least("a_min", self.a_min, 0, "a step size is never negative")
        _require(self.a_min <= self.a, "a_min must be <= a", f"{self.a_min} > {self.a}", "the cosine comes down")

    def _at(self, k: int) -> float:
        if k < self.warmup:
            return float(self.a) * (k + 1) / self.warmup
        if k >= self.steps:
            return float(self.a_min)
        share = (k - self.warmup) / (self.steps - self.warmup)
        return float(self.a_min) + float(self.a - self.a_min) * 0.5 * (1.0 + math.cos(math.pi * share))

    def __str__(self) -> str:
        warm = f", warm-up {self.warmup:,}" if self.warmup else ""
        return f"cosine from {_short(self.a)} to {_short(self.a_min)} in {self.steps:,} steps{warm}"


_KINDS: dict[str, type[Schedule]] = {entry.kind: entry for entry in (Constant, Power, Cosine)}


def kinds() -> tuple[str, ...]:
    """The kinds of schedule, as `parse` and `from_json` name them."""
    return tuple(_KINDS)


def from_json(data: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_json` saved.

    Raises ValueError for an unknown kind, missing or unknown fields.

    >>> from_json(Power(0.1, 0.75).to_json()) == Power(0.1, 0.75)
    True
    """
    kind = _kind(data.get("kind"))
    given = {name: _revived(entry) for name, entry in data.items() if name != "kind"}
    try:
        return kind(**given)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(kind))
        raise ValueError(f"a {kind.kind!r} schedule has the fields {known}, got {sorted(given)}: {error}.") from error


def _kind(name: object) -> type[Schedule]:
    if name in _KINDS:
        return _KINDS[str(name)]
    near = difflib.get_close_matches(str(name), _KINDS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"a schedule must be one of {', '.join(_KINDS)}, got {name!r}.{hint}")


def parse(text: str, lr: float, steps: int) -> Schedule:
    """The schedule that a command line names: "constant", "power:0.75", "power:p=2/3", "cosine:warmup=100".

    text: a kind of `kinds()`, then after a colon its fields by position or name, except `a` and `steps`.
    lr: the step size `a`. steps: the planned length of the run, for schedules that end.

    Raises ValueError saying which kinds and fields there are.

    >>> str(parse("power:3/4", lr=0.1, steps=6_000))
    '0.1 / (k+1)^0.75'
    """
    name, _, rest = text.strip().partition(":")
    kind = _kind(name.strip().lower())
    declared = [field for field in fields(kind) if field.name not in ("a", "steps")]
    given: dict[str, Any] = {"a": lr}
    if any(field.name == "steps" for field in fields(kind)):
        given["steps"] = steps
    for position, part in enumerate(filter(None, (part.strip() for part in rest.split(",")))):
        key, equals, number = part.partition("=")
        if not equals:
            key, number = (declared[position].name if position < len(declared) else ""), part
        if key.strip() not in {field.name for field in declared}:
            known = ", ".join(field.name for field in declared) or "none"
            raise ValueError(f"the fields of {kind.kind!r} are {known}, got {part!r} in {text!r}.")
        given[key.strip()] = _number(number.strip(), text)
    try:
        return kind(**given)
    except TypeError as error:
        known = ", ".join(field.name for field in declared)
        raise ValueError(f"a {kind.kind!r} schedule needs {known}, got {text!r}: {error}.") from error


def _number(digits: str, text: str) -> Real:
    try:
        number = Fraction(digits)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"a schedule's fields must be numbers, got {digits!r} in {text!r}.") from error
    return int(number) if number.denominator == 1 else number
