"""What every optimizer of tameopt takes beyond torch's own arguments, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import torch

from tameopt.optim import checks, engines

LOW_PRECISION = ("nearest", "kahan", "master", "stochastic")
Parameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]
Closure = Callable[[], Any]


class Extras(TypedDict, total=False):
    """What tameopt's optimizers take beyond torch's arguments.

    engine: "auto" (default), or one of `tameopt.optim.engines.NAMES`; clip_norm: gradients are scaled so that the
    norm of all together is at most this, as `torch.nn.utils.clip_grad_norm_` does, but `.grad` is not written to;
    clip_each: the same for each parameter's norm; clip_value: each element is moved into [-clip_value, clip_value];
    state_dtype: dtype of the states (default: the parameter's); low_precision: how 16-bit parameters are stored,
    "nearest" (default), "kahan", "master" or "stochastic", see `Modifiers`.
    """

    engine: str
    clip_norm: float
    clip_each: float
    clip_value: float
    state_dtype: torch.dtype
    low_precision: str


_NOT_HYPERPARAMETERS = ("self", "params", "learning_rate", "extras", "common", "__class__")


def hyperparameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's hyperparameters, from its `locals()`.

    >>> hyperparameters({"self": None, "params": [], "lr": 0.1, "extras": {}})
    {'lr': 0.1}
    """
    return {name: value for name, value in arguments.items() if name not in _NOT_HYPERPARAMETERS}


def checked_extras(extras: Mapping[str, Any], allowed: tuple[str, ...] = ("auto", *engines.NAMES)) -> dict[str, Any]:
    """tameopt's own arguments, checked.

    Raises TypeError for an unknown one, ValueError for an engine that is not allowed.
    """
    unknown = set(extras) - set(Extras.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown argument {sorted(unknown)[0]!r}: beyond torch's arguments tameopt's optimizers take "
            f"{', '.join(Extras.__annotations__)}."
        )
    engine = extras.get("engine", "auto")
    if engine not in allowed:
        raise ValueError(f"engine must be one of {', '.join(allowed)}, got {engine!r}: choose one of these.")
    checks.in_ranges(extras)
    if "clip_norm" in extras and "clip_each" in extras:
        raise ValueError("only one of clip_norm and clip_each can be set, got both: drop one.")
    if extras.get("low_precision", "nearest") not in LOW_PRECISION:
        raise ValueError(
            f"low_precision must be one of {', '.join(LOW_PRECISION)}, got {extras['low_precision']!r}: choose one."
        )
    state_dtype = extras.get("state_dtype", torch.float32)
    if not (isinstance(state_dtype, torch.dtype) and state_dtype.is_floating_point):
        raise TypeError(f"state_dtype must be a floating-point torch.dtype, got {state_dtype!r}: torch.float32, say.")
    return dict(extras)


def check_parameters(listed: Sequence[Any], held: Sequence[torch.Tensor], differentiable: bool) -> None:
    """Raise ValueError for a parameter listed twice, held by another group already, or computed from others.

    listed: parameters or (name, parameter); torch says what is wrong with anything else. differentiable: whether
    torch allows a parameter that is no leaf.
    """
    places: dict[int, int] = {}
    groups = {id(p) for p in held}
    for place, each in enumerate(listed):
        name, tensor = each if isinstance(each, tuple) and len(each) == 2 else (None, each)
        called = f"parameter number {place}" if name is None else f"parameter {name!r}"
        if not isinstance(tensor, torch.Tensor):
            continue
        before = places.setdefault(id(tensor), place)
        if before != place:
            raise ValueError(f"{called} is parameter number {before} again: list each once.")
        if id(tensor) in groups:
            raise ValueError(
                f"some parameters appear in more than one parameter group: {called} of this one is in another "
                "already. Put it into one of them."
            )
        if not (differentiable or tensor.is_leaf or tensor.retains_grad):
            raise ValueError(
                f"can't optimize a non-leaf Tensor: {called} was computed from others by {tensor.grad_fn}. Pass the "
                "tensor that it comes from, or .detach().requires_grad_() of it."
            )
