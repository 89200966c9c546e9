"""A `Picture` as SVG: text stays text, colours are CSS variables, so one drawing serves light, dark and print.

No drawing library is needed. Lines with many points are thinned so that every extreme stays visible.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from tameopt.picture import Picture, Series
from tameopt.report._axis import Axis
from tameopt.report._field import image_markup
from tameopt.report.numbers import pretty
from tameopt.report.text import escaped, prose, svg_text, symbols

# our choice: at 350 px (a phone) 13 px text still shows at 10 px, in two columns of a wide page at 15 px
WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 46
_MOST_POINTS = 1500
COLOURS = 6


def draw_svg(picture: Picture) -> str:
    """One <svg> element for an HTML page with the report's style.

    Its colours are the CSS variables --c0 … --c5, --ink, --soft, --line and --faint.

    >>> picture = Picture("p", "A title", "step", "loss", (Series.of("loss", [0, 1], [2, 1]),))
    >>> draw_svg(picture).startswith("<svg")
    True
    """
    x_axis, y_axis = _axes(picture)
    marks = [_frame(picture, x_axis, y_axis)]
    clip = "clip-" + re.sub(r"[^A-Za-z0-9_-]", "-", picture.name)
    marks.append(f'<g clip-path="url(#{clip})">')
    if picture.image is not None:
        marks.append(image_markup(picture.image, x_axis, y_axis))
    # on a field, curves need an outline to be seen on dark and on bright cells alike
    outlined = "" if picture.image is None else " outlined"
    marks.append(f'<g class="curves{outlined}">')
    marks += [_series(series, index % COLOURS, x_axis, y_axis) for index, series in enumerate(picture.series)]
    marks.append("</g>")
    marks.append("</g>")
    description = describe(picture)
    return (
        f'<svg class="picture" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(description)}">'
        f"<title>{escaped(symbols(picture.title))}</title>"
        f'<clipPath id="{clip}"><rect x="{_LEFT}" y="{_TOP}" width="{WIDTH - _LEFT - _RIGHT}" '
        f'height="{HEIGHT - _TOP - _BOTTOM}"/></clipPath>{"".join(marks)}</svg>'
    )


def describe(picture: Picture) -> str:
    """What the picture shows, for someone who does not see it."""
    sentences = [picture.title.rstrip(".") + "."]
    if picture.caption:
        sentences.append(picture.caption)
    for series in picture.series:
        if series.style in ("vline", "hline"):
            where = series.x if series.style == "vline" else series.y
            if where:
                sentences.append(f"{series.label} at {', '.join(pretty(number) for number in where[:4])}.")
            continue
        drawn = [number for number in (*series.y, *series.y_upper) if math.isfinite(number)]
        if drawn:
            sentences.append(
                f"{series.label}: {len(series.x)} values from {pretty(min(drawn))} to {pretty(max(drawn))}."
            )
    return " ".join(sentences)


def legend(picture: Picture) -> str:
    """The legend as HTML, so that it wraps on a narrow screen; "" when there is one unnamed curve."""
    if len(picture.series) < 2 and picture.image is None:
        return ""
    rows = [
        f'<span class="key"><svg viewBox="0 0 22 10" aria-hidden="true">{_swatch(series, index % COLOURS)}</svg>'
        f"<span>{prose(series.label)}</span></span>"
        for index, series in enumerate(picture.series)
        if series.label
    ]
    outlined = "" if picture.image is None else " outlined"
    return f'<div class="legend{outlined}">{"".join(rows)}</div>' if rows else ""


def _axes(picture: Picture) -> tuple[Axis, Axis]:
    xs: list[float] = []
    ys: list[float] = []
    for series in picture.series:
        xs += series.x
        ys += [*series.y, *series.y_upper]
        if series.style == "bars" and not picture.y_log:
            ys.append(0.0)
        if series.style == "bars" and len(series.x) > 1:
            half = min(b - a for a, b in itertools.pairwise(sorted(series.x))) / 2
            xs += [min(series.x) - half, max(series.x) + half]
    right, bottom = float(WIDTH - _RIGHT), float(HEIGHT - _BOTTOM)
    if picture.image is not None:
        image = picture.image
        # the field fills the frame exactly
        return (
            Axis.over([*image.x], picture.x_log, _LEFT, right, margin=0.0),
            Axis.over([*image.y], picture.y_log, bottom, _TOP, margin=0.0),
        )
    return Axis.over(xs, picture.x_log, _LEFT, right), Axis.over(ys, picture.y_log, bottom, _TOP, margin=0.05)


def _frame(picture: Picture, x_axis: Axis, y_axis: Axis) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for number, label in x_axis.ticks(5):
        x = x_axis.position(number)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{escaped(label)}</text>')
    for number, label in y_axis.ticks(5):
        y = y_axis.position(number)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escaped(label)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(
        f'<text class="name" x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{svg_text(picture.x_label)}</text>"
        f'<text class="name" transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{svg_text(picture.y_label)}</text>"
    )
    return "".join(parts)


def _series(series: Series, colour: int, x_axis: Axis, y_axis: Axis) -> str:
    kind = f"c{colour}"
    if series.style == "vline":
        lines = "".join(f"M{x_axis.position(x):.1f} {_TOP}V{HEIGHT - _BOTTOM}" for x in series.x)
        return f'<path class="mark {kind}" d="{lines}"/>' if lines and "nan" not in lines else ""
    if series.style == "hline":
        lines = "".join(f"M{_LEFT} {y_axis.position(y):.1f}H{WIDTH - _RIGHT}" for y in series.y)
        return f'<path class="mark {kind}" d="{lines}"/>' if lines and "nan" not in lines else ""
    points = [(x_axis.position(x), y_axis.position(y)) for x, y in zip(series.x, series.y, strict=True)]
    if series.style == "points":
        return _cloud(points, kind)
    if series.style == "bars":
        return _bars(series, kind, x_axis, y_axis)
    if series.style == "band":
        upper = [(x_axis.position(x), y_axis.position(y)) for x, y in zip(series.x, series.y_upper, strict=True)]
        return "".join(f'<path class="band {kind}" d="{_path(outline)}Z"/>' for outline in _bands(points, upper))
    if series.style == "steps":
        points = [corner for run in _unbroken(points) for corner in (*_corners(run), (math.nan, math.nan))]
    path = "".join(_path(thinned(run)) for run in _unbroken(points))
    return f'<path class="line {kind}" d="{path}"/>' if path else ""


def _cloud(points: Sequence[tuple[float, float]], kind: str) -> str:
    kept = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    stride = max(1, math.ceil(len(kept) / _MOST_POINTS))
    # zero-length strokes with round caps: one path rather than a thousand circles
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in kept[::stride])
    return f'<path class="dots {kind}" d="{path}"/>' if path else ""


def _bars(series: Series, kind: str, x_axis: Axis, y_axis: Axis) -> str:
    places = [x_axis.position(x) for x in series.x]
    gaps = [abs(b - a) for a, b in itertools.pairwise(sorted(place for place in places if math.isfinite(place)))]
    width = 0.84 * min((gap for gap in gaps if gap > 0), default=24.0)
    base = y_axis.start if y_axis.log else y_axis.position(0.0)
    parts = []
    for x, number in zip(places, series.y, strict=True):
        top = y_axis.position(number)
        if math.isfinite(x) and math.isfinite(top):
            parts.append(f"M{x - width / 2:.1f} {base:.1f}V{top:.1f}h{width:.1f}V{base:.1f}Z")
    return f'<path class="bars {kind}" d="{"".join(parts)}"/>' if parts else ""


def _swatch(series: Series, colour: int) -> str:
    kind = f"c{colour}"
    match series.style:
        case "points":
            return f'<path class="dots {kind}" d="M5 5h0M12 5h0M18 5h0"/>'
        case "bars" | "band":
            return f'<path class="{"bars" if series.style == "bars" else "band"} {kind}" d="M1 1H21V9H1Z"/>'
        case "vline" | "hline":
            return f'<path class="mark {kind}" d="M1 5H21"/>'
        case _:
            return f'<path class="line {kind}" d="M1 5H21"/>'


# -- paths --------------------------------------------------------------------------------------------------------


def _unbroken(points: Iterable[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The pieces between points that cannot be drawn."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[0]) and math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _bands(
    lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]]
) -> list[list[tuple[float, float]]]:
    """The outlines of the pieces of a band between points that cannot be drawn."""
    pieces: list[list[tuple[tuple[float, float], tuple[float, float]]]] = [[]]
    for pair in zip(lower, upper, strict=True):
        if all(math.isfinite(number) for point in pair for number in point):
            pieces[-1].append(pair)
        elif pieces[-1]:
            pieces.append([])
    outlines = []
    for piece in filter(None, pieces):
        stride = max(1, math.ceil(len(piece) / (_MOST_POINTS // 2)))
        kept = piece[::stride] + ([piece[-1]] if (len(piece) - 1) % stride else [])
        outlines.append([low for low, _ in kept] + [high for _, high in reversed(kept)])
    return outlines


def _corners(run: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    corners = [run[0]]
    for (_, before), (x, y) in itertools.pairwise(run):
        corners += [(x, before), (x, y)]
    return corners


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about 1,500 points that keep the first, the last and both extremes of every slice.

    >>> spike = [(float(i), 100.0 * (i == 7_777)) for i in range(100_000)]
    >>> max(y for _, y in thinned(spike)), len(thinned(spike)) <= 1502
    (100.0, True)
    """
    if len(points) <= _MOST_POINTS:
        return list(points)
    width = math.ceil(len(points) / (_MOST_POINTS // 2))
    kept = [points[0]]
    for begin in range(0, len(points), width):
        piece = range(begin, min(begin + width, len(points)))
        low = min(piece, key=lambda index: points[index][1])
        high = max(piece, key=lambda index: points[index][1])
        kept += [points[index] for index in sorted({low, high})]
    kept.append(points[-1])
    return kept


def _path(points: Sequence[tuple[float, float]]) -> str:
    if len(points) == 1:
        return f"M{points[0][0]:.1f} {points[0][1]:.1f}h0"
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
