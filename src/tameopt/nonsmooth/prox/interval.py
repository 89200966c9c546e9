"""A box."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator


def value(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 on low <= x <= high, else +inf."""
    return indicator((x >= low) & (x <= high), x)


def _refuse_empty(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low must be <= high, got {low} > {high}: the box is empty.")


def project(v: torch.Tensor, t: float, low: float, high: float) -> torch.Tensor:
    """Clamp to [low, high]. An empty box is refused."""
    _refuse_empty(low, high)
    return v.clamp(low, high)


def into(v: torch.Tensor, t: float, out: torch.Tensor, low: float, high: float) -> None:
    """One pass, as `project`."""
    _refuse_empty(low, high)
    torch.clamp(v, low, high, out=out)


ENTRY = Prox("box", "0 on low <= x <= high", value, project, "set", parameters={"low": 0.0, "high": 1.0}, into=into)
