"""Oscillation: F swings with a period of its own instead of falling."""

from __future__ import annotations

import numpy as np

from tameopt.audit.symptoms.history import Array, History, Series
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

CLAIM = "run.oscillates"
_FEWEST = 60
_CORRELATION = 0.5  # of the detrended loss with itself one period later; noise alone has no such peak
_CYCLES = 4  # periods that must fit in what is looked at
_AMPLITUDE = 0.05  # swings below this share of the level are a ripple
_DECAY = 0.25  # swings that shrink to this share over the half are dying out by themselves


def find(history: History) -> Finding:
    """run.oscillates, from the loss of every step over the second half of the run."""
    series = history.batch.last(0.5)
    if series.size < _FEWEST or not bool((np.diff(series.steps) == 1).all()):
        return unknown(
            CLAIM,
            "An oscillation cannot be told from this record.",
            missing=f"the loss of at least {2 * _FEWEST} consecutive steps",
            remedy="record 'loss' at every step",
        )
    how = f"autocorrelation of the detrended loss, steps {series.steps[0]:,} to {series.steps[-1]:,}"
    period, correlation, amplitude, decay = measure(series)
    if history.meta.get("sampling") == "reshuffled" and _is_epoch(period, history):
        return refuted(
            CLAIM,
            f"The loss repeats itself every {period} steps: that is one epoch, not an oscillation.",
            {"period": period, "correlation": correlation},
            method=how,
            scope=Scope.RUN,
        )
    if period == 0 or correlation < _CORRELATION or amplitude < _AMPLITUDE or decay < _DECAY:
        return refuted(
            CLAIM,
            "F does not swing: " + _why_not(period, correlation, amplitude, decay) + ".",
            {"period": period, "correlation": correlation, "amplitude": amplitude, "decay": decay},
            method=how,
            scope=Scope.RUN,
        )
    return measured(
        CLAIM,
        f"F swings with a period of {period} steps, by {100 * amplitude:.3g}% of its level (correlation "
        f"{correlation:.2f} one period later).",
        float(period),
        method=how,
        error_kind=f"{_CYCLES} periods or more were seen",
        scope=Scope.RUN,
        sample_size=series.size,
        witness={"correlation": correlation, "amplitude": amplitude, "decay": decay},
    )


def measure(series: Series) -> tuple[int, float, float, float]:
    """(period, correlation, amplitude, decay) of the strongest swing; period 0 when there is none.

    amplitude: peak-to-peak of the detrended series as a share of its mean level. decay: the swing in the last
    third as a share of that in the first.
    """
    rest = _detrended(series.values)
    level = float(np.abs(series.values).mean())
    scale = float(rest.std())
    if not scale > 1e-12 * max(level, 1e-300):
        return 0, 0.0, 0.0, 0.0
    third = rest.size // 3
    first, last = float(np.ptp(rest[:third])), float(np.ptp(rest[-third:]))
    decay = last / first if first > 0 else 0.0
    # a swing that shrinks is compared with itself after its envelope is divided out
    correlations = _autocorrelation(_level_envelope(rest))
    period = _first_peak(correlations)
    amplitude = float(np.quantile(rest, 0.95) - np.quantile(rest, 0.05)) / level if level > 0 else 0.0
    return period, float(correlations[period]) if period else 0.0, amplitude, decay


def _detrended(values: Array) -> Array:
    x = np.linspace(-1.0, 1.0, values.size)
    rest: Array = values - np.polynomial.Polynomial.fit(x, values, 2)(x)
    return rest


def _level_envelope(rest: Array) -> Array:
    parts = np.array_split(rest, 6)
    sizes = np.array([max(float(part.std()), 1e-300) for part in parts])
    centres = np.array([part.size * (i + 0.5) for i, part in enumerate(parts)])
    envelope: Array = np.exp(np.interp(np.arange(rest.size), centres, np.log(sizes)))
    return rest / envelope


def _autocorrelation(rest: Array) -> Array:
    """(lags,) correlation of the series with itself at lags 0 .. size / _CYCLES."""
    rest = rest - rest.mean()
    size = 1 << (2 * rest.size - 1).bit_length()
    power = np.abs(np.fft.rfft(rest, size)) ** 2
    sums = np.fft.irfft(power, size)[: rest.size // _CYCLES + 1]
    counts = rest.size - np.arange(sums.size)
    found: Array = (sums / counts) / (sums[0] / rest.size)
    return found


def _first_peak(correlations: Array) -> int:
    """The least lag >= 2 at which the correlation peaks near its largest value after it first went negative."""
    below = np.flatnonzero(correlations < 0)
    if not below.size:
        return 0
    start = int(below[0]) + 1
    if start >= correlations.size - 1:
        return 0
    rest = correlations[start:]
    best = float(rest.max())
    for offset in np.flatnonzero(rest >= 0.9 * best):
        lag = start + int(offset)
        left = correlations[lag - 1]
        right = correlations[lag + 1] if lag + 1 < correlations.size else -1.0
        if correlations[lag] >= left and correlations[lag] >= right and lag >= 2:
            return lag
    return 0


def _is_epoch(period: int, history: History) -> bool:
    n, size = history.meta.get("n"), history.meta.get("batch_size")
    if not n or not size or period == 0:
        return False
    epoch = -(-int(n) // int(size))
    return min(period % epoch, epoch - period % epoch) <= max(1, epoch // 20)


def _why_not(period: int, correlation: float, amplitude: float, decay: float) -> str:
    if period == 0 or correlation < _CORRELATION:
        return f"its detrended part has no period (best correlation {correlation:.2f})"
    if amplitude < _AMPLITUDE:
        return f"its swing is {100 * amplitude:.2g}% of its level"
    return f"its swing shrinks to {100 * decay:.3g}% within the second half of the run"
