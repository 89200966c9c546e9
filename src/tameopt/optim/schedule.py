"""What a schedule is, and the checks that every schedule makes of its numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

Real = int | float | Fraction


def require(condition: bool, what: str, got: object, why: str) -> None:
    """Raise ValueError 'what, got …: why.' unless the condition holds."""
    if not condition:
        raise ValueError(f"{what}, got {got}: {why}.")


def require_positive(name: str, number: Real, why: str = "a step size is positive") -> None:
    """Raise ValueError unless the number is finite and > 0."""
    require(is_finite(number) and number > 0, f"{name} must be > 0 and finite", number, why)


def require_at_least(name: str, number: Real, least: int, why: str) -> None:
    """Raise ValueError unless the number is finite and >= least."""
    require(is_finite(number) and number >= least, f"{name} must be >= {least} and finite", number, why)


def require_whole(name: str, number: Real, least: int = 1) -> None:
    """Raise ValueError unless the number is an int >= least."""
    require(
        isinstance(number, int) and not isinstance(number, bool) and number >= least,
        f"{name} must be a whole number >= {least}",
        number,
        "it counts steps",
    )


def is_finite(number: Real) -> bool:
    """Whether a number is finite; TypeError when it is none."""
    if isinstance(number, bool) or not isinstance(number, (int, float, Fraction)):
        raise TypeError(f"a schedule's numbers must be int, float or Fraction, got {type(number).__name__}.")
    return math.isfinite(number)


def short(number: Real) -> str:
    """A number as people write it."""
    if isinstance(number, Fraction) and Fraction(repr(float(number))) != number:
        return f"({number})"
    return str(number) if isinstance(number, int) else f"{float(number):.12g}"


@dataclass(frozen=True)
class Schedule(ABC):
    """alpha_k for k = 0, 1, 2, …; a subclass says how and defines `__str__` for people.

    Decimals mean what is written: 0.6 is 3/5; a Fraction is exact too.
    """

    kind: ClassVar[str] = ""

    def __call__(self, k: int) -> float:
        """alpha_k, float64. Raises ValueError for k < 0."""
        require(k >= 0, "k must be >= 0", k, "steps are counted from 0")
        return float(self._at(int(k)))

    @abstractmethod
    def _at(self, k: int) -> float: ...

    def alphas(self, num_steps: int) -> np.ndarray:
        """(num_steps,) float64: alpha_0, …, alpha_{num_steps-1}.

        >>> from tameopt.optim.schedules import Power
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
