"""What the checkers of this room share: certificates as arrays in JSON. Imports nothing of the room."""

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
