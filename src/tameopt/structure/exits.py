"""Values that leave torch, and hooks on tensors: what is seen only as a call of a tensor's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Tensor methods through which values leave torch without an operator that could be seen
_EXITS = frozenset(
    {"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage", "share_memory_"}
)


class Exits(TorchFunctionMode):
    """Notices tensors that are handed to something else than torch, and those that get a hook."""

    def __init__(
        self, leaves_torch: Callable[[torch.Tensor, str], None], hooked: Callable[[torch.Tensor], None]
    ) -> None:
        super().__init__()
        self._leaves_torch = leaves_torch
        self._hooked = hooked

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "register_hook":
            self._hooked(args[0])
        if name in _EXITS and args and isinstance(args[0], torch.Tensor):
            self._leaves_torch(args[0], name)
        return func(*args, **(kwargs or {}))
