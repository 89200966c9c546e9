"""The limit set of F(theta_k): an interval, whose ends we follow as the run goes on.

Under the corollary of the lecture (tame F, bounded iterates, Robbins-Monro steps, martingale-difference noise)
the limit set is one critical value. A finite run can only be consistent with that, never prove it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tameopt.noise._display import HtmlText
from tameopt.noise.windows import require_run
from tameopt.picture import Picture, Series
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

    @property
    def trend(self) -> tuple[float, float]:
        """By how much the lower and the upper end moved from the first block to the last; NaN when too short."""
        if not self.lower.size:
            return float("nan"), float("nan")
        return float(self.lower[-1] - self.lower[0]), float(self.upper[-1] - self.upper[0])

    @property
    def single_value(self) -> bool:
        """Whether the run is consistent with a single limit value; a finite run cannot show more."""
        return self.verdict == "shrinking"

    def picture(self, steps: np.ndarray, values: np.ndarray) -> Picture:
        """F at (m,) steps, (m,) values, with the range of each block as a band."""
        if not self.lower.size:
            raise ValueError("a limit set must have blocks to be drawn, this run is too short: record F more often.")
        ends = np.append(self.starts, steps[-1])
        # each block's band spans the block: a corner at its start and just before the next
        x = np.stack([ends[:-1], ends[1:]], axis=1).ravel()
        low, high = np.repeat(self.lower, 2), np.repeat(self.upper, 2)
        late = values[(steps >= self.starts[0]) & np.isfinite(values)]
        shown = steps >= self.starts[0]
        scale = bool((late > 0).all() and late.max() > 20 * late.min())
        return Picture(
            "limit-interval",
            "The range of F in the second half",
            "step",
            "F",
            (
                Series.of("F(theta_k)", steps[shown].tolist(), values[shown].tolist()),
                Series.of("range in each quarter of it", x.tolist(), low.tolist(), "band", high.tolist()),
            ),
            y_log=scale,
            caption="One limit value makes the band narrow to a line; its two ends are what is followed.",
        )

    def __repr__(self) -> str:
        if not self.lower.size:
            return "LimitSet(too short)"
        (low, high), (rise, fall) = self.interval, self.trend
        return (
            f"LimitSet({self.verdict}: F in [{low:.6g}, {high:.6g}] since step {int(self.starts[-1]):,}; over the "
            f"second half its ends moved by {rise:+.3g} and {fall:+.3g})"
        )


def limit_set(run: Run, blocks: int = 4) -> LimitSet:
    """The range of F(theta_k) over `blocks` blocks of equal time in the second half of a recorded run.

    Reads the recorded exact values "full_loss"; no gradient is computed. "too short" below 6 values a block.
    """
    steps, values = require_run(run).series("full_loss")
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
    if blocks < 3:
        raise ValueError(f"blocks must be at least 3, got {blocks}: fewer show no trend.")
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
    # Disjoint ranges of the last two blocks: F is on its way, and its range says where it was, not where it ends;
    # unless its moves shrink so fast that those to come, a geometric series, stay within the last range.
    drifts = bool(upper[-1] < lower[-2] or lower[-1] > upper[-2])
    moves = np.abs(np.diff((lower + upper) / 2))
    if drifts and not moves[-1] ** 2 <= widths[-1] * (moves[-2] - moves[-1]):
        return "drifting"
    if widths[-1] <= 0.8 * widths[0] and bool((np.diff(widths) <= 0.25 * widths[0]).all()):
        return "shrinking"
    return "drifting" if drifts else "steady"
