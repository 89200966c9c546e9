"""The optimizer that a person trains with, as the record needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def arguments_of(group: dict[str, Any], names: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The settings of a parameter group that JSON can hold; names: those of its parameters, by their ids."""
    settings: dict[str, Any] = {
        key: value if isinstance(value, (bool, int, float, str, type(None))) else list(value)
        for key, value in group.items()
        if key not in ("params", "param_names")
        and (
            isinstance(value, (bool, int, float, str, type(None)))
            or (isinstance(value, (tuple, list)) and all(isinstance(part, (int, float)) for part in value))
        )
    }
    if isinstance(options := group.get("options"), dict):
        settings["options"] = {key: value for key, value in options.items() if isinstance(value, (bool, int, float))}
    if names is not None:
        settings["parameters"] = [names.get(id(parameter), "") for parameter in group["params"]]
    return settings


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside the wrappers of Accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return optimizer
