"""The buckets of a step and what they were built from: is everything still where it was?

Every step asks this of every parameter. Where it can be had, one compiled call asks it of all (see
`tameopt.optim.inspection`); else the questions are put with `map` and functions written in C: a Python expression for
each of a thousand tensors would cost more than the step itself.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.optim import inspection
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
        self.entries = list(self.owner.items())
        self.counts_owned = False

    def own_counts(self) -> None:
        """Notice from now on who replaces a count, too: an engine may move them at its first step."""
        if self.counts_owned:
            return
        self.counts_owned = True
        self.__dict__.pop("watch", None)
        self.owned += [
            (name, [unit.kept for unit in bucket.units], [unit.kept[name] for unit in bucket.units])
            for bucket in self.buckets
            for name in bucket.counts
        ]

    @functools.cached_property
    def watch(self) -> inspection.Watch | None:
        """What asks in one call whether this layout holds; None when it has to be asked in Python."""
        plain = self.all_strided and all(map(is_plain, self.parameters))
        if not plain or len(self.parameters) < inspection.FEWEST or self.parameters[0].device.type == "meta":
            return None
        found = inspection.inspector()
        if found is None:
            return None
        numbers = [
            column
            for bucket in self.buckets
            if bucket.first.device.type == "cpu"
            for column in bucket.columns.values()
        ]
        return found.watch(self.parameters, self.dtypes, self.owner, self.owned, numbers)


class Gradients:
    """Gradients, of a whole step or of one bucket's units.

    present: (n,) bool, None when all are there; addresses: (n,) of their elements, 0 where there is none; None when
    one of them has no memory of its own (a sparse tensor, a wrapper such as DTensor); contiguous: whether all are
    known to be; in_step: whether every bucket's units are known to have the same counts.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        tensors: list[torch.Tensor | None] | None,
        present: np.ndarray[Any, Any] | None,
        addresses: np.ndarray[Any, Any] | None,
        contiguous: bool = False,
        in_step: bool = False,
    ) -> None:
        self._parameters, self._tensors = parameters, tensors
        self.present, self.addresses, self.contiguous, self.in_step = present, addresses, contiguous, in_step

    @property
    def some_missing(self) -> bool:
        """Whether some parameter has none."""
        return self.present is not None

    @property
    def count(self) -> int:
        """For how many parameters they are."""
        return len(self._parameters) if self._tensors is None else len(self._tensors)

    def of(self, places: np.ndarray[Any, Any]) -> Gradients:
        """Those of some of the parameters."""
        if self.addresses is None:
            return _gradients([self.tensors[place] for place in places])
        present = None if self.present is None else self.present[places]
        if present is not None and present.all():
            present = None
        chosen = [self._parameters[place] for place in places] if self._tensors is None else ()
        tensors = None if self._tensors is None else [self._tensors[place] for place in places]
        return Gradients(chosen, tensors, present, self.addresses[places], self.contiguous, self.in_step)

    @functools.cached_property
    def tensors(self) -> list[torch.Tensor | None]:
        """The tensors; fetching a thousand takes longer than a step of theirs, so only who needs them does."""
        return list(map(_grad, self._parameters)) if self._tensors is None else self._tensors


def current(
    layout: StepLayout | None, parameters: list[torch.Tensor], flags: list[FlagItems], state: Any
) -> tuple[StepLayout | None, Gradients]:
    """The layout where it holds, else None; and the gradients of all parameters."""
    if layout is not None and layout.owner is state and layout.flags == flags and layout.watch is not None:
        found = layout.watch.look(parameters)
        if found is not None:
            present = found.present if found.missing else None
            return layout, Gradients(parameters, None, present, found.addresses, found.contiguous, found.in_step)
    gradients = _gradients(list(map(_grad, parameters)))
    holds = layout is not None and still_holds(layout, parameters, gradients, flags, state)
    return layout if holds else None, gradients


def gradients_of(bucket: Bucket, gradients: Gradients) -> Gradients:
    """The gradients of a bucket as its engine wants them."""
    if not bucket.signature.plain:
        keep_rows = bucket.signature.sparse
        here = [gradients.tensors[index] for index in bucket.indices]
        return _gradients([None if g is None else real_view(g if keep_rows else dense(g)) for g in here])
    return gradients if len(bucket.units) == gradients.count else gradients.of(bucket.indices)


def _gradients(tensors: list[torch.Tensor | None]) -> Gradients:
    missing = any(map(operator.is_, tensors, itertools.repeat(None)))
    present = np.array([g is not None for g in tensors]) if missing else None
    try:
        if missing:
            addresses = [0 if g is None else g.data_ptr() for g in tensors]
        else:
            addresses = list(map(torch.Tensor.data_ptr, tensors))  # type: ignore[arg-type]
    except RuntimeError:  # what is sparse or wrapped has no elements of its own in memory
        return Gradients((), tensors, present, None)
    return Gradients((), tensors, present, np.array(addresses, dtype=np.int64))


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
    if len(state) != len(layout.entries) or not all(
        key is then_key and value is then_value
        for (key, value), (then_key, then_value) in zip(state.items(), layout.entries, strict=True)
    ):
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


def laid_out_alike(bucket: Bucket, gradients: Gradients) -> tuple[np.ndarray[Any, Any], list[torch.Tensor]]:
    """Addresses of the gradients in their parameters' order in memory (0 for none), and the copies this took."""
    addresses = gradients.addresses
    if addresses is not None and _alike(bucket, gradients):
        return addresses, []
    found, copies = [], []
    for g, unit in zip(gradients.tensors, bucket.units, strict=True):
        if g is not None:
            matched = match_strides(g, unit.theta)
            if matched is not g:
                copies.append(matched)
        found.append(0 if g is None else matched.data_ptr())
    return np.array(found, dtype=np.int64), copies


def _alike(bucket: Bucket, gradients: Gradients) -> bool:
    """Whether all gradients have their parameters' strides (or all of both are rows, which is quicker to ask)."""
    if "strides" not in bucket.cache:
        strides = [unit.theta.stride() for unit in bucket.units]
        bucket.cache["strides"] = None if all(unit.theta.is_contiguous() for unit in bucket.units) else strides
    wanted = bucket.cache["strides"]
    if wanted is None and gradients.contiguous:
        return True
    if gradients.some_missing:
        return False
    tensors: Any = gradients.tensors
    if wanted is None:
        return all(map(torch.Tensor.is_contiguous, tensors))
    return list(map(torch.Tensor.stride, tensors)) == wanted
