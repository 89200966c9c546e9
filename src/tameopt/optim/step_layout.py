"""The buckets of a step and what they were built from: is everything still where it was?"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.optim.plan import Bucket, FlagItems, dense, real_view


@dataclass
class StepLayout:
    """The buckets of a step and what they were built from; built anew when any of it changes."""

    buckets: list[Bucket]
    parameters: list[torch.Tensor]
    addresses: list[int]
    flags: list[FlagItems]
    kinds: list[tuple[torch.dtype, bool] | None]  # dtype and sparsity of each gradient, None if there was none yet
    owner: Any  # the optimizer's state, by identity
    owned: list[
        tuple[str, list[dict[str, torch.Tensor]], list[torch.Tensor]]
    ]  # (name, where it is kept, what was there)


def gradients_of(
    bucket: Bucket, gradients: list[torch.Tensor | None]
) -> tuple[list[torch.Tensor | None], np.ndarray[Any, Any] | None]:
    """The gradients of a bucket as its engine wants them, and which there are (None: all)."""
    whole = len(bucket.units) == len(gradients)
    here = gradients if whole else [gradients[index] for index in bucket.indices]
    present = np.array([g is not None for g in here]) if _some_missing(here) else None
    if bucket.signature.plain:
        return here, present
    keep_rows = bucket.signature.sparse
    return [None if g is None else real_view(g if keep_rows else dense(g)) for g in here], present


def _some_missing(gradients: list[torch.Tensor | None]) -> bool:
    return any(map(operator.is_, gradients, itertools.repeat(None)))  # at the speed of C: a step calls it for all


def is_plain(parameter: torch.Tensor) -> bool:
    """Whether engines may take the tensor and its gradients as they are: real, and no wrapper such as DTensor."""
    return type(parameter) in (torch.nn.Parameter, torch.Tensor) and not parameter.is_complex()


def addresses_of(parameters: list[torch.Tensor]) -> list[int]:
    """Where each parameter's (local) elements lie."""
    try:
        return [p.data_ptr() for p in parameters]
    except RuntimeError:  # a wrapper such as DTensor has none of its own
        return [real_view(p.detach()).data_ptr() for p in parameters]


def still_holds(
    layout: StepLayout,
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor | None],
    flags: list[FlagItems],
    state: Any,
) -> bool:
    """Whether everything that the layout was built from is as it was.

    `.grad` may be a new tensor at every step, `.data` may be swapped, a parameter may get its first gradient late,
    and people put tensors into the state by hand: each is noticed here.
    """
    if layout.owner is not state or len(layout.parameters) != len(parameters) or layout.flags != flags:
        return False
    if not all(map(operator.is_, layout.parameters, parameters)) or layout.addresses != addresses_of(parameters):
        return False
    if _some_missing(gradients):
        for gradient, kind in zip(gradients, layout.kinds, strict=True):
            if gradient is not None and (gradient.dtype, gradient.is_sparse) != kind:
                return False
    elif [(g.dtype, g.is_sparse) for g in gradients] != layout.kinds:  # type: ignore[union-attr]
        return False
    return all(
        all(map(operator.is_, [kept.get(name) for kept in keepers], owned)) for name, keepers, owned in layout.owned
    )
