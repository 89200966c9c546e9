"""Bytes that a piece of torch code moves, counted operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OVERWRITES = ("copy_", "fill_", "zero_", "_foreach_copy_", "_foreach_zero_")  # what they write they do not read


class _Counter(TorchDispatchMode):
    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.moved = least, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        named = dict(kwargs or {})
        result = func(*args, **named)
        declared = func._schema.arguments
        given = [args[place] if place < len(args) else named.get(each.name) for place, each in enumerate(declared)]
        kinds = [each.alias_info for each in declared]
        if any(kind is not None and not kind.is_write for kind in kinds):
            return result  # a view moves nothing
        name = func.__name__.split(".")[0]
        for value, kind in zip(given, kinds, strict=True):
            times = 1 if kind is None or name in _OVERWRITES else 2
            self.moved += times * self._size(value)
        if all(each.alias_info is None for each in func._schema.returns):
            self.moved += self._size(result)
        return result

    def _size(self, value: Any) -> int:
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors if t.numel() >= self.least)


def bytes_moved(action: Callable[[], Any], least: int = 1) -> int:
    """Bytes that the operations of an action read and write.

    least: tensors of fewer elements do not count (step counts, say). What a cache saves and what a processor reads
    before it writes new memory are not in it: each operation's inputs count once, and so do its outputs.

    >>> a, b = torch.zeros(1000), torch.zeros(1000)
    >>> bytes_moved(lambda: a.add_(b)), bytes_moved(lambda: a + b), bytes_moved(lambda: a.copy_(b))
    (12000, 12000, 8000)
    """
    with _Counter(least) as counter:
        action()
    return counter.moved
