"""The limit set of F(theta_k): an interval, whose ends we follow as the run goes on.

Under the corollary of the lecture (tame F, bounded iterates, Robbins-Monro steps, martingale-difference noise)
the limit set is one critical value. A finite run can only be consistent with that, never prove it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class LimitSet:
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


def limit_set(steps: np.ndarray, values: np.ndarray, times: np.ndarray | None = None, blocks: int = 4) -> LimitSet:
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
