"""Sums of balls and segments: the subdifferential of 2-norms at 0, which no finite list of vertices describes.

At a point where A_i h and z_k vanish, smooth + sum_i b_i norm(A_i h) + sum_k c_k abs(z_k) with b, c >= 0 has the
subdifferential {centre + sum_i b_i A_i^T u_i + sum_k c_k s_k grad z_k: norm(u_i) <= 1, abs(s_k) <= 1}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.nonsmooth.min_norm import MinNorm
from tameopt.nonsmooth.zonotope import vector

_STEPS = 20_000  # of the accelerated projected gradient before the gap is reported as it is: our choice


@dataclass(frozen=True)
class BallSum:
    """{centre + sum_i balls[i]^T u_i + sum_k s_k segments[k]}; centre: (d,), balls[i]: (r_i, d), segments: (m, d)."""

    centre: np.ndarray
    balls: tuple[np.ndarray, ...]
    segments: np.ndarray

    @property
    def size(self) -> float:
        """A bound on the norm of its elements."""
        parts = sum(float(np.linalg.norm(ball, 2)) for ball in self.balls)
        return float(np.linalg.norm(self.centre)) + parts + float(np.linalg.norm(self.segments, axis=1).sum())

    def vertices(self) -> np.ndarray:
        """Raises ValueError: a ball has none."""
        raise ValueError(
            "the set is round (a 2-norm at 0), it has no vertices: ask for support, distance or min_norm."
        )

    def support(self, direction: Any) -> float:
        """max <v, direction>: <c, direction> + sum_i norm(A_i direction) + sum_k abs(<g_k, direction>)."""
        along = vector(direction)
        round_part = sum(float(np.linalg.norm(ball @ along)) for ball in self.balls)
        return float(self.centre @ along) + round_part + float(np.abs(self.segments @ along).sum())

    def distance(self, g: Any) -> float:
        """The distance from g: (d,) to the set."""
        return BallSum(self.centre - vector(g), self.balls, self.segments).min_norm().distance

    def min_norm(self) -> MinNorm:
        """The least-norm element; `gap` and `lower_bound` come from the support function.

        In closed form for one ball whose matrix is a multiple of orthonormal rows (a 2-norm of coordinates), else by
        accelerated projected gradient.
        """
        x = self._closed_form()
        steps = 1
        if x is None:
            x, steps = self._projected()
        squared = float(x @ x)
        least = -self.support(-x)
        distance = float(np.sqrt(squared))
        lower = max(0.0, least / distance) if distance > 0 else 0.0
        return MinNorm(x, np.ones(0), distance, min(lower, distance), squared - least, steps)

    def _closed_form(self) -> np.ndarray | None:
        if len(self.balls) != 1 or len(self.segments):
            return None
        ball = self.balls[0]
        inner = ball @ ball.T
        square = float(inner[0, 0])
        if not np.array_equal(inner, square * np.eye(len(ball))):
            return None
        inside = ball.T @ (ball @ self.centre) / square
        size, radius = float(np.linalg.norm(inside)), float(np.sqrt(square))
        kept = max(0.0, 1 - radius / size) if size > 0 else 0.0
        return np.asarray(self.centre - inside + kept * inside)

    def _projected(self) -> tuple[np.ndarray, int]:
        blocks = [*self.balls, *(row[None, :] for row in self.segments)]
        matrix = np.vstack(blocks)
        ends = np.cumsum([len(block) for block in blocks])[:-1]
        step = 1 / max(float(np.linalg.norm(matrix, 2)) ** 2, 1e-300)
        u = at = np.zeros(len(matrix))
        momentum, x = 1.0, self.centre
        for count in range(1, _STEPS + 1):
            parts = np.split(at - step * (matrix @ (self.centre + at @ matrix)), ends)
            new = np.concatenate([part / max(1.0, float(np.linalg.norm(part))) for part in parts])
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            at = new + (momentum - 1) / following * (new - u)
            u, momentum = new, following
            x = self.centre + u @ matrix
            if count % 50 == 0 and float(x @ x) + self.support(-x) <= 1e-15 * max(float(x @ x), 1e-15):
                break
        return np.asarray(x), count

    def outline(self, corners: int = 96) -> np.ndarray:
        """(corners, 2) points of its boundary, in the plane."""
        found = []
        for angle in np.linspace(0, 2 * np.pi, corners, endpoint=False):
            along = np.array([np.cos(angle), np.sin(angle)])
            point = self.centre + np.sign(self.segments @ along) @ self.segments
            for ball in self.balls:
                image = ball @ along
                size = float(np.linalg.norm(image))
                point = point + (image / size if size else image) @ ball
            found.append(point)
        return np.array(found)
