"""Schedules made of schedules: warm-up, chains, products, and recorded tables with a continuation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tameopt.optim.schedule import Schedule, require, require_at_least, require_whole


@dataclass(frozen=True)
class Warmup(Schedule):
    """then(k) min(1, (k+1)/steps): a linear warm-up before any schedule.

    >>> from tameopt.optim.schedules import Constant
    >>> Warmup(Constant(1.0), steps=4)(0)
    0.25
    """

    then: Schedule
    steps: int
    kind: ClassVar[str] = "warmup"

    def __post_init__(self) -> None:
        _require_schedule("then", self.then)
        require_whole("steps", self.steps)

    def _at(self, k: int) -> float:
        return self.then(k) * min(1.0, (k + 1) / self.steps)

    def __str__(self) -> str:
        return f"{self.then}, warm-up {self.steps:,}"


@dataclass(frozen=True)
class Chain(Schedule):
    """Each of `parts` for its number of steps, then `last` for ever; every schedule starts at its own step 0.

    >>> from tameopt.optim.schedules import Constant
    >>> Chain(((10, Constant(1.0)),), Constant(0.1))(10)
    0.1
    """

    parts: tuple[tuple[int, Schedule], ...]
    last: Schedule
    kind: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        for steps, part in self.parts:
            require_whole("the length of a part", steps)
            _require_schedule("a part", part)
        _require_schedule("last", self.last)

    def _at(self, k: int) -> float:
        for steps, part in self.parts:
            if k < steps:
                return part(k)
            k -= steps
        return self.last(k)

    def __str__(self) -> str:
        return ", then ".join([*(f"{steps:,} steps of {part}" for steps, part in self.parts), str(self.last)])


@dataclass(frozen=True)
class Product(Schedule):
    """left(k) right(k).

    >>> from tameopt.optim.schedules import Constant, Power
    >>> Product(Constant(0.5), Power(1.0, 1))(1)
    0.25
    """

    left: Schedule
    right: Schedule
    kind: ClassVar[str] = "product"

    def __post_init__(self) -> None:
        _require_schedule("left", self.left)
        _require_schedule("right", self.right)

    def _at(self, k: int) -> float:
        return self.left(k) * self.right(k)

    def __str__(self) -> str:
        return f"({self.left}) times ({self.right})"


@dataclass(frozen=True)
class Table(Schedule):
    """The numbers `values` for the first steps, then `then` at the same k; without `then` the rest is unknown.

    >>> from tameopt.optim.schedules import Power
    >>> Table((0.3, 0.2), then=Power(1.0, 1))(4)
    0.2
    """

    values: tuple[float, ...]
    then: Schedule | None = None
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        require(len(self.values) > 0, "values must hold at least one step size", 0, "a table has entries")
        for number in self.values:
            require_at_least("a step size", number, 0, "a step size is never negative")
        if self.then is not None:
            _require_schedule("then", self.then)

    def _at(self, k: int) -> float:
        if k < len(self.values):
            return float(self.values[k])
        require(
            self.then is not None,
            f"k must be < {len(self.values)}, the table's length",
            k,
            "it does not say how it goes on",
        )
        assert self.then is not None
        return self.then(k)

    def __str__(self) -> str:
        rest = "unknown after them" if self.then is None else f"then {self.then}"
        return f"a table of {len(self.values):,} steps, {rest}"


def _require_schedule(name: str, entry: object) -> None:
    if not isinstance(entry, Schedule):
        raise TypeError(f"{name} must be a schedule, got {type(entry).__name__}: tame.schedules.Constant(a), say.")
