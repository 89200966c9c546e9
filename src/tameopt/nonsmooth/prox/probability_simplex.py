"""The probability simplex, scaled."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator, positive, simplex_projection


def value(x: torch.Tensor, radius: float) -> torch.Tensor:
    """0 on {x >= 0, sum x = radius}, up to rounding; else +inf."""
    slack = 64 * torch.finfo(x.dtype).eps * radius * max(1, x.shape[-1])
    return indicator((x >= 0).all(-1) & ((x.sum(-1) - radius).abs() <= slack), x)


def project(v: torch.Tensor, t: float, radius: float) -> torch.Tensor:
    """The Euclidean projection, by sorting. An empty set (radius <= 0) is refused."""
    return simplex_projection(v, positive("radius (else the simplex is empty)", radius))


ENTRY = Prox(
    "simplex",
    "0 on {x >= 0, sum x = radius}",
    value,
    project,
    "set",
    "vectors",
    parameters={"radius": 1.0},
    source="Held, Wolfe & Crowder 1974",
)
