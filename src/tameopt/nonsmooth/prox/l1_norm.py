"""The l1 norm: soft thresholding."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, soft


def value(x: torch.Tensor) -> torch.Tensor:
    """sum abs(x)."""
    return x.abs().sum()


ENTRY = Prox("l1", "sum abs(x)", value, soft, "convex", source="Donoho & Johnstone 1994")
