"""The l-infinity ball."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator, positive


def value(x: torch.Tensor, radius: float) -> torch.Tensor:
    """0 on max abs(x) <= radius, else +inf."""
    return indicator(x.abs() <= radius, x)


def project(v: torch.Tensor, t: float, radius: float) -> torch.Tensor:
    """Clamp to [-radius, radius]."""
    positive("radius", radius)
    return v.clamp(-radius, radius)


ENTRY = Prox("ball_linf", "0 on max abs(x) <= radius", value, project, "set", parameters={"radius": 1.0})
