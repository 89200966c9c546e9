"""One recorded call of an operator, as the rules read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tameopt.structure.tame import ALMOST_EVERYWHERE, DISCONTINUOUS
from tameopt.structure.value import Value, join


class NoRuleError(Exception):
    """The call is outside what the operator's row covers; the message says how."""


@dataclass(frozen=True)
class Call:
    """A recorded call.

    arguments: by the names of the operator's schema, every default filled in; a tensor is given by its Value, a
        list of tensors by a tuple of Values, the rest by plain data ("inf", "-inf", "nan" for those numbers).
    shapes: of the tensor arguments, by name (of every tensor, for a list). types: dtypes of the tensor arguments
        that are not floating. outputs: shapes; dtypes: of the outputs.
    """

    name: str
    arguments: Mapping[str, Any]
    shapes: Mapping[str, Any]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    types: Mapping[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> Value:
        """The tensor argument of that name."""
        found = self.arguments.get(name)
        if not isinstance(found, Value):
            raise NoRuleError(f"the argument {name!r} of {self.name} is not a tensor")
        return found

    def maybe(self, name: str) -> Value | None:
        """The tensor argument of that name, or None."""
        found = self.arguments.get(name)
        return found if isinstance(found, Value) else None

    def number(self, name: str, default: float = 0.0) -> float:
        """The number given for an argument (its default when it is absent or None)."""
        found = self.arguments.get(name)
        if found is None:
            return default
        if isinstance(found, str):
            return float(found)
        if isinstance(found, (int, float)):
            return float(found)
        raise NoRuleError(f"the argument {name!r} of {self.name} is not a number")

    @property
    def tensors(self) -> list[Value]:
        """Every tensor argument, in order."""
        found: list[Value] = []
        for argument in self.arguments.values():
            if isinstance(argument, Value):
                found.append(argument)
            elif isinstance(argument, (tuple, list)):
                found.extend(item for item in argument if isinstance(item, Value))
        return found

    def size(self, name: str) -> int:
        """The number of elements of a tensor argument."""
        return math.prod(self.shapes[name])

    @property
    def output_size(self) -> int:
        return math.prod(self.outputs[0])

    def require_constant(self, names: Sequence[str]) -> None:
        """Refuse the call when one of these arguments depends on theta."""
        for name in names:
            found = self.maybe(name)
            if found is not None and found.varies:
                raise NoRuleError(f"the argument {name!r} of {self.name} depends on theta")


def selected_by(base: Value, index: Value) -> Value:
    """`base` with elements chosen by an index or mask that may depend on theta: then the choice may jump."""
    if not index.varies:
        return base
    both = join([base, index])
    return base.but(
        varies=True,
        generators=both.generators,
        degree=None if both.degree is None or base.degree is None else base.degree,
        piecewise=True,
        smooth=DISCONTINUOUS,
        autodiff=max(both.autodiff, ALMOST_EVERYWHERE),
        total=both.total,
        shape="",
        homogeneous=base.homogeneous if index.homogeneous == 0 else None,
        flat=base.flat and index.flat,
    )
