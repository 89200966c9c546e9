"""One axis of a drawing: its range, where a number lies on it, and its ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tameopt.report.numbers import pretty

_LARGEST = 1e140  # beyond it, ratios of axis limits overflow; a NaN's place is left empty, and so is theirs


def _drawable(number: float, log: bool) -> bool:
    return -_LARGEST < number < _LARGEST and (not log or number > 1 / _LARGEST)


@dataclass(frozen=True)
class Axis:
    """Numbers in [low, high] mapped to pixels in [start, end]; logarithmic when `log`."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    @classmethod
    def over(cls, numbers: Iterable[float], log: bool, start: float, end: float, margin: float = 0.03) -> Axis:
        """The axis that shows all drawable numbers, a little wider than they are.

        Numbers that are not finite, and on a logarithmic axis those that are not positive, are not drawable.
        """
        kept = [number for number in numbers if _drawable(number, log)]
        if not kept:
            kept = [1.0, 10.0] if log else [0.0, 1.0]
        low, high = min(kept), max(kept)
        if log:
            if high / low < 1.0 + 1e-6:
                low, high = low / 2, high * 2
            factor = (high / low) ** margin
            return cls(low / factor, high * factor, True, start, end)
        # below 1e-9 the ticks of float64 numbers could not be told apart
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            half = abs(low) / 10 or 1.0
            low, high = low - half, high + half
        width = (high - low) * margin
        return cls(low - width, high + width, False, start, end)

    def position(self, number: float) -> float:
        """Where a number lies, in pixels; NaN when it cannot be drawn on this axis."""
        if not math.isfinite(number) or (self.log and number <= 0):
            return math.nan
        if self.log:
            share = (math.log(number) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (number - self.low) / (self.high - self.low)
        # what lies a thousand frames away is no mark on the page
        return self.start + share * (self.end - self.start) if abs(share) < 1e3 else math.nan

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """About `count` round numbers inside the range, with their labels.

        >>> [label for _, label in Axis(0.0, 1000.0, False, 0, 1).ticks()]
        ['0', '200', '400', '600', '800', '1,000']
        >>> [label for _, label in Axis(0.001, 10.0, True, 0, 1).ticks()]
        ['0.001', '0.01', '0.1', '1', '10']
        """
        return self._log_ticks(count) if self.log else self._linear_ticks(count)

    def _linear_ticks(self, count: int) -> list[tuple[float, str]]:
        raw = (self.high - self.low) / max(count, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * min((factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999), default=10)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        ticks = []
        for index in range(first, last + 1):
            number = index * step
            plain = step >= 1e-4 and abs(number) < 1e6
            ticks.append((number, f"{number:,.{decimals}f}" if plain and number else pretty(number)))
        return ticks

    def _log_ticks(self, count: int) -> list[tuple[float, str]]:
        first, last = math.floor(math.log10(self.low) - 1e-9), math.ceil(math.log10(self.high) + 1e-9)
        decades = math.log10(self.high / self.low)
        factors = (1,) if decades >= 3 else ((1, 3) if decades >= 1.4 else (1, 2, 5))
        stride = max(1, math.ceil((last - first) / (count + 1)))
        numbers = [
            factor * 10.0**power
            for power in range(first, last + 1)
            if power % stride == 0 or len(factors) > 1
            for factor in factors
        ]
        inside = [number for number in numbers if self.low * (1 - 1e-9) <= number <= self.high * (1 + 1e-9)]
        if len(inside) < 2:  # a range within one factor of two reads better in round numbers
            linear = Axis(self.low, self.high, False, self.start, self.end)
            return [tick for tick in linear._linear_ticks(count) if tick[0] > 0]
        return [(number, pretty(number)) for number in inside]
