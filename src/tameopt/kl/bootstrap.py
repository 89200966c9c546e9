"""Bootstrap of residuals: series that vary and depend like them."""

from __future__ import annotations

import numpy as np

from tameopt.student import student_quantile


def lag_one(residuals: np.ndarray, parameters: int) -> float:
    """The lag-1 autocorrelation of regression residuals, corrected for its downward bias, at most 0.95.

    A regression with q parameters takes low frequencies out of m residuals; to first order the estimate is low by
    (1 + 3 rho + q (1 + rho)/2)/m (Marriott and Pope 1954 for q = 0; the q part was fitted by simulation).
    """
    m = residuals.size
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0.0 or m < 8:
        return 0.0
    rho = float(centred[:-1] @ centred[1:]) / power
    corrected = (rho + (1 + parameters / 2) / m) / (1 - (3 + parameters / 2) / m)
    return float(np.clip(corrected, -0.5, 0.95))


def resample(
    residuals: np.ndarray, replicates: int, generator: np.random.Generator, parameters: int = 3
) -> np.ndarray:
    """(replicates, m) series that vary and depend like the residuals: a pre-whitened block bootstrap.

    The residuals are whitened by their first-order autoregression, the innovations resampled in short circular
    blocks, and the autoregression run again. Blocks of the raw residuals alone (Kunsch 1989) break low frequencies
    and give intervals that are too short.
    """
    m = residuals.size
    rho = lag_one(residuals, parameters)
    centred = residuals - residuals.mean()
    innovations = centred[1:] - rho * centred[:-1]
    innovations = innovations - innovations.mean()
    # Independent points that m dependent ones are worth; the spread is set so that the series has the residuals'
    # variance, with the lost parameters restored and Student's quantile for the normal one.
    worth = max(parameters + 2.0, m * (1 - rho) / (1 + rho))
    widen = np.sqrt(worth / (worth - parameters)) * student_quantile(int(worth - parameters)) / 1.96
    target = float(centred.std()) * widen * np.sqrt(1 - rho**2)
    spread = float(innovations.std())
    if spread > 0:
        innovations = innovations * (target / spread)
    length = max(1, round(m**0.25))
    warm = 3 * length + int(np.ceil(6 / (1 - abs(rho))))
    count = -(-(m + warm) // length)
    starts = generator.integers(0, m - 1, size=(replicates, count))
    index = (starts[:, :, None] + np.arange(length)).reshape(replicates, -1)[:, : m + warm] % (m - 1)
    drawn = innovations[index]
    series = np.empty_like(drawn)
    series[:, 0] = drawn[:, 0]
    for k in range(1, m + warm):
        series[:, k] = rho * series[:, k - 1] + drawn[:, k]
    return series[:, warm:]
