"""The arrays of a certificate, inline or in a file (checker code)."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import numpy as np

LARGEST = 1e30  # larger weights or data could overflow in the bounds; none occur


def array_of(name: str, entry: Any) -> np.ndarray:
    """The float64 array that a certificate stores under a name.

    Raises ValueError when it is damaged, or not finite and below 1e30.
    """
    if isinstance(entry, np.ndarray):
        array = np.ascontiguousarray(entry, dtype=np.float64)
    else:
        try:
            raw = base64.b64decode(entry["base64"], validate=True)
            array = np.frombuffer(raw, dtype="<f8").reshape([int(side) for side in entry["shape"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"array {name!r} of the certificate is damaged: {error}.") from error
    if not np.all(np.abs(array) <= LARGEST):
        raise ValueError(f"array {name!r} of the certificate must be finite and below {LARGEST:g}, it is not.")
    return array


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A certificate in a safetensors file, its arrays as they are.

    Raises FileNotFoundError, or ValueError when the file is no certificate.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise FileNotFoundError(f"no certificate at {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("certificate", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} must be a certificate, it cannot be read: {error}.") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} must be a certificate, it has no certificate header.")
    return {**header, "arrays": arrays}
