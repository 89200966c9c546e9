"""The limit set of F(theta_k): an interval, whose ends we follow as the run goes on.

Under the corollary of the lecture (tame F, bounded iterates, Robbins-Monro steps, martingale-difference noise)
the limit set is one critical value. A finite run can only be consistent with that, never prove it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from tameopt.noise._display import HtmlText
from tameopt.problem import Problem
from tameopt.run import Run


@dataclass(frozen=True)
class LimitSet(HtmlText):
    """The range of F over consecutive blocks of the second half of a run.

    starts: (B,) first step of each block. lower, upper: (B,) least and largest F in it. counts: (B,) values in it.
    verdict: "shrinking" (the range narrows: consistent with one critical value), "steady" (it does not),
    "drifting" (its ends still move by more than its width), or "too short".
    """

    starts: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    counts: np.ndarray
    verdict: Literal["shrinking", "steady", "drifting", "too short"]

    @property
    def width(self) -> float:
        """The width of the last block's range."""
        return float(self.upper[-1] - self.lower[-1]) if self.lower.size else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The last block's range."""
        return float(self.lower[-1]), float(self.upper[-1])

    def __repr__(self) -> str:
        if not self.lower.size:
            return "LimitSet(too short)"
        low, high = self.interval
        return f"LimitSet({self.verdict}: F in [{low:.6g}, {high:.6g}] since step {int(self.starts[-1]):,})"


def limit_set(run: Run, blocks: int = 4) -> LimitSet:
    """The range of F(theta_k) over `blocks` blocks of equal time in the second half of a recorded run.

    Reads the recorded exact values "full_loss"; no gradient is computed. "too short" below 6 values a block.
    """
    steps, values = run.series("full_loss")
    return limit_interval(steps, values, recorded_times(run, steps), blocks)


def recorded_times(run: Run, steps: np.ndarray) -> np.ndarray | None:
    """tau at these steps from the recorded step sizes; None when they were not recorded at every step."""
    at, alphas = run.series("lr")
    if not steps.size or not at.size or at[0] != 0 or not np.array_equal(at, np.arange(at.size)):
        return None
    times = np.concatenate([[0.0], np.cumsum(alphas)])
    return times[steps] if steps.max() < times.size else None


def limit_interval(
    steps: np.ndarray, values: np.ndarray, times: np.ndarray | None = None, blocks: int = 4
) -> LimitSet:
    """The range of F over `blocks` blocks of equal length in time, over the second half of the run.

    steps: (m,) int64; values: (m,) F(theta_k) on the full data (mini-batch losses would add their own noise);
    times: (m,) tau_k, by default the steps themselves.
    """
    axis = steps.astype(np.float64) if times is None else times
    finite = np.isfinite(values)
    steps, values, axis = steps[finite], values[finite], axis[finite]
    empty = np.array([])
    if steps.size < 6 * blocks or axis[-1] <= axis[0]:
        return LimitSet(empty, empty, empty, empty, "too short")
    edges = np.linspace((axis[0] + axis[-1]) / 2, axis[-1], blocks + 1)
    members = [
        (axis >= low) & ((axis < high) if number < blocks - 1 else (axis <= high))
        for number, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    counts = np.array([int(member.sum()) for member in members])
    if counts.min() < 3:
        return LimitSet(empty, empty, empty, empty, "too short")
    starts = np.array([int(steps[member][0]) for member in members])
    lower = np.array([values[member].min() for member in members])
    upper = np.array([values[member].max() for member in members])
    return LimitSet(starts, lower, upper, counts, _verdict(lower, upper))


def _verdict(lower: np.ndarray, upper: np.ndarray) -> Literal["shrinking", "steady", "drifting"]:
    widths = upper - lower
    level = max(abs(float(upper[-1])), abs(float(lower[-1])))
    if widths[-1] <= 1e-9 * level:
        return "shrinking"
    # Disjoint ranges of the last two blocks: F is on its way, and its range says where it was, not where it ends.
    drifts = upper[-1] < lower[-2] or lower[-1] > upper[-2]
    if widths[-1] <= 0.8 * widths[0] and bool((np.diff(widths) <= 0.25 * widths[0]).all()):
        return "shrinking"
    return "drifting" if drifts else "steady"


@dataclass(frozen=True)
class AccumulationPoint:
    """A place that the end of a run keeps coming back to.

    centre: (d,) the mean of its iterates; visits: how many; radius: their largest distance from the centre.
    value, gradient_norm: F and norm(grad F) at the centre; a true accumulation point has gradient 0.
    """

    centre: torch.Tensor
    visits: int
    radius: float
    value: float
    gradient_norm: float

    def __repr__(self) -> str:
        return (
            f"AccumulationPoint({self.visits} visits within {self.radius:.3g}, F = {self.value:.6g}, "
            f"norm(grad F) = {self.gradient_norm:.3g})"
        )


def accumulation_points(problem: Problem, run: Run, *, iterates: int = 64) -> tuple[AccumulationPoint, ...]:
    """Clusters of the recorded iterates in the last quarter of a run, most visited first, with the gradient there.

    iterates: at most so many are looked at. Two iterates belong together within twice the root mean square move
    between consecutive looked-at ones: a walk that only drifts gives one long cluster, two basins give two.
    Costs a gradient a cluster.

    Raises ValueError when fewer than 4 finite iterates were recorded in the last quarter.
    """
    steps = run.vector_steps("theta")
    late = steps[steps >= 0.75 * steps.max()] if steps.size else steps
    if late.size > iterates:
        late = late[np.unique(np.linspace(0, late.size - 1, iterates).astype(int))]
    thetas = run.vectors(late).to(torch.float64) if late.size else torch.zeros(0, problem.dim)
    thetas = thetas[torch.isfinite(thetas).all(1)]
    if thetas.shape[0] < 4:
        raise ValueError(
            f"at least 4 finite iterates of the last quarter must be recorded, got {thetas.shape[0]}: record theta "
            "more often."
        )
    reach = 2.0 * float(thetas.diff(dim=0).square().sum(1).mean().sqrt())
    near = torch.cdist(thetas, thetas, compute_mode="donot_use_mm_for_euclid_dist") <= reach
    points = []
    for members in _components(near):
        centre = thetas[members].mean(0)
        value, gradient = problem.value_and_gradient(centre.to(problem.device, problem.dtype))
        radius = float((thetas[members] - centre).norm(dim=1).max())
        points.append(AccumulationPoint(centre, len(members), radius, float(value), float(gradient.norm())))
    return tuple(sorted(points, key=lambda point: -point.visits))


def _components(near: torch.Tensor) -> list[list[int]]:
    """The connected components of a symmetric (m, m) relation."""
    left, found = set(range(near.shape[0])), []
    while left:
        component, frontier = set(), {min(left)}
        while frontier:
            component |= frontier
            frontier = {j for i in frontier for j in torch.nonzero(near[i])[:, 0].tolist()} - component
        left -= component
        found.append(sorted(component))
    return found
