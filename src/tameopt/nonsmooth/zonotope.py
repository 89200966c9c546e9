"""Zonotopes: the Clarke subdifferential of smooth + sum_k abs(z_k) with independent kinks, without enumeration.

conv{c + sum_k s_k g_k: s_k in [-1, 1]} has up to 2^m vertices, but its support function is a sum, and its distance
to a point a least squares problem with bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth.min_norm import MinNorm
from tameopt.nonsmooth.polytope import Point

_WRITTEN_OUT = 12


@dataclass(frozen=True)
class Zonotope:
    """{centre + sum_k s_k generators[k]: abs(s_k) <= 1}; centre: (d,), generators: (m, d), float64.

    exact: the same in rationals, when they are known.
    """

    centre: np.ndarray
    generators: np.ndarray
    exact: tuple[Point, tuple[Point, ...]] | None = None

    @staticmethod
    def of(centre: Sequence[Fraction], generators: Sequence[Sequence[Fraction]]) -> Zonotope:
        """From rationals."""
        d = len(centre)
        rows = np.array([[float(entry) for entry in row] for row in generators]).reshape(-1, d)
        exact = (tuple(centre), tuple(tuple(row) for row in generators))
        return Zonotope(np.array([float(entry) for entry in centre]), rows, exact)

    @property
    def size(self) -> float:
        """A bound on the norm of its elements."""
        return float(np.linalg.norm(self.centre) + np.linalg.norm(self.generators, axis=1).sum())

    def corners(self) -> list[Point]:
        """All 2^m sign patterns, exactly (not all need be vertices).

        Raises ValueError for more than 12 generators.
        """
        if len(self.generators) > _WRITTEN_OUT:
            raise ValueError(
                f"{len(self.generators)} kinks give up to 2^{len(self.generators)} vertices: ask for support, "
                "distance or min_norm, which need none."
            )
        assert self.exact is not None
        centre, rows = self.exact
        found = []
        for signs in itertools.product((-1, 1), repeat=len(rows)):
            point = list(centre)
            for sign, row in zip(signs, rows, strict=True):
                point = [a + sign * b for a, b in zip(point, row, strict=True)]
            found.append(tuple(point))
        return list(dict.fromkeys(found))

    def vertices(self) -> np.ndarray:
        """(m, d) its vertices, for up to 12 generators."""
        from tameopt.nonsmooth.polytope import hull_vertices

        return np.array([[float(entry) for entry in point] for point in hull_vertices(self.corners())])

    def support(self, direction: Any) -> float:
        """max <v, direction>: <c, direction> + sum_k abs(<g_k, direction>)."""
        along = vector(direction)
        return float(self.centre @ along + np.abs(self.generators @ along).sum())

    def distance(self, g: Any) -> float:
        """The distance from g: (d,) to the set, by least squares with bounds."""
        return Zonotope(self.centre - vector(g), self.generators).min_norm().distance

    def min_norm(self) -> MinNorm:
        """The least-norm element with its certificate: the gap is norm(x)^2 - min over the set of <v, x>.

        Least squares over the box, by the active-set method of Stark and Parker (scipy's bvls) on a square system
        of size at most m, started from the trust-region one; the better of the two by the gap.
        """
        from tameopt.extras import require

        if len(self.generators) == 0:
            size = float(np.linalg.norm(self.centre))
            return MinNorm(self.centre, np.ones(0), size, size, 0.0, 0)
        optimize = require("scipy.optimize", "the distance to a zonotope")
        matrix, target = self.generators.T, -self.centre
        if matrix.shape[0] > matrix.shape[1]:
            basis, triangle = np.linalg.qr(matrix)
            matrix, target = triangle, basis.T @ target
        solution = optimize.lsq_linear(matrix, target, bounds=(-1, 1), method="bvls", tol=1e-15, max_iter=20_000)
        weights = np.clip(solution.x, -1, 1)
        x = self.centre + weights @ self.generators
        squared = float(x @ x)
        least = float(self.centre @ x - np.abs(self.generators @ x).sum())
        distance = float(np.sqrt(squared))
        lower = max(0.0, least / distance) if distance > 0 else 0.0
        return MinNorm(x, weights, distance, lower, squared - least, int(solution.nit))


def vector(point: Any) -> np.ndarray:
    """A direction or point as float64."""
    if isinstance(point, torch.Tensor):
        point = point.detach().cpu().double().numpy()
    return np.array([float(entry) for entry in point])
