"""Subgradient steps beside the flow that they follow: x' in -dF(x) exactly, and x_{k+1} = x_k - alpha g_k chattering.

A step that crosses a kink comes back with the next: the steps slide along a kink only on average, and how far
they are from the flow is of the order of alpha. The plot shows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth.subgradient_flow import inclusion
from tameopt.nonsmooth.trajectory import Inclusion

_GRID = 45  # points an axis of the field behind the curves: our choice
_LEVELS = 12


@dataclass(frozen=True)
class SubgradientSteps:
    """Iterates of x_{k+1} = x_k - alpha g_k, g_k as backprop returns it, beside the solution of the inclusion.

    iterates: (steps + 1, d). flow: the solution at the same times alpha k; distance: the largest between the two
    at those times. names: of the coordinates.
    """

    alpha: float
    iterates: np.ndarray
    flow: Inclusion
    names: tuple[str, ...]
    F: Callable[[torch.Tensor], torch.Tensor]

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(self.iterates - self.flow.points, axis=1).max())

    @property
    def corners(self) -> np.ndarray:
        """(m, 1 + d) time and point of the flow wherever it may turn, so that straight lines join them."""
        times, points = self.flow.times, self.flow.points
        events = [[float(event.t), *map(float, event.x)] for event in self.flow.events if float(event.t) <= times[-1]]
        rows = np.concatenate([np.column_stack([times, points]), np.array(events).reshape(-1, 1 + points.shape[1])])
        return rows[np.argsort(rows[:, 0], kind="stable")]

    def plot(self, ax: Any = None) -> Any:
        """Draw both on matplotlib axes, over time for d = 1, in the plane over level lines of F for d = 2.

        Returns the axes; new ones without `ax`. Raises ValueError for d > 2.
        """
        d = self.iterates.shape[1]
        if d > 2:
            raise ValueError(f"a plot needs d = 1 or 2, got d = {d}.")
        if ax is None:
            from tameopt.extras import require

            ax = require("matplotlib.figure", "a plot").Figure(figsize=(5, 4), layout="constrained").add_subplot()
        times = self.alpha * np.arange(len(self.iterates))
        steps = (times, self.iterates[:, 0]) if d == 1 else (self.iterates[:, 0], self.iterates[:, 1])
        flow = self.corners if d == 1 else self.corners[:, 1:]
        if d == 2:
            x, y, z = _field(self.F, self.iterates, self.flow.points)
            ax.contour(x, y, z, levels=_LEVELS, colors="0.75", linewidths=0.8)
            ax.set_aspect("equal")
        ax.plot(*steps, ".-", color="C1", linewidth=0.8, label=f"subgradient steps, alpha = {self.alpha:g}")
        ax.plot(
            *flow.T,
            color="black",
            linewidth=1.6,
            label="inclusion" + ("" if self.flow.unique else " (one of several)"),
        )
        ax.set(xlabel="t" if d == 1 else self.names[0], ylabel=self.names[0] if d == 1 else self.names[1])
        ax.legend()
        return ax

    def __repr__(self) -> str:
        return (
            f"SubgradientSteps({len(self.iterates) - 1} steps of {self.alpha:g}, at most {self.distance:.3g} from "
            f"the {self.flow.status} flow)"
        )


def subgradient_steps(
    F: Callable[[torch.Tensor], torch.Tensor],
    x0: Any,
    time: float,
    alpha: float,
    *,
    names: Sequence[str] = (),
    branch: int = 0,
    prox: Callable[[torch.Tensor, float], torch.Tensor] | None = None,
) -> SubgradientSteps:
    """Subgradient steps of length alpha from x0: (d,) up to that time, and the flow at the same times.

    branch, prox: as in `inclusion`, which also says what F may be. names: of the coordinates, for the picture.
    Cost: time / alpha gradients, and the flow. Raises ValueError unless 0 < alpha <= time.

    >>> round(subgradient_steps(lambda x: x.abs().sum(), [1], 2.0, 0.3).distance, 6)  # it jumps over the kink
    0.2
    """
    if not (0 < alpha <= time and math.isfinite(time)):
        raise ValueError(f"alpha and time must satisfy 0 < alpha <= time, got {alpha} and {time}.")
    steps = int(time / alpha + 1e-9)
    flow = inclusion(F, x0, [alpha * k for k in range(steps + 1)], branch=branch, prox=prox)
    x = torch.as_tensor([float(entry) for entry in x0], dtype=torch.float64)
    iterates = [x]
    for _ in range(steps):
        at = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(F(at), at)
        x = x - alpha * g
        iterates.append(x)
    path = torch.stack(iterates).numpy()
    given = tuple(names) or tuple(f"x_{j + 1}" for j in range(len(x)))
    return SubgradientSteps(alpha, path, flow, given, F)


def _field(
    F: Callable[[torch.Tensor], torch.Tensor], *curves: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid around the curves and F on it."""
    points = np.concatenate(curves)
    middle, reach = (points.max(0) + points.min(0)) / 2, max(0.6 * float(np.ptp(points, axis=0).max()), 1e-3)
    x, y = (np.linspace(centre - reach, centre + reach, _GRID) for centre in middle)
    with torch.no_grad():
        z = [[float(F(torch.tensor([a, b], dtype=torch.float64))) for a in x] for b in y]
    return x, y, np.array(z)
