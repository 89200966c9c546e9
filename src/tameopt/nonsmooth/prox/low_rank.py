"""The rank: hard thresholding of the singular values."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """The rank, summed over the matrices."""
    return torch.linalg.matrix_rank(x).sum().to(x.dtype)


def keep(v: torch.Tensor, t: float) -> torch.Tensor:
    """Only the singular values above sqrt(2 t)."""
    U, S, Vh = torch.linalg.svd(v, full_matrices=False)
    return (U * torch.where(S.square() > 2 * t, S, 0.0).unsqueeze(-2)) @ Vh


ENTRY = Prox("rank", "rank(x)", value, keep, "nonconvex", "matrices", source="Eckart & Young 1936")
