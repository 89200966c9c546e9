"""Results as JSON: one document, strict JSON (no NaN literals), plain data only.

Frozen dataclasses become objects, enums their names, tensors and arrays lists, fractions "p/q", and the numbers
that JSON lacks become the strings "NaN", "Infinity" and "-Infinity" (`number_from` reads them back), as in a
run's `diagnosis.json`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping, Sequence, Set
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """The value as JSON-serialisable data.

    Raises TypeError naming a type that has no plain form.

    >>> plain({"x": (1, float("nan")), "theta": Fraction(1, 2)})
    {'x': [1, 'NaN'], 'theta': '1/2'}
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (Sequence, Set)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, complex):
        return {"real": plain(value.real), "imag": plain(value.imag)}
    return _plain_array(value)


def _plain_array(value: Any) -> Any:
    # numpy and torch are asked only when something unknown comes, so that small verbs need neither
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    raise TypeError(f"JSON needs plain data, got {type(value).__name__}: convert it before it is reported.")


def dumps(value: Any, indent: int | None = 2) -> str:
    """The value as one strict JSON document.

    >>> dumps({"a": float("inf")}, indent=None)
    '{"a": "Infinity"}'
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def number_from(value: Any) -> float:
    """The number that `plain` wrote.

    >>> number_from("-Infinity"), number_from(2)
    (-inf, 2.0)
    """
    return float(value)
