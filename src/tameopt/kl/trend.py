"""Is a fluctuating series still falling? A trend with an interval that survives autocorrelation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Student's t, 97.5% quantile, for 1..30 degrees of freedom; past 30 the normal one is within 4%.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def student_quantile(degrees: int) -> float:
    """The 97.5% quantile of Student's t with that many degrees of freedom (three decimals; 1.96 + 2.4/d past 30)."""
    return _T975[degrees - 1] if degrees <= len(_T975) else 1.96 + 2.4 / degrees


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
