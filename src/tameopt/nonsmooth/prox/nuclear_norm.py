"""The nuclear norm: soft thresholding of the singular values."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """sum of the singular values."""
    return torch.linalg.svdvals(x).sum()


def shrink(v: torch.Tensor, t: float) -> torch.Tensor:
    """U max(S - t, 0) V^T."""
    U, S, Vh = torch.linalg.svd(v, full_matrices=False)
    return (U * (S - t).clamp(min=0).unsqueeze(-2)) @ Vh


ENTRY = Prox(
    "nuclear", "sum of singular values", value, shrink, "convex", "matrices", source="Cai, Candes & Shen 2010"
)
