"""The elastic net: l1 and half the squared l2."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, soft


def value(x: torch.Tensor, l1: float, l2: float) -> torch.Tensor:
    """l1 sum abs(x) + l2 norm(x)^2 / 2."""
    return l1 * x.abs().sum() + l2 * x.square().sum() / 2


def _refuse_negative(l1: float, l2: float) -> None:
    if l1 < 0 or l2 < 0:
        raise ValueError(f"l1 and l2 must be >= 0, got {l1} and {l2}: negative weights are not convex.")


def shrink(v: torch.Tensor, t: float, l1: float, l2: float) -> torch.Tensor:
    """Soft thresholding at t l1, then division by 1 + t l2."""
    _refuse_negative(l1, l2)
    return soft(v, t * l1).div_(1 + t * l2)  # in place: a fresh buffer costs more than the division


def into(v: torch.Tensor, t: float, out: torch.Tensor, l1: float, l2: float) -> None:
    """As `shrink`, in two passes over out."""
    _refuse_negative(l1, l2)
    torch.ops.aten.softshrink.out(v, t * l1, out=out)
    out.div_(1 + t * l2)


ENTRY = Prox(
    "elastic_net",
    "l1 sum abs(x) + l2 norm(x)^2 / 2",
    value,
    shrink,
    "convex",
    parameters={"l1": 1.0, "l2": 1.0},
    into=into,
    source="Zou & Hastie 2005",
)
