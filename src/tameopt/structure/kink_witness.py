"""A genuine kink of F, found by bisection along a line, with its two one-sided slopes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tameopt.problem import Problem

_BISECTIONS = 40  # the bracket shrinks by 2^-40; a C^1 slope difference would shrink with it
_SETTLED = 12  # of them at the end, over which a jump must stay what it is
_KEPT = 0.98
_VISIBLE = 1e-6  # relative to the slopes: far above the rounding of a float64 gradient


@dataclass(frozen=True)
class Kink:
    """F along theta + t v has slope_left before t and slope_right after, both confirmed by differences of F.

    v is the normalised Gaussian direction of `seed` (torch.Generator, float64) times max(1, norm(theta)).
    """

    t: float
    width: float
    slope_left: float
    slope_right: float
    difference_left: float
    difference_right: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_kink(problem: Problem, theta: torch.Tensor, seed: int, seconds: float, lines: int = 3) -> Kink | None:
    """A kink on one of a few random lines through theta, or None (which proves nothing).

    problem: float64, or None is returned. Costs about 60 gradients a line; stops after `seconds` of processor time.
    """
    if problem.dtype != torch.float64:
        return None
    start = time.process_time()
    for line in range(lines):
        if time.process_time() - start > seconds:
            return None
        found = _on_line(problem, theta, seed + line, start + seconds)
        if found is not None:
            return found
    return None


def _on_line(problem: Problem, theta: torch.Tensor, seed: int, deadline: float) -> Kink | None:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(theta)
    direction = direction / direction.norm() * max(1.0, float(theta.norm()))

    def slope(t: float) -> float:
        return float(problem.gradient(theta + t * direction) @ direction)

    def value(t: float) -> float:
        return float(problem.value(theta + t * direction))

    # off the round numbers, where theta itself may sit on a kink and autodiff's choice would be read as a slope
    grid = [k / 8 - 0.4876543 for k in range(9)]
    slopes = [slope(t) for t in grid]
    best = max(range(8), key=lambda k: abs(slopes[k + 1] - slopes[k]))
    a, b, left, right = grid[best], grid[best + 1], slopes[best], slopes[best + 1]
    jumps = []
    for _ in range(_BISECTIONS):
        if time.process_time() > deadline:
            return None
        middle = 0.5 * (a + b)
        at = slope(middle)
        if abs(at - left) >= abs(right - at):
            b, right = middle, at
        else:
            a, left = middle, at
        jumps.append(abs(right - left))
    scale = max(abs(left), abs(right))
    if not jumps[-1] > _VISIBLE * scale or jumps[-1] < _KEPT * jumps[-_SETTLED]:
        return None
    # differences of F on each side must see the same slopes, or the jump is autodiff's and not F's
    h = 1e-6
    before, after = (value(a) - value(a - h)) / h, (value(b + h) - value(b)) / h
    if abs((after - before) - (right - left)) > 0.1 * jumps[-1]:
        return None
    return Kink(b, b - a, left, right, before, after, seed)
