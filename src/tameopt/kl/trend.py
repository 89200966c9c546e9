"""Is a fluctuating series still falling? A trend with an interval that survives autocorrelation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.student import student_quantile


@dataclass(frozen=True)
class Trend:
    """The trend of a series over a window.

    slope: change a unit of the clock; interval: its 95% interval. level: mean over the window and
    level_interval. fluctuation: standard deviation about the trend. blocks: how many block means the interval
    rests on.
    """

    slope: float
    interval: tuple[float, float]
    level: float
    level_interval: tuple[float, float]
    fluctuation: float
    blocks: int

    @property
    def flat(self) -> bool:
        """Whether the interval contains 0."""
        return self.interval[0] <= 0.0 <= self.interval[1]


def trend(clock: np.ndarray, values: np.ndarray, blocks: int = 8) -> Trend:
    """The trend of values (m,) against clock (m,) by block means.

    The window is cut into blocks; their means are regressed on their centres and Student's t gives the interval.
    Block means of a short-range dependent series are nearly independent once a block is longer than the
    correlation time, so the interval holds without a model of the dependence (the method of batch means).

    Raises ValueError with fewer than 3 points.

    >>> t = trend(np.arange(80.0), 1.0 - 0.01 * np.arange(80.0))
    >>> round(t.slope, 12)
    -0.01
    """
    m = values.size
    if m < 3:
        raise ValueError(f"a trend needs at least 3 points, got {m}.")
    count = max(3, min(blocks, m // 2))
    parts = np.array_split(np.arange(m), count)
    centres = np.array([clock[part].mean() for part in parts])
    means = np.array([values[part].mean() for part in parts])
    x = centres - centres.mean()
    slope = float(x @ means / (x @ x))
    residuals = means - means.mean() - slope * x
    error = float(np.sqrt(residuals @ residuals / (count - 2)))
    half = student_quantile(count - 2) * error / float(np.sqrt(x @ x))
    level_half = student_quantile(count - 2) * error / np.sqrt(count)
    level = float(values.mean())
    about = values - level - slope * (clock - clock.mean())
    return Trend(
        slope,
        (slope - half, slope + half),
        level,
        (level - level_half, level + level_half),
        float(about.std(ddof=min(2, m - 1))),
        count,
    )
