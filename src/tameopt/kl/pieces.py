"""The pieces of a record: plateaus, falls, and the tail that follows one law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.kl.decay_law import DecayLaw
from tameopt.kl.series import LossSeries

_FLAT = 0.05  # our choice: a plateau keeps the loss within a twentieth of the whole fall
_FEWEST = 6  # our choice: fewer points are called part of their neighbour


@dataclass(frozen=True)
class Piece:
    """A stretch of the record.

    kind: "plateau", "falling", "rising", or the regime of the fit for the last piece. first, last: steps. F_first,
    F_last: the loss there.
    """

    kind: str
    first: int
    last: int
    F_first: float
    F_last: float

    def __str__(self) -> str:
        return (
            f"{self.kind} over steps {self.first:,} to {self.last:,}: F from {self.F_first:.4g} to {self.F_last:.4g}"
        )


def _piece(kind: str, series: LossSeries, start: int, stop: int) -> Piece:
    last = stop - 1
    return Piece(
        kind,
        int(series.steps[start]),
        int(series.steps[last]),
        float(series.values[start]),
        float(series.values[last]),
    )


def _earlier(series: LossSeries, start: int, law: DecayLaw) -> int:
    """The first index from which on the tail's law, continued backwards, still describes the record."""
    span = float(series.clock[-1] - series.clock[start])
    t = (series.clock[:start] - series.clock[start]) / span
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # before its pole a power law has no value: it then describes nothing
        curve = law.curve(np.maximum(t, -0.999 / max(law.s * law.b, 1e-12)))
    misses = np.abs(series.values[:start] - curve) > 4 * np.std(series.values[start:] - law.fitted) + 0.1 * np.abs(
        curve - law.F_star
    )
    index = start
    while index > 0 and not misses[max(0, index - 3) : index].all():
        index -= 1
    return index


def pieces(series: LossSeries, start: int, law: DecayLaw | None, kind: str) -> tuple[Piece, ...]:
    """The record cut into pieces: its tail from index `start` on follows `law`, and is of that kind.

    Before the tail, the longest flat stretch that ends where the tail begins is a plateau; what is left falls (or
    rises), and ends with a plateau of its own, and so on.
    """
    if law is not None and start > 0:
        start = _earlier(series, start, law)
    found = [_piece(kind, series, start, series.size)]
    band = _FLAT * float(np.ptp(series.values))
    stop = start
    while stop >= _FEWEST:
        values = series.values[:stop]
        flat = _flat_from(values, band)
        if stop - flat >= _FEWEST:
            found.append(_piece("plateau", series, flat, stop))
            stop = flat
            continue
        # back to the end of the nearest earlier plateau
        begin = next((end for end in range(stop - 1, 0, -1) if end - _flat_from(values[:end], band) >= _FEWEST), 0)
        falls = values[begin] > values[-1]
        found.append(_piece("falling" if falls else "rising", series, begin, stop))
        stop = begin
    return tuple(reversed(found))


def _flat_from(values: np.ndarray, band: float) -> int:
    """The least index from which on the values stay within the band of each other (isolated spikes are let be)."""
    smooth = values if values.size < 5 else np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    low = np.minimum.accumulate(smooth[::-1])
    high = np.maximum.accumulate(smooth[::-1])
    inside = int(np.searchsorted(high - low, band, side="right"))
    return 0 if inside == smooth.size else values.size - inside
