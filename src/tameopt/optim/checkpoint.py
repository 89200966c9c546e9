"""State that goes out, and state that comes in: is it this optimizer's, and in which dtype was it saved?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tameopt.optim.plan import Bucket, numbers_of
from tameopt.optim.rule import Rule

# what may be kept around any rule (see `modifiers`), and the count that some of that needs
_AROUND = ("step", "average", "master", "compensation")


def check_state(
    rule: Rule, groups: list[dict[str, Any]], name_of: Callable[[int], str], state_dict: Mapping[str, Any]
) -> None:
    """Raise ValueError when a state_dict belongs to another optimizer or to parameters of other shapes.

    groups: the optimizer's parameter groups; name_of: how to call a parameter, by position.
    """
    parameters = [p for group in groups for p in group["params"]]
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    if len(parameters) != len(numbers):
        return  # torch says it
    group_of = [number for number, group in enumerate(groups) for _ in group["params"]]
    for index, (number, parameter) in enumerate(zip(numbers, parameters, strict=True)):
        saved = state_dict["state"].get(number, {})
        options = state_dict["param_groups"][group_of[index]]
        known = {spec.name for spec in rule.states({**groups[group_of[index]], **options})}
        expected = known.union(_AROUND, (scalar.name for scalar in rule.scalars))
        foreign = any(value is not None and name not in expected for name, value in saved.items())
        if foreign and (not known or known - set(saved)):  # an option may add a state, or leave one of its own behind
            raise ValueError(
                f"the state of parameter {name_of(index)} has {', '.join(saved)}, {rule.name} keeps "
                f"{', '.join(sorted(known)) or 'none'}: it belongs to another optimizer."
            )
        for name in sorted(known & set(saved)):
            if saved[name] is not None and saved[name].shape != parameter.shape:
                raise ValueError(
                    f"state {name!r} of parameter {name_of(index)} must have the parameter's shape "
                    f"{tuple(parameter.shape)}, got {tuple(saved[name].shape)}: it belongs to another model."
                )


def restore_dtypes(
    groups: list[dict[str, Any]], state: Mapping[torch.Tensor, dict[str, Any]], state_dict: Mapping[str, Any]
) -> None:
    """Put back the dtypes that torch's load_state_dict changes to the parameter's: a float32 state of a bfloat16
    parameter, a float32 scalar of a float64 one."""
    parameters = [p for group in groups for p in group["params"]]
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state_dict["state"].get(number, {}).items():
            kept = state[parameter].get(name)
            if isinstance(value, torch.Tensor) and kept is not None and kept.dtype != value.dtype:
                state[parameter][name] = value.to(device=kept.device)


def with_counts_at_home(
    state_dict: dict[str, Any], buckets: Sequence[Bucket], groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A state_dict whose counts lie on the host, where torch expects them unless a group is `capturable` or `fused`.

    An engine may keep them on its device. One transfer brings all of them.
    """
    at_home: set[int] = set()  # which of the saved tensors to bring home, by identity
    for bucket in buckets:
        for unit in bucket.units:
            group = groups[unit.group]
            if not (group.get("capturable") or group.get("fused")):
                at_home.update(id(unit.kept[name]) for name in bucket.counts if name in unit.kept)
    moved = [
        (number, name, value)
        for number, saved in state_dict["state"].items()
        if isinstance(saved, dict)
        for name, value in saved.items()
        if id(value) in at_home and value.device.type != "cpu"
    ]
    if not moved:
        return state_dict
    copies = {number: dict(saved) for number, saved in state_dict["state"].items()}
    for (number, name, value), home in zip(moved, numbers_of([value for _, _, value in moved]), strict=True):
        copies[number][name] = torch.tensor(home, dtype=value.dtype)
    return {**state_dict, "state": copies}
