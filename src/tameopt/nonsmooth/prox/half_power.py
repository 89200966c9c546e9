"""The power 1/2 of the absolute value: half thresholding, in closed form."""

from __future__ import annotations

import math

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """sum abs(x)^(1/2)."""
    return x.abs().sqrt().sum()


def _large(v: torch.Tensor, t: float) -> torch.Tensor:
    size = v.abs().clamp(min=1.5 * t ** (2 / 3))
    angle = torch.acos((t / 4) * (size / 3) ** -1.5)
    return v.sign() * (2 * size / 3) * (1 + torch.cos(2 * math.pi / 3 - (2 / 3) * angle))


def threshold(v: torch.Tensor, t: float) -> torch.Tensor:
    """0 for abs(v) <= 1.5 t^(2/3), else (2 v / 3) (1 + cos(2 pi / 3 - (2/3) arccos((t/4) (abs(v)/3)^(-3/2))))."""
    return torch.where(v.abs() > 1.5 * t ** (2 / 3), _large(v, t), 0.0)


def minimisers(v: torch.Tensor, t: float) -> list[torch.Tensor]:
    """0 and the positive root at the threshold."""
    edge = 1.5 * t ** (2 / 3)
    tie = abs(abs(float(v)) - edge) <= 4 * torch.finfo(v.dtype).eps * edge
    return [torch.zeros_like(v), _large(v, t)] if tie else [threshold(v, t)]


ENTRY = Prox(
    "l_half",
    "sum abs(x)^(1/2)",
    value,
    threshold,
    "nonconvex",
    minimisers=minimisers,
    source="Xu, Chang, Xu & Zhang 2012",
)
