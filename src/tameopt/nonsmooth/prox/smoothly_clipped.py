"""The smoothly clipped absolute deviation: l1 near 0, quadratic bend, constant far away."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, best_of, distinct, positive, soft


def _penalty(x: torch.Tensor, lam: float, a: float) -> torch.Tensor:
    size = x.abs()
    bend = (2 * a * lam * size - size.square() - lam**2) / (2 * (a - 1))
    return torch.where(size <= lam, lam * size, torch.where(size <= a * lam, bend, lam**2 * (a + 1) / 2))


def value(x: torch.Tensor, lam: float, a: float) -> torch.Tensor:
    """sum of the SCAD penalty."""
    return _penalty(x, positive("lam", lam), 1 + positive("a - 1", a - 1)).sum()


def _candidates(v: torch.Tensor, t: float, lam: float, a: float) -> list[torch.Tensor]:
    bend = [((a - 1) * v - v.sign() * a * lam * t) / (a - 1 - t)] if t < a - 1 else []
    inside = [torch.where((x.abs() >= lam) & (x.abs() <= a * lam) & (x * v > 0), x, 0.0) for x in bend]
    low = soft(v, t * lam)
    return [torch.zeros_like(v), torch.where(low.abs() <= lam, low, 0.0), *inside, v]


def threshold(v: torch.Tensor, t: float, lam: float, a: float) -> torch.Tensor:
    """Soft, then bent, then no thresholding; for t >= 1 the regions overlap and the least objective decides."""
    positive("lam", lam), positive("a - 1", a - 1)
    return best_of(_candidates(v, t, lam, a), lambda x: _penalty(x, lam, a) + (x - v).square() / (2 * t))


def minimisers(v: torch.Tensor, t: float, lam: float, a: float) -> list[torch.Tensor]:
    """All of least objective among the stationary points of the three regions."""
    return distinct(_candidates(v, t, lam, a), lambda x: _penalty(x, lam, a) + (x - v).square() / (2 * t))


ENTRY = Prox(
    "scad",
    "lam abs(x), bent to a constant between lam and a lam",
    value,
    threshold,
    "weakly convex",
    parameters={"lam": 1.0, "a": 3.7},
    minimisers=minimisers,
    source="Fan & Li 2001",
)
