"""What the checkers of this room share: arrays in JSON, and operators that only move entries."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON, bit for bit; floats become float64, which is exact from float32, float16 and bfloat16."""
    exact = np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind in "iub" else np.float64)
    return {
        "shape": list(exact.shape),
        "type": exact.dtype.name,
        "bytes": base64.b64encode(zlib.compress(exact.tobytes())).decode("ascii"),
    }


def unpacked(data: Mapping[str, Any]) -> np.ndarray:
    """The array that `packed` wrote.

    Raises ValueError when it is not one.
    """
    try:
        raw = zlib.decompress(base64.b64decode(data["bytes"]))
        if data["type"] not in ("float64", "int64"):
            raise ValueError(f"an array must be float64 or int64, got {data['type']!r}.")
        return np.frombuffer(raw, dtype=data["type"]).reshape(data["shape"])
    except (KeyError, TypeError, zlib.error) as error:
        raise ValueError(f"not a packed array: {error}") from error


class CannotMove(ValueError):
    """An operator that moves entries in a way that is not known here."""


def moved(op: str, array: np.ndarray, args: list[Any]) -> np.ndarray:
    """An array after an operator that only moves its entries; args: those after the array.

    Raises CannotMove for one that is not in the list.
    """
    if op in ("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"):
        return array.reshape(args[0])
    if op == "aten.t.default":
        return array.T
    if op == "aten.transpose.int":
        return array.swapaxes(args[0], args[1])
    if op == "aten.permute.default":
        return array.transpose(args[0])
    if op in ("aten.clone.default", "aten.alias.default", "aten.contiguous.memory_format"):
        return array
    if op == "aten.flip.default":
        return np.flip(array, tuple(args[0]))
    if op == "aten.unsqueeze.default":
        return np.expand_dims(array, args[0] if args[0] >= 0 else array.ndim + 1 + args[0])
    if op in ("aten.squeeze.dim", "aten.squeeze_.dim"):
        return array.squeeze(args[0]) if array.shape[args[0]] == 1 else array
    if op == "aten.select.int":
        return np.asarray(array.take(args[1], axis=args[0]))
    if op == "aten.slice.Tensor":
        full: list[Any] = [*args, *[0, None, None, 1][len(args) :]]
        dim, start, end, step = full
        index: list[Any] = [slice(None)] * array.ndim
        index[dim] = slice(start, None if end is None or end > 2**60 else end, step)
        return array[tuple(index)]
    if op == "aten.expand.default":
        shape = [array.shape[i - len(args[0])] if size == -1 else size for i, size in enumerate(args[0])]
        return np.broadcast_to(array, shape)
    raise CannotMove(op)
