"""The rank: hard thresholding of the singular values."""

from __future__ import annotations

import itertools

import torch

from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """The rank, summed over the matrices."""
    return torch.linalg.matrix_rank(x).sum().to(x.dtype)


def keep(v: torch.Tensor, t: float) -> torch.Tensor:
    """Only the singular values above sqrt(2 t)."""
    U, S, Vh = torch.linalg.svd(v, full_matrices=False)
    return (U * torch.where(S.square() > 2 * t, S, 0.0).unsqueeze(-2)) @ Vh


def minimisers(v: torch.Tensor, t: float) -> list[torch.Tensor]:
    """With and without each singular value equal to sqrt(2 t), up to rounding, in the basis of one SVD.

    Where several are equal to it their subspace can be split in infinitely many ways: one of each is listed.
    """
    U, S, Vh = torch.linalg.svd(v, full_matrices=False)
    tied = (S.square() - 2 * t).abs() <= 16 * torch.finfo(v.dtype).eps * S.square()
    found = []
    for kept in itertools.product((False, True), repeat=int(tied.sum())):
        chosen = S.square() > 2 * t
        chosen[tied] = torch.tensor(kept, dtype=torch.bool, device=v.device)
        found.append((U * torch.where(chosen, S, 0.0)) @ Vh)
    return found


ENTRY = Prox(
    "rank", "rank(x)", value, keep, "nonconvex", "matrices", minimisers=minimisers, source="Eckart & Young 1936"
)
