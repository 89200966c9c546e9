"""The Euclidean ball."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator, positive


def value(x: torch.Tensor, radius: float) -> torch.Tensor:
    """0 on norm(x) <= radius, up to rounding; else +inf."""
    return indicator(x.norm(dim=-1) <= radius * (1 + 64 * torch.finfo(x.dtype).eps), x)


def project(v: torch.Tensor, t: float, radius: float) -> torch.Tensor:
    """v scaled to the radius when it is outside."""
    positive("radius", radius)
    return v * (radius / v.norm(dim=-1, keepdim=True).clamp(min=radius))


def into(v: torch.Tensor, t: float, out: torch.Tensor, radius: float) -> None:
    """The norms, and one pass that scales."""
    positive("radius", radius)
    torch.mul(v, radius / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=radius), out=out)


ENTRY = Prox(
    "ball_l2", "0 on norm(x) <= radius", value, project, "set", "vectors", parameters={"radius": 1.0}, into=into
)
