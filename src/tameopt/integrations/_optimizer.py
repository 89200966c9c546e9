"""The optimizer that a person trains with, as the record needs it."""

from __future__ import annotations

from typing import Any

import torch


def arguments_of(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group that JSON can hold."""
    return {
        key: value if isinstance(value, (bool, int, float, str, type(None))) else list(value)
        for key, value in group.items()
        if key not in ("params", "param_names")
        and (
            isinstance(value, (bool, int, float, str, type(None)))
            or (isinstance(value, (tuple, list)) and all(isinstance(part, (int, float)) for part in value))
        )
    }


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside the wrappers of Accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return optimizer
