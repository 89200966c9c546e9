"""`dynamics.inclusion`: the subgradient flow, computed by the nonsmooth room, which knows the subdifferentials."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch


def inclusion(F: Callable[[torch.Tensor], torch.Tensor], x0: Any, times: Sequence[float], **options: Any) -> Any:
    """A solution of d theta / dt in -dF(theta), theta(0) = x0: (d,); see `nonsmooth.subgradient_flow.inclusion`.

    >>> inclusion(lambda x: x.abs().sum(), [1], [0.5]).points.tolist()
    [[0.5]]
    """
    return importlib.import_module("tameopt.nonsmooth.subgradient_flow").inclusion(F, x0, times, **options)
