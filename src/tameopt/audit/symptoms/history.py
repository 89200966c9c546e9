"""The record of a run as the symptoms read it: each series once, finite parts only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tameopt.run import Run

Array = np.ndarray
_LONG = 50_000  # our choice: steps up to which every window is looked at


@dataclass(frozen=True)
class Series:
    """A recorded scalar: (m,) steps and numbers, finite, by increasing step."""

    steps: Array
    values: Array

    @property
    def size(self) -> int:
        """The number of points."""
        return int(self.values.size)

    def last(self, share: float) -> Series:
        """The points of the last `share` of the points."""
        start = int(self.size * (1 - share))
        return Series(self.steps[start:], self.values[start:])


@dataclass(frozen=True)
class History:
    """The series of a run that the symptoms look at."""

    run: Run

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The settings as recorded."""
        return self.run.meta

    def series(self, name: str) -> Series:
        """The finite part of a recorded scalar; empty when it was never recorded."""
        steps, values = self.run.series(name)
        keep = np.isfinite(values)
        return Series(steps[keep], values[keep])

    @cached_property
    def full(self) -> Series:
        """F(theta_k) on the grid."""
        return self.series("full_loss")

    @cached_property
    def batch(self) -> Series:
        """The mini-batch loss by step."""
        return self.series("loss")

    @cached_property
    def gradient(self) -> Series:
        """norm(grad F(theta_k)) on the grid, or the mini-batch gradient's norm where that is all there is."""
        full = self.series("full_gradient_norm")
        return full if full.size else self.series("gradient_norm")

    @cached_property
    def level(self) -> Series:
        """F(theta_k) where it was recorded often enough, else mini-batch losses averaged over blocks."""
        if self.full.size >= 12 or not self.batch.size:
            return self.full
        return blocks(self.batch, 100)

    @property
    def level_name(self) -> str:
        """What `level` holds, in words."""
        return "F" if self.level is self.full else "the batches' mean loss"

    @property
    def deterministic(self) -> bool:
        """Whether every step used all samples."""
        if self.meta.get("sampling") == "full batch":
            return True
        n, size = self.meta.get("n"), self.meta.get("batch_size")
        return bool(self.meta.get("sampling") == "reshuffled" and n and size and size >= n)

    @cached_property
    def alpha(self) -> float:
        """The last recorded step size that is > 0, NaN when none was."""
        sizes = self.series("lr").values
        positive = sizes[sizes > 0]
        return float(positive[-1]) if positive.size else math.nan

    @property
    def steps_done(self) -> int:
        """The number of steps taken."""
        return int(self.meta.get("steps_done", self.run.last_step + 1))


def blocks(series: Series, count: int) -> Series:
    """Means over `count` consecutive blocks, at the blocks' middle steps."""
    if series.size <= count:
        return series
    parts = np.array_split(np.arange(series.size), count)
    return Series(
        np.array([int(series.steps[part].mean()) for part in parts]),
        np.array([series.values[part].mean() for part in parts]),
    )


def rolling_median(values: Array, width: int) -> Array:
    """The median over a centred window of odd `width`, reflected at the ends.

    Of a long series it is taken at every (width / 16)-th place and interpolated: the cost stays some hundred numbers
    a step, and a million steps are read in seconds.
    """
    half = width // 2
    padded = np.concatenate([values[:half][::-1], values, values[::-1][:half]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)[: values.size]
    stride = max(1, width // 16) if values.size > _LONG else 1
    places = np.arange(0, values.size, stride)
    medians = np.concatenate(
        [np.median(windows[part], axis=1) for part in np.array_split(places, -(-len(places) // 4096))]
    )
    found: Array = medians if stride == 1 else np.interp(np.arange(values.size), places, medians)
    return found


def trailing_median(values: Array, width: int) -> Array:
    """The median of each value and the width - 1 before it; the first ones repeat the first value."""
    padded = np.concatenate([np.full(width - 1, values[0]), values])
    found: Array = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    return found


def spread(values: Array) -> float:
    """1.4826 times the median absolute deviation: the standard deviation of a Gaussian, deaf to outliers."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else math.nan
