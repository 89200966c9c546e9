"""Certificates as data: inline, as JSON can hold them, and in safetensors files."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

MOST_INLINE_BYTES = 64 << 20  # our choice: larger certificates live in files alone


def size_of(data: dict[str, Any]) -> int:
    """Bytes of a certificate's arrays."""
    return sum(array.nbytes for array in data["arrays"].values())


def inline(data: dict[str, Any] | None, reason: str) -> dict[str, Any]:
    """The certificate with its arrays as base64 text.

    Raises ValueError when there is none, with the reason, or when its arrays exceed 64 MiB.
    """
    if data is None:
        raise ValueError(f"there is no certificate: {reason}.")
    if size_of(data) > MOST_INLINE_BYTES:
        raise ValueError(f"the certificate holds {size_of(data) >> 20} MiB of weights and data: use save(path).")
    encoded = {
        name: {"shape": list(array.shape), "base64": base64.b64encode(array.astype("<f8").tobytes()).decode()}
        for name, array in data["arrays"].items()
    }
    return {**data, "arrays": encoded}


def write(data: dict[str, Any] | None, reason: str, path: str | os.PathLike[str]) -> None:
    """Write a certificate to a safetensors file.

    Raises ValueError when there is none, with the reason.
    """
    from safetensors.numpy import save_file

    if data is None:
        raise ValueError(f"there is no certificate to save: {reason}.")
    header = {key: entry for key, entry in data.items() if key != "arrays"}
    save_file(dict(data["arrays"]), os.fspath(path), metadata={"certificate": json.dumps(header)})
