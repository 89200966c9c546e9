"""The minimax concave penalty: l1 near 0, constant far away."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, distinct, positive, soft


def _penalty(x: torch.Tensor, lam: float, gamma: float) -> torch.Tensor:
    size = x.abs()
    return torch.where(size <= gamma * lam, lam * size - size.square() / (2 * gamma), gamma * lam**2 / 2)


def value(x: torch.Tensor, lam: float, gamma: float) -> torch.Tensor:
    """sum of lam abs(x) - x^2 / (2 gamma) up to abs(x) = gamma lam, then constant."""
    return _penalty(x, positive("lam", lam), positive("gamma", gamma)).sum()


def _candidates(v: torch.Tensor, t: float, lam: float, gamma: float) -> list[torch.Tensor]:
    inner = [soft(v, t * lam) / (1 - t / gamma)] if t < gamma else []
    return [torch.zeros_like(v), *inner, v]


def threshold(v: torch.Tensor, t: float, lam: float, gamma: float) -> torch.Tensor:
    """Firm thresholding for t < gamma; for a larger t a jump from 0 to v at abs(v) = lam sqrt(gamma t)."""
    positive("lam", lam), positive("gamma", gamma)
    if t >= gamma:
        return torch.where(v.abs() > lam * (gamma * t) ** 0.5, v, 0.0)
    return torch.where(v.abs() > gamma * lam, v, soft(v, t * lam) / (1 - t / gamma))


def minimisers(v: torch.Tensor, t: float, lam: float, gamma: float) -> list[torch.Tensor]:
    """All of least objective among 0, the inner root and v."""
    return distinct(_candidates(v, t, lam, gamma), lambda x: _penalty(x, lam, gamma) + (x - v).square() / (2 * t))


ENTRY = Prox(
    "mcp",
    "lam abs(x) - x^2 / (2 gamma), constant beyond gamma lam",
    value,
    threshold,
    "weakly convex",
    parameters={"lam": 1.0, "gamma": 3.0},
    minimisers=minimisers,
    source="Zhang 2010",
)
