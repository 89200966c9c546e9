"""How gradient descent leaves a strict saddle: its distance from it, step by step, from starts close by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.iterate import batched
from tameopt.picture import Picture, Series
from tameopt.problem import Problem


@dataclass(frozen=True)
class SaddleEscape:
    """Runs of gradient descent from random points on a small sphere around a saddle.

    saddle: (d,). distances: (n, K + 1) norm(theta_k - saddle). factor: 1 + alpha abs(lambda_min), what the distance
    grows by each step at most, as long as the quadratic at the saddle is all of F and alpha L <= 2.
    """

    saddle: torch.Tensor
    distances: torch.Tensor
    factor: float
    alpha: float

    @property
    def left(self) -> torch.Tensor:
        """(n,) int64 the first step at ten times the starting distance, -1 where there was none."""
        far = self.distances >= 10 * self.distances[:, :1]
        return torch.where(far.any(dim=1), far.int().argmax(dim=1), -1)

    def __repr__(self) -> str:
        left = self.left
        gone = left[left >= 0]
        steps = f" after {int(gone.min())} to {int(gone.max())} steps" if gone.numel() else ""
        return f"SaddleEscape({gone.numel()} of {left.numel()} runs left{steps}, factor {self.factor:.4g} a step)"

    def picture(self, title: str = "Escape from a saddle") -> Picture:
        """Distance from the saddle against the step, on a logarithmic axis, with the predicted growth."""
        steps = list(range(self.distances.shape[1]))
        runs_x: list[float] = []
        runs_y: list[float] = []
        for row in self.distances.tolist():
            runs_x += [*steps, math.nan]
            runs_y += [*row, math.nan]
        begin, end = float(self.distances[0, 0]), float(self.distances.nan_to_num(0.0).max())
        last = min(steps[-1], int(math.log(max(end / begin, 1.0)) / math.log(self.factor)) + 1)
        predicted = [begin * self.factor**k for k in range(last + 1)]
        return Picture(
            name="escape",
            title=title,
            x_label="step",
            y_label="distance from the saddle",
            series=(
                Series.of(f"{self.distances.shape[0]} starts", runs_x, runs_y),
                Series.of("(1 + alpha abs(lambda_min))^k", list(range(last + 1)), predicted),
            ),
            y_log=True,
            caption=f"Random starts at distance {begin:.2g}; near the saddle the distance grows by at most "
            f"{self.factor:.4g} a step.",
        )


def saddle_escape(
    F: Problem,
    saddle: torch.Tensor,
    alpha: float,
    *,
    lambda_min: float,
    num_starts: int = 12,
    num_steps: int | None = None,
    distance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> SaddleEscape:
    """Gradient descent with step alpha from random points at `distance` from a strict saddle.

    saddle: (d,) a critical point, lambda_min < 0 the smallest eigenvalue of the Hessian there (`curvature.classify`
    gives both). num_steps: by default three times what the predicted growth takes to distance 1, at least 20 and at
    most 2,000. generator: of the starts; a fresh one seeded 0 when None.

    Raises ValueError when lambda_min is not negative: then no direction leads away by itself. Cost: num_starts *
    num_steps gradients.

    >>> F = Problem.from_function(lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, torch.zeros(2).double())
    >>> saddle_escape(F, torch.zeros(2), 0.1, lambda_min=-1.0, num_starts=4).left.min() > 0
    tensor(True)
    """
    if not lambda_min < 0:
        raise ValueError(f"lambda_min must be < 0 at a strict saddle, got {lambda_min:g}: nothing pushes away there.")
    if not alpha > 0:
        raise ValueError(f"alpha must be > 0, got {alpha:g}: a descent step needs alpha > 0.")
    factor = 1 - alpha * lambda_min
    if num_steps is None:
        num_steps = min(max(int(3 * math.log(1 / distance) / math.log(factor)), 20), 2_000)
    generator = generator or torch.Generator().manual_seed(0)
    at = F.at(saddle)
    directions = torch.randn(num_starts, F.dim, generator=generator, dtype=torch.float64).to(at)
    points = at + distance * directions / directions.norm(dim=1, keepdim=True)
    step = batched(GradientMap(F, alpha), points)
    distances = []
    for k in range(num_steps + 1):
        distances.append((points - at).norm(dim=1))
        if k < num_steps:
            points = step(points)
    return SaddleEscape(at, torch.stack(distances, 1).cpu(), factor, alpha)
