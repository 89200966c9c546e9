"""One recorded call, as the checker reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tameopt.structure.checker._fact import INF, REALS, Bounds, Fact, Reject, fixed


@dataclass(frozen=True)
class Step:
    """One recorded call: arguments (facts or plain data), shapes of tensor arguments, of outputs, dtypes."""

    op: str
    arguments: Mapping[str, Any]
    shapes: Mapping[str, Any]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    types: Mapping[str, Any]

    def fact(self, name: str) -> Fact:
        """A tensor or number argument."""
        found = self.arguments.get(name)
        if isinstance(found, Fact):
            return found
        x = self.number(name)
        if x == -INF:
            return fixed(REALS, True)
        if not math.isfinite(x):
            raise Reject(f"{self.op}: {name} = {x}")
        return fixed(Bounds(x, x))

    def number(self, name: str, default: float | None = None) -> float:
        found = self.arguments.get(name)
        if found is None and default is not None:
            return default
        if isinstance(found, (int, float, str)):
            return float(found)
        raise Reject(f"{self.op}: the argument {name!r} is missing")

    def has(self, name: str) -> bool:
        return isinstance(self.arguments.get(name), Fact)

    @property
    def names(self) -> list[str]:
        return [name for name, value in self.arguments.items() if isinstance(value, Fact)]

    @property
    def facts(self) -> list[Fact]:
        found: list[Fact] = []
        for value in self.arguments.values():
            if isinstance(value, Fact):
                found.append(value)
            elif isinstance(value, tuple):
                found.extend(item for item in value if isinstance(item, Fact))
        return found

    def per_output(self) -> int:
        """How many elements of the first argument go into one element of the result."""
        size = math.prod(self.outputs[0])
        if size == 0:
            raise Reject(f"{self.op} of an empty tensor")
        return math.prod(self.shapes[self.names[0]]) // size

    def constant(self, *names: str) -> None:
        for name in names:
            value = self.arguments.get(name)
            items = value if isinstance(value, tuple) else (value,)
            if any(isinstance(item, Fact) and item.varies for item in items):
                raise Reject(f"{self.op}: {name} depends on theta")
