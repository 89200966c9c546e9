"""The group lasso: the sum of the norms of groups of entries."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox


def _groups(x: torch.Tensor, size: int) -> torch.Tensor:
    if size < 1 or x.shape[-1] % size:
        raise ValueError(f"size must divide the last dimension {x.shape[-1]}, got {size}.")
    return x.unflatten(-1, (-1, size))


def value(x: torch.Tensor, size: int) -> torch.Tensor:
    """sum over groups of `size` consecutive entries of their norm."""
    return _groups(x, size).norm(dim=-1).sum()


def shrink(v: torch.Tensor, t: float, size: int) -> torch.Tensor:
    """Each group times max(0, 1 - t / norm)."""
    groups = _groups(v, size)
    return (groups * (1 - t / groups.norm(dim=-1, keepdim=True).clamp(min=t))).flatten(-2)


ENTRY = Prox(
    "group_lasso",
    "sum over groups norm(x_g)",
    value,
    shrink,
    "convex",
    "vectors",
    parameters={"size": 2},
    source="Yuan & Lin 2006",
)
