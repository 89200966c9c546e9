"""The largest absolute value: what is left after projecting on the l1 ball (Moreau)."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, l1_ball_projection


def value(x: torch.Tensor) -> torch.Tensor:
    """sum of max abs(x) over the vectors."""
    return x.abs().amax(-1).sum()


def clip(v: torch.Tensor, t: float) -> torch.Tensor:
    """v minus its projection on the l1 ball of radius t."""
    return v - l1_ball_projection(v, t)


ENTRY = Prox("linf", "max abs(x)", value, clip, "convex", "vectors", source="Moreau 1962")
