"""What the storages of tensors hold while a computation runs: parts of theta, data, or what was computed of them.

A storage depends on theta when it was written by a call that read such a tensor. Storages are kept alive, so that an
address names one storage. Views are told apart by their geometry; after an in-place write the whole storage holds a
mix of old and new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tameopt.structure.program import Constant, Node, Place, Ref
from tameopt.structure.ranges import Interval


class _Storage:
    """What a storage that depends on theta holds."""

    def __init__(self, storage: torch.UntypedStorage, whole: Ref) -> None:
        self.storage = storage
        self.whole = whole
        self.views: dict[tuple[Any, ...], Ref] = {}


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What tells two views of a storage apart."""
    return (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


class Storages:
    """Which storages depend on theta or on data, and the nodes that wrote them.

    nodes: the program so far, to which mixtures of old and new are appended. place: where the program is now.
    """

    def __init__(self, nodes: list[Node], place: Callable[[], Place]) -> None:
        self._nodes = nodes
        self._place = place
        self._storages: dict[int, _Storage] = {}
        self._data: dict[int, torch.UntypedStorage] = {}
        self._theta: dict[int, str] = {}

    def declare_theta(self, name: str, tensor: torch.Tensor, ref: Ref) -> None:
        """The tensor is a part of theta."""
        self.write(tensor, ref)
        self._theta[tensor.untyped_storage()._cdata] = name

    def declare_data(self, tensor: torch.Tensor) -> None:
        """The tensor is data: a constant that another batch would change."""
        storage = tensor.untyped_storage()
        self._data[storage._cdata] = storage

    def part_of_theta(self, tensor: torch.Tensor) -> str | None:
        """The name of the part of theta that the tensor is a view of, or None."""
        return self._theta.get(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else None

    def known(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor depends on theta."""
        return tensor.layout == torch.strided and tensor.untyped_storage()._cdata in self._storages

    def is_data(self, tensor: torch.Tensor) -> bool:
        return tensor.layout == torch.strided and tensor.untyped_storage()._cdata in self._data

    def lookup(self, tensor: torch.Tensor) -> Ref | None:
        """What wrote the tensor, or None when it does not depend on theta."""
        if not self.known(tensor):
            return None
        storage = self._storages[tensor.untyped_storage()._cdata]
        view = _geometry(tensor)
        if view not in storage.views:
            # views that were taken before a write are different tensors: each gets a node of its own
            storage.views[view] = self._mix([storage.whole])
        return storage.views[view]

    def whole(self, tensor: torch.Tensor) -> Ref | None:
        """What wrote the storage that the tensor is a view of, or None."""
        return self._storages[tensor.untyped_storage()._cdata].whole if self.known(tensor) else None

    def unseen(self, tensor: torch.Tensor) -> str:
        """Why autodiff does not see a write into this tensor, or "".

        torch's own cosine_similarity clamps its norms under no_grad: below eps its gradient is another function's.
        """
        if not torch.is_grad_enabled():
            return "detached: written in place under no_grad, which autodiff does not see"
        alias = self.known(tensor) and tensor.is_floating_point() and not tensor.requires_grad
        return "detached: written through an alias, which autodiff does not see" if alias else ""

    def write(self, tensor: torch.Tensor, ref: Ref, mutated: bool = False, unseen: str = "") -> None:
        """The tensor was written by `ref`; mutated: in place; unseen: why autodiff does not see it."""
        storage = tensor.untyped_storage()
        known = self._storages.get(storage._cdata)
        if known is not None and unseen:
            # what is read from now on has the old derivative, whatever its value is
            cuts = {"self": unseen, "behind": unseen}
            arguments = {"self": ref, "behind": known.whole}
            self._nodes.append(
                Node("tame.unseen", arguments, {}, ((),), ("torch.float",), cut=cuts, place=self._place())
            )
            ref = Ref(len(self._nodes) - 1)
        if known is None:
            whole = ref
            covers = tensor.numel() * tensor.element_size() >= storage.nbytes()
            if mutated and not covers:
                # the rest of the storage keeps constants that nobody recorded
                whole = self._mix([ref], Constant(Interval()))
            known = self._storages[storage._cdata] = _Storage(storage, whole)
        elif mutated:
            covers = tensor.numel() * tensor.element_size() >= storage.nbytes() and tensor.is_contiguous()
            known.whole = ref if covers else self._mix([known.whole, ref])
            known.views = {}
        known.views[_geometry(tensor)] = ref

    def _mix(self, refs: list[Ref], *constants: Constant) -> Ref:
        tensors = (*refs, *constants)
        node = Node("tame.mix", {"tensors": tensors}, {}, ((),), ("torch.float",), place=self._place())
        self._nodes.append(node)
        return Ref(len(self._nodes) - 1)
