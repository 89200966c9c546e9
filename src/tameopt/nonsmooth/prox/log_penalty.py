"""The logarithmic penalty log(1 + abs(x) / eps)."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, best_of, distinct, positive


def _penalty(x: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.log1p(x.abs() / eps)


def value(x: torch.Tensor, eps: float) -> torch.Tensor:
    """sum log(1 + abs(x) / eps)."""
    return _penalty(x, positive("eps", eps)).sum()


def _candidates(v: torch.Tensor, t: float, eps: float) -> list[torch.Tensor]:
    size = v.abs()
    # stationary: (x - abs(v)) (x + eps) + t = 0, the larger root is the minimum
    root = ((size + eps).square() - 4 * t).clamp(min=0).sqrt()
    return [torch.zeros_like(v), v.sign() * ((size - eps + root) / 2).clamp(min=0)]


def threshold(v: torch.Tensor, t: float, eps: float) -> torch.Tensor:
    """The larger root of (x - abs(v)) (x + eps) + t = 0, or 0, whichever has the lesser objective."""
    positive("eps", eps)
    return best_of(_candidates(v, t, eps), lambda x: _penalty(x, eps) + (x - v).square() / (2 * t))


def minimisers(v: torch.Tensor, t: float, eps: float) -> list[torch.Tensor]:
    """0 and the root, whichever attain the least objective."""
    return distinct(_candidates(v, t, eps), lambda x: _penalty(x, eps) + (x - v).square() / (2 * t))


ENTRY = Prox(
    "log_sum",
    "sum log(1 + abs(x) / eps)",
    value,
    threshold,
    "weakly convex",
    parameters={"eps": 1.0},
    minimisers=minimisers,
    source="Candes, Wakin & Boyd 2008",
)
