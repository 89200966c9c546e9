"""The number of nonzero entries: hard thresholding."""

from __future__ import annotations

import math

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """The number of nonzero entries."""
    return (x != 0).sum().to(x.dtype)


def keep(v: torch.Tensor, t: float) -> torch.Tensor:
    """v where abs(v) > sqrt(2 t), else 0."""
    return torch.nn.functional.hardshrink(v, math.sqrt(2 * t))


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """Hard thresholding in one pass."""
    torch.ops.aten.hardshrink.out(v, math.sqrt(2 * t), out=out)


def minimisers(v: torch.Tensor, t: float) -> list[torch.Tensor]:
    """Both 0 and v at abs(v) = sqrt(2 t)."""
    size = float(v.square())
    tie = abs(size - 2 * t) <= 4 * torch.finfo(v.dtype).eps * size
    return [torch.zeros_like(v), v] if tie else [keep(v, t)]


ENTRY = Prox(
    "l0",
    "number of nonzero entries",
    value,
    keep,
    "nonconvex",
    minimisers=minimisers,
    into=into,
    source="Blumensath & Davies 2008",
)
