"""Boxes of parameters: lower < upper in each coordinate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def box_of(dim: int, lower: Sequence[float], upper: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower corner and the widths of a box, (d,) float64.

    Raises ValueError unless lower and upper are d finite numbers each with lower < upper, and the widths finite.
    """
    low, high = [float(number) for number in lower], [float(number) for number in upper]
    sizes = [b - a for a, b in zip(low, high, strict=False)]
    if len(low) != dim or len(high) != dim or not all(0 < size < math.inf for size in sizes):
        raise ValueError(
            f"a box needs {dim} finite numbers lower < upper each, got lower={_short(lower)} and "
            f"upper={_short(upper)}."
        )
    return torch.tensor(low, dtype=torch.float64), torch.tensor(sizes, dtype=torch.float64)


def _short(numbers: Sequence[float]) -> str:
    listed = list(numbers)
    return str(listed) if len(listed) <= 8 else f"[{', '.join(map(str, listed[:4]))}, …] ({len(listed)} numbers)"


def sampled(
    corner: torch.Tensor, width: torch.Tensor, count: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """(2 count + 1, d) uniform points of a box, corners of it, and its middle."""
    generator = generator or torch.Generator().manual_seed(0)
    inside = torch.rand(count, corner.numel(), generator=generator, dtype=torch.float64)
    places = torch.cat([inside, inside.round(), torch.full((1, corner.numel()), 0.5, dtype=torch.float64)])
    return corner + torch.unique(places, dim=0) * width
