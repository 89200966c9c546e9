"""Critical points in words and as a picture: how many of which kind, and F against the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tameopt.picture import Picture, Series

_PLURALS = {"minimum": "minima", "maximum": "maxima", "strict saddle": "strict saddles"}


def kinds_in_words(kinds: Sequence[str]) -> str:
    """How many of which kind.

    >>> kinds_in_words(["minimum", "strict saddle", "minimum"]), kinds_in_words([])
    ('2 minima, 1 strict saddle', 'none')
    """
    counts = sorted(Counter(kinds).items())
    return ", ".join(f"{n} {_PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in counts) or "none"


def index_picture(kinds: Sequence[str], indices: Sequence[int | None], values: Sequence[float]) -> Picture:
    """F against the index, one mark for each critical point (or class of them), in series by kind.

    Points whose index is not known are left out, and the caption counts them.
    """
    series = []
    for kind in dict.fromkeys(kinds):
        found = [
            (index, value) for k, index, value in zip(kinds, indices, values, strict=True) if k == kind
            and index is not None
        ]  # fmt: skip
        series.append(Series.of(kind, [float(index) for index, _ in found], [value for _, value in found], "points"))
    hidden = sum(index is None for index in indices)
    return Picture(
        name="critical-points",
        title=f"Critical points: {kinds_in_words(kinds)}",
        x_label="index: directions that curve down",
        y_label="F",
        series=tuple(series),
        caption=("Each mark is a critical point, or a class of alike ones." if kinds else "None was found.")
        + (f" {hidden} of unknown index are not shown." if hidden else ""),
    )
