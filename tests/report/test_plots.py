"""Pictures on matplotlib axes: axes in, axes out, nothing shown."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

from tameopt.picture import Image, Picture, Series
from tameopt.report import draw


def test_every_style_lands_on_the_axes_it_was_given() -> None:
    from matplotlib.figure import Figure

    series = (
        Series.of("line", [1, 2, 3], [1, 2, 3]),
        Series.of("points", [1, 2, 3], [3, 2, 1], "points"),
        Series.of("steps", [1, 2, 3], [1, 1, 2], "steps"),
        Series.of("bars", [1, 2, 3], [1, 2, 1], "bars"),
        Series.of("band", [1, 2, 3], [1, 1, 1], "band", [2, 2, 2]),
        Series("v", x=(2.0,), style="vline"),
        Series("h", y=(2.0,), style="hline"),
    )
    ax = Figure().subplots()
    given = draw(Picture("p", "t", "x", "y", series, x_log=True), ax)
    assert given is ax
    assert ax.get_xscale() == "log" and ax.get_title() == "t"
    assert len(ax.lines) == 5 and len(ax.patches) == 3 and len(ax.collections) == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] != []


def test_a_field_and_its_contours() -> None:
    field = Image((0.0, 1.0, 2.0), (0.0, 1.0), ((0.0, 1.0, 2.0), (1.0, 2.0, 3.0)), "F", (1.5,))
    ax = draw(Picture("p", "t", "x", "y", image=field))
    assert len(ax.collections) == 2
    draw(
        Picture("b", "t", "x", "y", image=Image((0.0, 1.0), (0.0, 1.0), ((0.0, 1.0), (1.0, 0.0)), "", (), ("a", "b")))
    )


def test_drawing_does_not_touch_pyplot() -> None:
    # a process of its own: other tests may import pyplot
    script = (
        "import sys; from tameopt.picture import Picture, Series; from tameopt.report import draw;"
        "draw(Picture('p', 't', 'x', 'y', (Series.of('line', [1, 2], [1, 2]),)));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
