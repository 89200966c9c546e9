"""The Euclidean norm: block soft thresholding."""

from __future__ import annotations

import numpy as np
import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """sum of the norms of the vectors."""
    return x.norm(dim=-1).sum()


def _factor(v: torch.Tensor, t: float) -> torch.Tensor | float:
    """max(0, 1 - t / norm(v)) of each vector."""
    # a single vector that autograd does not follow: BLAS' norm is four times faster than torch's, where its squares
    # neither overflow nor vanish
    if v.ndim == 1 and v.device.type == "cpu" and v.dtype is torch.float64 and not v.requires_grad:
        with np.errstate(over="ignore"):
            norm = float(np.linalg.norm(v.numpy()))
        if 1e-140 < norm < 1e140:
            return max(0.0, 1 - t / norm)
    return 1 - t / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=t)


def shrink(v: torch.Tensor, t: float) -> torch.Tensor:
    """v max(0, 1 - t / norm(v))."""
    return v * _factor(v, t)


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """The norms, and one pass that scales."""
    torch.mul(v, _factor(v, t), out=out)


ENTRY = Prox("l2", "norm(x)", value, shrink, "convex", "vectors", source="Combettes & Pesquet 2011", into=into)
