"""Checks of hyperparameters at the boundary: torch's conditions, in words that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
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


_WHAT_TO_DO = {
    ">= 0": "choose a value that is not negative.",
    "> 0": "choose a positive value.",
    "<= 0": "-0.5 divides by the root of the sum.",
    "[0, 1]": "it is the decay rate of an average.",
    "[0, 1)": "it is the decay rate of an average.",
}

# The range of a hyperparameter by its name, torch's conditions and Keras'; an optimizer names those of its own.
RANGES: Mapping[str, str] = {
    **dict.fromkeys(("lr", "lr_decay", "eps", "weight_decay", "momentum", "momentum_decay", "alpha"), ">= 0"),
    **dict.fromkeys(("initial_accumulator_value", "l1", "l2", "l2_shrinkage", "beta"), ">= 0"),
    **dict.fromkeys(("learning_rate", "epsilon"), ">= 0"),
    **{f"{kind}_regularization_strength": ">= 0" for kind in ("l1", "l2", "l2_shrinkage")},
    **dict.fromkeys(("clip_norm", "clip_each", "clip_value"), "> 0"),
    **dict.fromkeys(("lr_power", "learning_rate_power"), "<= 0"),
    **dict.fromkeys(("rho", "ema_momentum"), "[0, 1]"),
    **dict.fromkeys(("betas", "beta_1", "beta_2"), "[0, 1)"),
}


def in_ranges(hyperparameters: Mapping[str, Any], own: Mapping[str, str] = MappingProxyType({})) -> None:
    """Each hyperparameter must lie in its range, of a pair both numbers.

    own: ranges by name that replace the usual ones, "any" for none. Raises ValueError or TypeError.

    >>> in_ranges({"eps": -1.0})
    Traceback (most recent call last):
    ValueError: eps must be >= 0, got -1.0: choose a value that is not negative.
    """
    for name, value in hyperparameters.items():
        allowed = own.get(name, RANGES.get(name, "any"))
        if name == "betas":
            rates = tuple(value)
            if len(rates) != 2:
                raise ValueError(f"betas must be a pair (beta1, beta2), got {len(rates)} values: pass both.")
            for place, rate in enumerate(rates):
                in_range(f"betas[{place}]", rate, allowed)
        elif allowed != "any":
            in_range(name, value, allowed)


def in_range(name: str, value: Any, allowed: str) -> None:
    """A number must lie in a range: one of ">= 0", "> 0", "<= 0", "[0, 1]", "[0, 1)"."""
    scalar(name, value)
    inside = {
        ">= 0": value >= 0,
        "> 0": value > 0,
        "<= 0": value <= 0,
        "[0, 1]": 0 <= value <= 1,
        "[0, 1)": 0 <= value < 1,
    }[allowed]
    if not inside:
        where = allowed if allowed.endswith("0") else f"in {allowed}"
        raise ValueError(f"{name} must be {where}, got {float(value)}: {_WHAT_TO_DO[allowed]}")
