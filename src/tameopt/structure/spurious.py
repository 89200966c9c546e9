"""Spurious critical points: backprop returns 0 where the function is differentiable with a nonzero gradient.

A conservative gradient may be anything on a set of measure zero, so relu(x) - relu(-x) = x has backprop 0 at x = 0
and descent started there does not move (Bolte and Pauwels 2021, Section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

Leaves = Mapping[str, torch.Tensor]
_DIRECTIONS = 3  # our choice: a nonzero gradient is orthogonal to one Gaussian direction with probability 0


def spurious_slope(run: Callable[[Leaves], Any], leaves: Leaves, seed: int = 0) -> float | None:
    """The slope of F along a random direction at a point where backprop returns exactly 0 for every leaf.

    run: the outputs of the model, whose sum is differentiated. None unless in each of three directions two step sizes
    and both sides show one slope (to 1e-3 of it; 2e-2 in float32), and one of these slopes is not 0.
    """
    parts = list(leaves.values())
    if any(part.is_meta for part in parts) or not parts:
        return None
    value = _total(run(leaves))
    if value is None or not value.requires_grad or not bool(torch.isfinite(value)):
        return None
    found = torch.autograd.grad(value, parts, allow_unused=True)
    if any(gradient is not None and bool((gradient != 0).any()) for gradient in found):
        return None
    base = float(value.detach())
    exact = all(part.dtype == torch.float64 for part in parts)
    step, tolerance = (1e-5, 1e-3) if exact else (1e-2, 2e-2)
    generator = torch.Generator().manual_seed(seed)
    largest = 0.0
    for _ in range(_DIRECTIONS):
        v = {k: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for k, p in leaves.items()}
        slopes = [_slope(run, leaves, v, h, base) for h in (step, -step, step / 4, -step / 4)]
        size = max(map(abs, slopes))
        if not size < 1e12 or max(slopes) - min(slopes) > tolerance * max(size, 1e-6):
            return None
        if size > abs(largest):
            largest = slopes[0]
    noise = (1e-15 if exact else 1e-6) * (1 + abs(base)) / step
    return largest if abs(largest) > max(1e-3, 1e3 * noise) else None


def _total(outputs: Any) -> torch.Tensor | None:
    floating = [x.sum() for x in tree_leaves(outputs) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return torch.stack([x.reshape(()) for x in floating]).sum() if floating else None


def _slope(run: Callable[[Leaves], Any], leaves: Leaves, v: Leaves, h: float, base: float) -> float:
    with torch.no_grad():
        moved = _total(run({key: leaf + h * v[key] for key, leaf in leaves.items()}))
    return float("inf") if moved is None else (float(moved) - base) / h
