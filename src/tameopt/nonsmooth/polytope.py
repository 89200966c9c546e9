"""Convex polytopes by their vertices, exactly: membership, support function, Hausdorff distance, least norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth.min_norm import MinNorm, min_norm

Point = tuple[Fraction, ...]


def rational_point(point: Any) -> Point:
    """A vector of numbers as exact rationals.

    Raises ValueError when an entry is not finite.
    """
    entries = point.tolist() if isinstance(point, (torch.Tensor, np.ndarray)) else list(point)
    for entry in entries:
        if isinstance(entry, float) and not math.isfinite(entry):
            raise ValueError(f"a point must be finite, got {entry}.")
    return tuple(Fraction(entry) for entry in entries)


def hull_vertices(points: Sequence[Point]) -> tuple[Point, ...]:
    """The vertices of the hull of points, sorted; each test is exact."""
    kept = sorted(set(points))
    if len(kept) <= 2:
        return tuple(kept)
    if len(kept[0]) == 1:
        return (kept[0], kept[-1])
    if len(kept) > 40:
        kept = _without_deep(kept)
    for point in list(kept):
        others = [other for other in kept if other != point]
        if len(others) < 2:
            break
        if _in_hull(point, others):
            kept = others
    return tuple(kept)


def _without_deep(points: list[Point]) -> list[Point]:
    """The points without those that lie deep inside the hull, by qhull's facets in floating point."""
    from tameopt.extras import require

    spatial = require("scipy.spatial", "the hull of many points")
    floats = np.array([[float(entry) for entry in point] for point in points])
    scale = float(np.abs(floats - floats.mean(0)).max()) or 1.0
    try:
        hull = spatial.ConvexHull((floats - floats.mean(0)) / scale)
    except spatial.QhullError:  # flat: no facet to compare with
        return points
    slack = -((floats - floats.mean(0)) / scale @ hull.equations[:, :-1].T + hull.equations[:, -1])
    # 1e-9 is a thousand times qhull's own error at this scale; what is nearer a facet is decided exactly
    deep = slack.min(axis=1) > 1e-9
    return [point for point, inside in zip(points, deep, strict=True) if not inside]


def _in_hull(point: Point, others: Sequence[Point]) -> bool:
    shifted = [[a - b for a, b in zip(other, point, strict=True)] for other in others]
    proposal = min_norm(np.array([[float(entry) for entry in row] for row in shifted]))
    # far outside in floating point is far outside; only near misses need the exact answer
    if proposal.lower_bound > 1e-6 * max(1.0, *(abs(float(entry)) for entry in point)):
        return False
    return min_norm(shifted).squared_distance == 0


@dataclass(frozen=True)
class Polytope:
    """conv of `corners`, exact rational vertices (m, d), none redundant; m = 0 is the empty set."""

    corners: tuple[Point, ...]
    dim: int

    @staticmethod
    def hull(points: Sequence[Point], dim: int) -> Polytope:
        """The hull of finitely many points."""
        return Polytope(hull_vertices(points), dim)

    @property
    def vertices(self) -> np.ndarray:
        """(m, d) float64."""
        return np.array([[float(entry) for entry in corner] for corner in self.corners]).reshape(-1, self.dim)

    @property
    def empty(self) -> bool:
        return not self.corners

    def contains(self, g: Any, tolerance: float = 0.0) -> bool:
        """Whether g: (d,) is in the set, exactly; or within `tolerance` of it."""
        if self.empty:
            return False
        point = rational_point(g)
        if len(point) != self.dim:
            raise ValueError(f"g must have {self.dim} entries, got {len(point)}.")
        if tolerance == 0:
            return point in self.corners or _in_hull(point, self.corners)
        return self.distance(g) <= tolerance

    def distance(self, g: Any) -> float:
        """The Euclidean distance from g: (d,) to the set; inf for the empty one."""
        if self.empty:
            return math.inf
        point = rational_point(g)
        shifted = [[a - b for a, b in zip(corner, point, strict=True)] for corner in self.corners]
        return min_norm(shifted).distance

    def support(self, direction: Any) -> Fraction:
        """max <v, direction> over the set, exactly.

        Raises ValueError on the empty set.
        """
        if self.empty:
            raise ValueError("the empty set has no support function.")
        along = rational_point(direction)
        return max(sum((a * b for a, b in zip(corner, along, strict=True)), Fraction(0)) for corner in self.corners)

    def min_norm(self) -> MinNorm:
        """The least-norm element, exactly."""
        return min_norm([list(corner) for corner in self.corners])

    def hausdorff(self, other: Polytope) -> float:
        """The Hausdorff distance to another polytope: attained at vertices; inf when one is empty."""
        if self.empty or other.empty:
            return 0.0 if self.empty and other.empty else math.inf
        return max(
            *(other.distance(corner) for corner in self.corners), *(self.distance(corner) for corner in other.corners)
        )
