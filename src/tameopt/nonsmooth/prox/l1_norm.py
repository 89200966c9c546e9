"""The l1 norm: soft thresholding."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, soft


def value(x: torch.Tensor) -> torch.Tensor:
    """sum abs(x)."""
    return x.abs().sum()


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """Soft thresholding in one pass."""
    torch.ops.aten.softshrink.out(v, t, out=out)


ENTRY = Prox("l1", "sum abs(x)", value, soft, "convex", source="Donoho & Johnstone 1994", into=into)
