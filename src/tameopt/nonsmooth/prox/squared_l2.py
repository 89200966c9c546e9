"""Half the squared Euclidean norm: weight decay."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """norm(x)^2 / 2."""
    return x.square().sum() / 2


def shrink(v: torch.Tensor, t: float) -> torch.Tensor:
    """v / (1 + t)."""
    return v / (1 + t)


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """One pass."""
    torch.div(v, 1 + t, out=out)


ENTRY = Prox("l2_squared", "norm(x)^2 / 2", value, shrink, "convex", into=into)
