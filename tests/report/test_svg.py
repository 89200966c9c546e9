"""Pictures as SVG: where numbers land, what survives thinning, and that odd data still draws."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.picture import Image, Picture, Series
from tameopt.report._axis import Axis
from tameopt.report._field import contour, scale_markup
from tameopt.report.svg import describe, draw_svg, legend, thinned

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


def _picture(*series: Series, **options: object) -> Picture:
    return Picture("p", "A title", "step", "loss", series, **options)  # type: ignore[arg-type]


def test_a_line_goes_through_its_points() -> None:
    svg = draw_svg(_picture(Series.of("a", [0, 10], [0, 1])))
    (path,) = re.findall(r'class="line c0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    x0, y0, x1, y1 = map(float, path)
    # frame: x from 64 to 448, y from 254 (low) to 10 (high); margins 3% and 5% of the range on either side
    assert x0 == pytest.approx(64 + 384 * 0.03 / 1.06, abs=0.06)
    assert x1 == pytest.approx(448 - 384 * 0.03 / 1.06, abs=0.06)
    assert (y0, y1) == (
        pytest.approx(254 - 244 * 0.05 / 1.1, abs=0.06),
        pytest.approx(10 + 244 * 0.05 / 1.1, abs=0.06),
    )


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show() -> None:
    svg = draw_svg(_picture(Series.of("a", [0, 1, 2, 3], [1.0, 0.0, -1.0, 10.0]), y_log=True))
    assert "nan" not in svg
    assert svg.count("M") >= 2
    assert re.search(r'class="line c0" d="M[\d.]+ [\d.]+h0M[\d.]+ [\d.]+h0"', svg)


def test_a_nan_breaks_a_line() -> None:
    svg = draw_svg(_picture(Series.of("a", [0, 1, 2, 3, 4], [0, 1, math.nan, 1, 0])))
    (path,) = re.findall(r'class="line c0" d="([^"]+)"', svg)
    assert path.count("M") == 2


@pytest.mark.parametrize("style", ["line", "points", "steps", "bars", "band"])
@given(
    xs=st.lists(NUMBERS, max_size=12), ys=st.lists(NUMBERS, max_size=12), logs=st.tuples(st.booleans(), st.booleans())
)
@settings(max_examples=25, deadline=None)
def test_any_numbers_give_well_formed_svg(
    style: str, xs: list[float], ys: list[float], logs: tuple[bool, bool]
) -> None:
    n = min(len(xs), len(ys))
    upper = ys[:n] if style == "band" else []
    picture = _picture(Series.of("<a>", xs[:n], ys[:n], style, upper), x_log=logs[0], y_log=logs[1])  # type: ignore[arg-type]
    root = ElementTree.fromstring(draw_svg(picture))
    for path in root.iter("path"):
        assert "nan" not in path.get("d", "") and "inf" not in path.get("d", "")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4000))
@settings(max_examples=30, deadline=None)
def test_thinning_keeps_both_extremes(heights: list[float]) -> None:
    points = [(float(i), y) for i, y in enumerate(heights * 2)]
    kept = thinned(points)
    assert len(kept) <= 1502
    assert max(y for _, y in kept) == max(heights)
    assert min(y for _, y in kept) == min(heights)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-4, 1e9))
def test_ticks_lie_inside_and_read_as_what_they_mark(low: float, width: float) -> None:
    axis = Axis(low, low + width, False, 0.0, 1.0)
    for number, label in axis.ticks():
        assert low - 1e-6 * width <= number <= low + width * (1 + 1e-6)
        if abs(number) < 1e5 and width > 1e-3:
            assert float(label.replace(",", "")) == pytest.approx(number, abs=1e-9 + 1e-12 * abs(number))


@given(exponent=st.integers(-12, 12), decades=st.floats(0.01, 20))
def test_a_logarithmic_axis_has_at_least_two_ticks_inside(exponent: int, decades: float) -> None:
    axis = Axis(10.0**exponent, 10.0**exponent * 10**decades, True, 0.0, 1.0)
    ticks = axis.ticks()
    assert len(ticks) >= 2
    assert all(axis.low * (1 - 1e-6) <= number <= axis.high * (1 + 1e-6) for number, _ in ticks)
    assert len(ticks) <= 12


def test_contours_are_level_sets() -> None:
    axis = tuple(i / 10 - 2 for i in range(41))
    image = Image(axis, axis, tuple(tuple(x * x + y * y for x in axis) for y in axis))
    ends = [point for segment in contour(image, 1.0) for point in segment]
    # linear interpolation of r^2 on cells of width 0.1 errs by at most h^2/4 = 0.0025 in r^2
    assert len(ends) > 40
    assert all(abs(x * x + y * y - 1.0) < 0.0026 for x, y in ends)


def test_a_field_is_drawn_with_its_first_row_where_y_is_least() -> None:
    image = Image((0.0, 1.0), (0.0, 1.0), ((0.0, 0.0), (1.0, 1.0)))
    svg = draw_svg(_picture(image=image))
    assert svg.count("data:image/png;base64,") == 1
    import base64
    import struct
    import zlib

    png = base64.b64decode(re.findall(r"base64,([^\"]+)", svg)[0])
    at = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[at - 4 : at])
    raw = zlib.decompress(png[at + 4 : at + 4 + length])
    top, bottom = raw[1:4], raw[10:13]
    assert top == bytes((246, 222, 64))  # the largest number is yellow and on top
    assert bottom == bytes((48, 36, 102))


def test_the_alternative_text_names_ranges_and_reference_lines() -> None:
    picture = _picture(
        Series.of("loss", [0, 1], [2.5, 0.5]), Series("floor", y=(0.4,), style="hline"), caption="Falls."
    )
    assert describe(picture) == "A title. Falls. loss: 2 values from 0.5 to 2.5. floor at 0.4."
    assert 'aria-label="A title. Falls.' in draw_svg(picture)
    assert legend(picture).count("key") == 2


def test_a_legend_names_the_categories_that_occur() -> None:
    image = Image((0.0, 1.0), (0.0,), ((2.0, math.nan),), "goes to", categorical=("one", "none", "left"))
    assert "left" in scale_markup(image)
    assert "none" not in scale_markup(image) and ">one" not in scale_markup(image)
