"""Checks of hyperparameters at the boundary: torch's conditions, in words that say what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch


def scalar(name: str, value: Any) -> Any:
    """A number or a one-element tensor, unchanged."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name} as a tensor must have one element, got shape {tuple(value.shape)}: "
                "give each parameter group its own value instead."
            )
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: pass a float.")
    return value


def at_least_zero(**values: Any) -> None:
    """Each value must be >= 0.

    >>> at_least_zero(eps=-1.0)
    Traceback (most recent call last):
    ValueError: eps must be >= 0, got -1.0: choose a value that is not negative.
    """
    for name, value in values.items():
        if not scalar(name, value) >= 0:
            raise ValueError(f"{name} must be >= 0, got {float(value)}: choose a value that is not negative.")


def above_zero(**values: Any) -> None:
    """Each value must be > 0."""
    for name, value in values.items():
        if not scalar(name, value) > 0:
            raise ValueError(f"{name} must be > 0, got {float(value)}: choose a positive value.")


def unit_interval(name: str, value: Any, *, closed: bool = False) -> None:
    """A decay rate must lie in [0, 1), or in [0, 1] when closed."""
    scalar(name, value)
    if not 0.0 <= value <= 1.0 or (not closed and value == 1.0):
        interval = "[0, 1]" if closed else "[0, 1)"
        raise ValueError(f"{name} must be in {interval}, got {float(value)}: it is the decay rate of an average.")


def decay_rates(betas: Iterable[Any]) -> tuple[float, float]:
    """(beta1, beta2), each in [0, 1)."""
    rates = tuple(betas)
    if len(rates) != 2:
        raise ValueError(f"betas must be a pair (beta1, beta2), got {len(rates)} values: pass both.")
    for index, rate in enumerate(rates):
        unit_interval(f"betas[{index}]", rate)
    return rates[0], rates[1]


def finite_number(value: Any) -> float:
    """A hyperparameter (a number or a one-element tensor) as a float."""
    return value.item() if isinstance(value, torch.Tensor) else float(value)


def is_finite(value: float) -> bool:
    """Whether a number is neither infinite nor NaN."""
    return math.isfinite(value)
