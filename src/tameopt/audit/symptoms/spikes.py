"""Spikes: the loss jumps well above its surroundings over several batches, and comes back."""

from __future__ import annotations

import numpy as np

from tameopt.audit.symptoms.history import Array, History, rolling_median, spread, trailing_median
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

CLAIM = "run.spikes"
_SMOOTH = 5  # a hard batch or two are no spike: most of five consecutive batches must be high
_TIMES = 3.0  # a spike is at least this many times its surroundings
_DEVIATIONS = 8.0
_FEWEST = 100


def find(history: History) -> Finding:
    """run.spikes, from the loss of every step."""
    series = history.batch
    if series.size < _FEWEST:
        return unknown(
            CLAIM,
            "Spikes cannot be told: too few losses were recorded.",
            missing=f"the loss of at least {_FEWEST} consecutive steps, {series.size} are there",
            remedy="record 'loss' at every step",
        )
    how = f"{_SMOOTH}-step medians of the loss against their rolling median, {series.size:,} steps"
    peaks = _peaks(series.values)
    if not peaks:
        return refuted(
            CLAIM,
            f"No spike: the {_SMOOTH}-step median of the loss never stood {_TIMES:g} times above its surroundings.",
            {"largest_ratio": _largest_ratio(series.values), "steps": series.size},
            method=how,
            scope=Scope.RUN,
        )
    first, last = peaks[0], peaks[-1]
    cause, numbers = _cause(history, first)
    ratio = max(peak.ratio for peak in peaks)
    where = ", ".join(f"{int(series.steps[peak.top]):,}" for peak in peaks[:4]) + (" …" if len(peaks) > 4 else "")
    return measured(
        CLAIM,
        f"{len(peaks)} spike{'s' if len(peaks) > 1 else ''} of the loss, up to {ratio:.3g} times its "
        f"surroundings, at "
        f"step{'s' if len(peaks) > 1 else ''} {where}. {cause}",
        float(len(peaks)),
        method=how,
        error_kind="exact count of what was recorded",
        scope=Scope.RUN,
        sample_size=series.size,
        witness={
            "steps": [int(series.steps[peak.top]) for peak in peaks],
            "ratio": ratio,
            "onset": int(series.steps[first.onset]),
            "last_end": int(series.steps[last.end]),
            **numbers,
        },
    )


class _Peak:
    """Indices of onset, top and end of one spike, and its height as a multiple of its surroundings."""

    def __init__(self, onset: int, top: int, end: int, ratio: float) -> None:
        self.onset, self.top, self.end, self.ratio = onset, top, end, ratio


def _surroundings(values: Array) -> tuple[Array, Array]:
    smooth = trailing_median(values, _SMOOTH)
    width = max(31, min(501, values.size // 8)) | 1
    return smooth, rolling_median(values, width)


def _largest_ratio(values: Array) -> float:
    smooth, median = _surroundings(values)
    skipped = values.size // 20
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = smooth[skipped:] / median[skipped:]
    return float(np.nanmax(ratios)) if np.isfinite(ratios).any() else float("nan")


def _peaks(values: Array) -> list[_Peak]:
    smooth, median = _surroundings(values)
    if (median <= 0).any():
        # ratios need positive losses: measure from the least one
        shift = float(values.min())
        smooth, median = smooth - shift, median - shift
    deviation = np.maximum(spread(smooth - median), 1e-12 * np.abs(median))
    high = (smooth > _TIMES * median) & (smooth - median > _DEVIATIONS * deviation)
    # the start is steep by nature, and a rise that does not come back is no spike
    high[: max(10, values.size // 50)] = False
    found: list[_Peak] = []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]]).astype(int)))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        after = smooth[end : end + 200]
        if not after.size or not (after < 1.5 * np.maximum(median[begin], median[min(end, values.size - 1)])).any():
            continue
        if found and begin - found[-1].end < 4 * _SMOOTH:
            found[-1].end = int(end) - 1
            continue
        top = int(begin + np.argmax(smooth[begin:end]))
        onset = int(begin)
        while onset > 0 and values[onset - 1] > 1.5 * median[onset] and begin - onset < 50:
            onset -= 1
        found.append(_Peak(onset, top, int(end) - 1, float(smooth[top] / max(median[top], 1e-300))))
    return found


def _cause(history: History, peak: _Peak) -> tuple[str, dict[str, float]]:
    """What the steps before the first spike show: one batch with a huge gradient, or a growing oscillation."""
    norms = history.series("gradient_norm")
    losses = history.batch
    if norms.size != losses.size:
        return "The gradient norms that would tell its cause were not recorded.", {}
    before = slice(max(0, peak.onset - 200), max(1, peak.onset - 2))
    usual = float(np.median(norms.values[before]))
    window = slice(max(0, peak.onset - 2), peak.top + 1)
    largest = int(window.start + np.argmax(norms.values[window]))
    times = float(norms.values[largest] / usual) if usual > 0 else float("inf")
    numbers = {"gradient_norm_ratio": times, "culprit_step": int(norms.steps[largest])}
    rise = peak.top - peak.onset
    calm = losses.values[max(0, largest - 1)] < 2 * float(np.median(losses.values[before]))
    if calm and times > 5:
        return (
            f"The batch of step {int(norms.steps[largest]):,} set it off: its gradient was {times:.3g} "
            f"times the usual "
            "norm, the step before was calm.",
            numbers,
        )
    return f"It grew over {max(rise, 1)} steps, as an unstable step does.", numbers
