"""A field on a grid as a small PNG inside an SVG, with its contour lines and a colour scale."""

from __future__ import annotations

import base64
import itertools
import math
import struct
import zlib
from collections.abc import Sequence

from tameopt.picture import Image
from tameopt.report._axis import Axis
from tameopt.report.numbers import pretty
from tameopt.report.text import escaped

# Perceptually even from dark blue over green to yellow, our own five stops; readable on light and dark pages.
_STOPS = ((48, 36, 102), (41, 95, 143), (32, 144, 140), (94, 191, 103), (246, 222, 64))
# The categories of a basin plot; colours that differ in lightness too, for eyes that confuse hues.
CATEGORIES = ((31, 95, 160), (214, 120, 24), (46, 139, 87), (178, 60, 80), (126, 100, 180), (120, 120, 120))


def image_markup(image: Image, x_axis: Axis, y_axis: Axis) -> str:
    """The field, its contours and its scale as SVG elements inside the frame of the axes."""
    # a number stands for the cell around its grid point, so the picture reaches half a cell beyond the outer points
    half_x = (x_axis.end - x_axis.start) / max(len(image.x) - 1, 1) / 2
    half_y = (y_axis.start - y_axis.end) / max(len(image.y) - 1, 1) / 2
    left, right = x_axis.start - half_x, x_axis.end + half_x
    top, bottom = y_axis.end - half_y, y_axis.start + half_y
    parts = [
        f'<image x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
        f'preserveAspectRatio="none" style="image-rendering:{"pixelated" if image.categorical else "auto"}" '
        f'href="data:image/png;base64,{base64.b64encode(_png(image)).decode()}"/>'
    ]
    for level in image.levels:
        ends = [[(x_axis.position(x), y_axis.position(y)) for x, y in pair] for pair in contour(image, level)]
        path = "".join(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" for (x0, y0), (x1, y1) in ends)
        if path:
            parts.append(f'<path class="contour" d="{path}"><title>{escaped(pretty(level))}</title></path>')
    return "".join(parts)


def scale_markup(image: Image) -> str:
    """The colour scale as HTML: a gradient with both ends named, or one swatch for each category that occurs."""
    if image.categorical:
        rows = [
            f'<span class="key"><i style="background:rgb{CATEGORIES[code % len(CATEGORIES)]}"></i>'
            f"{escaped(image.categorical[code])}</span>"
            for code in sorted({int(code) for row in image.z for code in row if math.isfinite(code)})
        ]
        return f'<div class="legend">{"".join(rows)}</div>'
    low, high = _span(image)
    stops = ",".join(f"rgb{stop}" for stop in _STOPS)
    return (
        f'<div class="legend"><span class="key">{escaped(image.label)} {escaped(pretty(low))}'
        f'<i class="scale" style="background:linear-gradient(90deg,{stops})"></i>{escaped(pretty(high))}</span></div>'
    )


def _span(image: Image) -> tuple[float, float]:
    finite = [number for row in image.z for number in row if math.isfinite(number)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _colour(number: float, low: float, high: float, categorical: bool) -> tuple[int, int, int, int]:
    if not math.isfinite(number):
        return (0, 0, 0, 0)
    if categorical:
        return (*CATEGORIES[int(number) % len(CATEGORIES)], 255)
    share = (number - low) / (high - low) if high > low else 0.5
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(place), len(_STOPS) - 2)
    part = place - index
    mixed = [round(a + part * (b - a)) for a, b in zip(_STOPS[index], _STOPS[index + 1], strict=True)]
    return (mixed[0], mixed[1], mixed[2], 255)


def _png(image: Image) -> bytes:
    """The field as an RGBA PNG, first row on top; cells are equally wide on the page."""
    low, high = _span(image)
    categorical = bool(image.categorical)
    rows = [b"\0" + bytes(itertools.chain(*(_colour(z, low, high, categorical) for z in row))) for row in image.z]
    if image.y[-1] > image.y[0]:
        rows.reverse()
    width, height = len(image.z[0]), len(image.z)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = zlib.compress(b"".join(rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


Segment = tuple[tuple[float, float], tuple[float, float]]


def contour(image: Image, level: float) -> list[Segment]:
    """The segments of {z = level} by marching squares; cells with a non-finite corner are left out.

    >>> field = Image((0.0, 1.0), (0.0, 1.0), ((0.0, 0.0), (1.0, 1.0)))
    >>> contour(field, 0.25)
    [((0.0, 0.25), (1.0, 0.25))]
    """
    segments: list[Segment] = []
    for i, j in itertools.product(range(len(image.y) - 1), range(len(image.x) - 1)):
        corners = [
            (image.x[j], image.y[i], image.z[i][j] - level),
            (image.x[j + 1], image.y[i], image.z[i][j + 1] - level),
            (image.x[j + 1], image.y[i + 1], image.z[i + 1][j + 1] - level),
            (image.x[j], image.y[i + 1], image.z[i + 1][j] - level),
        ]
        segments += _cell(corners)
    return segments


def _cell(corners: Sequence[tuple[float, float, float]]) -> list[Segment]:
    if not all(math.isfinite(corner[2]) for corner in corners):
        return []
    crossings = []
    for (x0, y0, z0), (x1, y1, z1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (z0 > 0) != (z1 > 0):
            share = z0 / (z0 - z1)
            crossings.append((x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
    # four crossings are a saddle of the field: either pairing is a contour of some smooth field
    pairs = []
    for index in range(0, len(crossings) - 1, 2):
        first, second = sorted((crossings[index], crossings[index + 1]))
        pairs.append((first, second))
    return pairs
