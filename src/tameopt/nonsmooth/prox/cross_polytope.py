"""The l1 ball."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator, l1_ball_projection, positive


def value(x: torch.Tensor, radius: float) -> torch.Tensor:
    """0 on norm1(x) <= radius, up to rounding; else +inf."""
    slack = 64 * torch.finfo(x.dtype).eps * max(1, x.shape[-1])
    return indicator(x.abs().sum(-1) <= radius * (1 + slack), x)


def project(v: torch.Tensor, t: float, radius: float) -> torch.Tensor:
    """Soft thresholding at the level that meets the radius."""
    return l1_ball_projection(v, positive("radius", radius))


ENTRY = Prox(
    "ball_l1",
    "0 on norm1(x) <= radius",
    value,
    project,
    "set",
    "vectors",
    parameters={"radius": 1.0},
    source="Duchi, Shalev-Shwartz, Singer & Chandra 2008",
)
