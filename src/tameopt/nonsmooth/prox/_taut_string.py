"""Total variation denoising of rows, compiled: dynamic programming over the derivative of the cost-to-go.

Let C_i(x) be the least cost of the first i + 1 entries when the last is x. Its derivative is increasing and
piecewise linear; adding an entry clips it to [-t, t] and adds a line, so it is kept as a double-ended queue of
knots, each with the change of slope and intercept there. Every knot enters once and leaves once: linear time
(Johnson, J. Comput. Graph. Statist. 2013).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def _row(y: np.ndarray, t: float, x: np.ndarray, knot: np.ndarray, slope: np.ndarray, rise: np.ndarray) -> None:
    """One row y: (n,) to x: (n,); knot, slope, rise: (2 n,) workspace."""
    n = y.shape[0]
    if n == 1:
        x[0] = y[0]
        return
    low, high = np.empty(n - 1), np.empty(n - 1)
    first, last = n - 1, n
    low[0], high[0] = y[0] - t, y[0] + t
    # the derivative of C_0 is x - y_0, clipped: slope +1 begins at low[0] and ends at high[0]
    knot[first], slope[first], rise[first] = low[0], 1.0, -y[0] + t
    knot[last], slope[last], rise[last] = high[0], -1.0, y[0] + t
    for k in range(1, n):
        # left of all knots the derivative is (x - y_k) - t, right of them (x - y_k) + t
        left_slope, left_rise = y[k] * 0.0 + 1.0, -y[k] - t
        target = -t if k < n - 1 else 0.0
        at = first
        while at <= last and left_slope * knot[at] + left_rise <= target:
            left_slope += slope[at]
            left_rise += rise[at]
            at += 1
        root = (target - left_rise) / left_slope
        if k == n - 1:
            x[n - 1] = root
            break
        right_slope, right_rise = y[k] * 0.0 + 1.0, -y[k] + t
        end = last
        while end >= at and right_slope * knot[end] + right_rise >= t:
            right_slope -= slope[end]
            right_rise -= rise[end]
            end -= 1
        low[k], high[k] = root, (t - right_rise) / right_slope
        first, last = at - 1, end + 1
        knot[first], slope[first], rise[first] = low[k], left_slope, left_rise + t
        knot[last], slope[last], rise[last] = high[k], -right_slope, t - right_rise
    for k in range(n - 2, -1, -1):
        x[k] = min(max(x[k + 1], low[k]), high[k])


@functools.cache
def compiled() -> Any:
    """rows: (m, n) float64, t, out: (m, n) float64 -> None, compiled by numba at the first call."""
    import numba

    row = numba.njit(_row)

    @numba.njit(nogil=True)
    def rows(v: np.ndarray, t: float, out: np.ndarray) -> None:
        n = v.shape[1]
        knot, slope, rise = np.empty(2 * n), np.empty(2 * n), np.empty(2 * n)
        for i in range(v.shape[0]):
            row(v[i], t, out[i], knot, slope, rise)

    return rows
