"""The Euclidean norm: block soft thresholding."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """sum of the norms of the vectors."""
    return x.norm(dim=-1).sum()


def shrink(v: torch.Tensor, t: float) -> torch.Tensor:
    """v max(0, 1 - t / norm(v))."""
    return v * (1 - t / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=t))


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """The norms, and one pass that scales."""
    torch.mul(v, 1 - t / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=t), out=out)


ENTRY = Prox("l2", "norm(x)", value, shrink, "convex", "vectors", source="Combettes & Pesquet 2011", into=into)
