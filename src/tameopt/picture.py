"""Pictures as plain data: what an analysis wants drawn, without a drawing library.

Analyses make them, the report draws them; they serialise to JSON with the diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["line", "points", "band", "steps", "bars", "vline", "hline"]


@dataclass(frozen=True)
class Series:
    """One curve, cloud, band or reference line.

    x, y: equal lengths; for "band" y is the lower and y_upper the upper edge; for "vline" x holds the
    positions and y is empty, for "hline" the converse. A NaN breaks a line.
    """

    label: str
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    y_upper: tuple[float, ...] = ()
    style: Style = "line"

    @staticmethod
    def of(
        label: str,
        x: Sequence[float],
        y: Sequence[float],
        style: Style = "line",
        y_upper: Sequence[float] = (),
    ) -> Series:
        """A series from any sequences of numbers (lists, arrays, tensors).

        Raises ValueError when x and y differ in length for a curve, cloud, band, steps or bars.
        """
        xs, ys, uppers = (tuple(float(number) for number in numbers) for numbers in (x, y, y_upper))
        if style not in ("vline", "hline") and len(xs) != len(ys):
            raise ValueError(f"x and y must have equal lengths, got {len(xs)} and {len(ys)} in {label!r}.")
        return Series(label, xs, ys, uppers, style)


@dataclass(frozen=True)
class Image:
    """A field on a grid: z[row][column] at y[row], x[column]; contours where levels are given."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[tuple[float, ...], ...]
    label: str = ""
    levels: tuple[float, ...] = ()
    categorical: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One pair of axes.

    name: stable, a file name without extension; caption: one sentence that says what to see.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = ()
    image: Image | None = None
    x_log: bool = False
    y_log: bool = False
    caption: str = ""
