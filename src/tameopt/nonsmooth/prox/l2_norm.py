"""The Euclidean norm: block soft thresholding."""

from __future__ import annotations

import math

import numpy as np
import torch

from tameopt.nonsmooth.prox._entry import Prox, followed


def value(x: torch.Tensor) -> torch.Tensor:
    """sum of the norms of the vectors."""
    return x.norm(dim=-1).sum()


def _factor(v: torch.Tensor, t: float) -> torch.Tensor | float:
    """max(0, 1 - t / norm(v)) of each vector."""
    # a single vector that no derivative follows: BLAS' product is four times faster than torch's norm, where the
    # squares neither overflow nor vanish
    if v.ndim == 1 and v.is_cpu and v.dtype is torch.float64 and not followed(v):
        x = v.detach().numpy() if v.requires_grad else v.numpy()
        squared = float(np.vdot(x, x))  # without a warning where it overflows, unlike np.dot
        if 1e-280 < squared < 1e280:
            return max(0.0, 1 - t / math.sqrt(squared))
    return 1 - t / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=t)


def shrink(v: torch.Tensor, t: float) -> torch.Tensor:
    """v max(0, 1 - t / norm(v))."""
    return v * _factor(v, t)


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """The norms, and one pass that scales: numpy's where the norm was."""
    factor = _factor(v, t)
    if isinstance(factor, float) and not out.requires_grad:
        np.multiply(v.detach().numpy(), factor, out=out.numpy())
    else:
        torch.mul(v, factor, out=out)


ENTRY = Prox("l2", "norm(x)", value, shrink, "convex", "vectors", source="Combettes & Pesquet 2011", into=into)
