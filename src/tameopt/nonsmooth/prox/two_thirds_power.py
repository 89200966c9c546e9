"""The power 2/3 of the absolute value, in closed form."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """sum abs(x)^(2/3)."""
    return (x.square() ** (1 / 3)).sum()


def _edge(t: float) -> float:
    return (2 / 3) * (3 * (2 * t) ** 3) ** 0.25


def _large(v: torch.Tensor, t: float) -> torch.Tensor:
    weight = 2 * t  # the source minimises (x - v)^2 + weight abs(x)^(2/3)
    size = v.abs().clamp(min=_edge(t))
    phi = (2 / 3**0.5) * weight**0.25 * torch.cosh(torch.acosh(27 * size.square() / 16 * weight**-1.5) / 3).sqrt()
    return v.sign() * ((phi + (2 * size / phi - phi.square()).clamp(min=0).sqrt()) / 2) ** 3


def threshold(v: torch.Tensor, t: float) -> torch.Tensor:
    """0 for abs(v) <= (2/3) (3 (2 t)^3)^(1/4), else the root of the quartic in abs(x)^(1/3)."""
    return torch.where(v.abs() > _edge(t), _large(v, t), 0.0)


def minimisers(v: torch.Tensor, t: float) -> list[torch.Tensor]:
    """0 and the positive root at the threshold."""
    tie = abs(abs(float(v)) - _edge(t)) <= 4 * torch.finfo(v.dtype).eps * _edge(t)
    return [torch.zeros_like(v), _large(v, t)] if tie else [threshold(v, t)]


ENTRY = Prox(
    "l_two_thirds",
    "sum abs(x)^(2/3)",
    value,
    threshold,
    "nonconvex",
    minimisers=minimisers,
    source="Cao, Sun & Xu 2013",
)
