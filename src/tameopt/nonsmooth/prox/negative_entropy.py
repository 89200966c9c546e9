"""The negative entropy sum x log x on x >= 0, by the Wright omega function."""

from __future__ import annotations

import math

import torch

from tameopt.nonsmooth.prox._entry import Prox

_NEWTON_STEPS = 8  # quadratic from the start below: 8 steps reach float64 rounding for all arguments tested


def value(x: torch.Tensor) -> torch.Tensor:
    """sum x log x, with 0 log 0 = 0 and +inf for x < 0."""
    return torch.where(x < 0, torch.inf, torch.xlogy(x, x)).sum()


def _omega(c: torch.Tensor) -> torch.Tensor:
    """w > 0 with w + log w = c."""
    # y = log w solves y + e^y = c, convex and increasing: Newton from above descends to it without overshoot
    y = torch.where(c > 1, c.clamp(min=1).log(), c.clamp(max=1))
    for _ in range(_NEWTON_STEPS):
        w = y.exp()
        y = y - (y + w - c) / (1 + w)
    return y.exp()


def shrink(v: torch.Tensor, t: float) -> torch.Tensor:
    """t w with w + log w = v / t - 1 - log t: the root of x + t (1 + log x) = v."""
    return t * _omega(v / t - 1 - math.log(t))


ENTRY = Prox("entropy", "sum x log x on x >= 0", value, shrink, "convex", source="Corless et al. 1996 (Lambert W)")
