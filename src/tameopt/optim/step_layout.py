"""The buckets of a step and what they were built from: is everything still where it was?

Every step asks this of every parameter, so the questions are put with `map` and functions written in C: a Python
expression for each of a thousand tensors would cost more than the step itself.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.optim.layout import match_strides
from tameopt.optim.plan import Bucket, FlagItems, dense, real_view

_dtype = operator.attrgetter("dtype")
_grad = operator.attrgetter("grad")


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

    def __post_init__(self) -> None:
        self.dtypes = [None if kind is None else kind[0] for kind in self.kinds]
        self.all_strided = not any(kind is not None and kind[1] for kind in self.kinds)


@dataclass(frozen=True)
class Gradients:
    """Gradients, of a whole step or of one bucket's units.

    tensors: None where there is none; some_missing: whether that occurs; addresses: of their elements, 0 where there
    is none; None when one of them has no memory of its own (a sparse tensor, a wrapper such as DTensor).
    """

    tensors: list[torch.Tensor | None]
    some_missing: bool
    addresses: list[int] | None

    @property
    def present(self) -> np.ndarray[Any, Any] | None:
        """(n,) bool, None when all are there."""
        return np.array([g is not None for g in self.tensors]) if self.some_missing else None


def gathered(parameters: Sequence[torch.Tensor]) -> Gradients:
    """The gradients of all parameters."""
    return _gradients(list(map(_grad, parameters)))


def gradients_of(bucket: Bucket, gradients: Gradients) -> Gradients:
    """The gradients of a bucket as its engine wants them."""
    if not bucket.signature.plain:
        keep_rows = bucket.signature.sparse
        here = [gradients.tensors[index] for index in bucket.indices]
        return _gradients([None if g is None else real_view(g if keep_rows else dense(g)) for g in here])
    if len(bucket.units) == len(gradients.tensors):
        return gradients
    chosen = operator.itemgetter(*bucket.indices) if len(bucket.indices) > 1 else None
    if chosen is None or gradients.addresses is None:
        return _gradients([gradients.tensors[index] for index in bucket.indices])
    here = list(chosen(gradients.tensors))
    return Gradients(here, gradients.some_missing and _some_missing(here), list(chosen(gradients.addresses)))


def _gradients(tensors: list[torch.Tensor | None]) -> Gradients:
    missing = _some_missing(tensors)
    try:
        if missing:
            addresses = [0 if g is None else g.data_ptr() for g in tensors]
        else:
            addresses = list(map(torch.Tensor.data_ptr, tensors))  # type: ignore[arg-type]
    except RuntimeError:  # what is sparse or wrapped has no elements of its own in memory
        return Gradients(tensors, missing, None)
    return Gradients(tensors, missing, addresses)


def _some_missing(gradients: list[torch.Tensor | None]) -> bool:
    return any(map(operator.is_, gradients, itertools.repeat(None)))


def is_plain(parameter: torch.Tensor) -> bool:
    """Whether engines may take the tensor and its gradients as they are: real, and no wrapper such as DTensor."""
    return type(parameter) in (torch.nn.Parameter, torch.Tensor) and not parameter.is_complex()


def addresses_of(parameters: list[torch.Tensor]) -> list[int]:
    """Where each parameter's (local) elements lie."""
    try:
        return list(map(torch.Tensor.data_ptr, parameters))
    except RuntimeError:  # a wrapper such as DTensor has none of its own
        return [real_view(p.detach()).data_ptr() for p in parameters]


def still_holds(
    layout: StepLayout,
    parameters: list[torch.Tensor],
    gradients: Gradients,
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
    tensors = gradients.tensors
    if gradients.some_missing or gradients.addresses is None or not layout.all_strided:
        for gradient, kind in zip(tensors, layout.kinds, strict=True):
            if gradient is not None and (gradient.dtype, gradient.is_sparse) != kind:
                return False
    elif list(map(_dtype, tensors)) != layout.dtypes:
        return False
    try:
        return all(
            all(map(operator.is_, map(operator.itemgetter(name), keepers), owned))
            for name, keepers, owned in layout.owned
        )
    except KeyError:  # somebody took a state away
        return False


def laid_out_alike(bucket: Bucket, gradients: Gradients) -> tuple[list[int], list[torch.Tensor]]:
    """Addresses of the gradients in their parameters' order in memory (0 for none), and the copies this took."""
    tensors, addresses = gradients.tensors, gradients.addresses
    if not gradients.some_missing and addresses is not None and _alike(bucket, tensors):  # type: ignore[arg-type]
        return addresses, []
    found, copies = [], []
    for g, unit in zip(tensors, bucket.units, strict=True):
        if g is not None:
            matched = match_strides(g, unit.theta)
            if matched is not g:
                copies.append(matched)
        found.append(0 if g is None else matched.data_ptr())
    return found, copies


def _alike(bucket: Bucket, tensors: list[torch.Tensor]) -> bool:
    """Whether all gradients have their parameters' strides (or all of both are rows, which is quicker to ask)."""
    if "strides" not in bucket.cache:
        strides = [unit.theta.stride() for unit in bucket.units]
        bucket.cache["strides"] = None if all(unit.theta.is_contiguous() for unit in bucket.units) else strides
    wanted = bucket.cache["strides"]
    if wanted is None:
        return all(map(torch.Tensor.is_contiguous, tensors))
    return list(map(torch.Tensor.stride, tensors)) == wanted
