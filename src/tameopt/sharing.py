"""Data that several processes hold together, each its share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sharing:
    """How this process's data belong to a whole: `total` sums a tensor over all processes, which hold `samples`."""

    processes: int
    samples: int
    total: Callable[[torch.Tensor], torch.Tensor]


def total_of(sharing: Sharing | None, tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; the tensor itself where the data are not shared."""
    return tensor if sharing is None else sharing.total(tensor)
