"""Optional packages: imported where they are used, and named with how to get them when they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import torch

# package -> the extra of pyproject.toml that brings it
_EXTRA_OF = {
    "sklearn": "data",
    "scipy": "analysis",
    "matplotlib": "analysis",
    "flint": "exact",
    "sympy": "exact",
    "numba": "cpu",
    "llvmlite": "cpu",
    "torchdiffeq": "flows",
}


class MissingExtraError(ImportError):
    """An optional package that this call needs is not installed."""


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Raises MissingExtraError saying what needs it and how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        extra = _EXTRA_OF.get(top)
        how = f"pip install 'tameopt[{extra}]'" if extra else f"pip install {top}"
        raise MissingExtraError(f"{purpose} needs the package {top!r}, which is not here: {how}") from error


def available(module: str) -> bool:
    """Whether an optional module can be imported (it is not imported)."""
    return importlib.util.find_spec(module.split(".")[0]) is not None


def numpy_dtype(dtype: torch.dtype) -> Any:
    """numpy's name for a torch dtype that numpy has.

    >>> numpy_dtype(torch.float64)
    dtype('float64')
    """
    return np.dtype(str(dtype).removeprefix("torch."))
