"""The nonnegative numbers."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator


def value(x: torch.Tensor) -> torch.Tensor:
    """0 on x >= 0, else +inf."""
    return indicator(x >= 0, x)


def project(v: torch.Tensor, t: float) -> torch.Tensor:
    """max(v, 0)."""
    return v.clamp(min=0)


def into(v: torch.Tensor, t: float, out: torch.Tensor) -> None:
    """One pass."""
    torch.clamp(v, min=0, out=out)


ENTRY = Prox("nonnegative", "0 on x >= 0", value, project, "set", into=into)
