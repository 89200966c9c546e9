"""A `Picture` on matplotlib axes: axes in, the same axes out; nothing is shown or saved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tameopt.extras import require
from tameopt.picture import Image, Picture, Series
from tameopt.report._field import CATEGORIES
from tameopt.report.text import symbols

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(picture: Picture, ax: Axes | None = None) -> Axes:
    """Draw on `ax`, or on the axes of a new figure that no window shows; returns the axes.

    Raises MissingExtraError without matplotlib.

    >>> axes = draw(Picture("p", "A title", "step", "loss", (Series.of("loss", [0, 1], [2, 1]),)))
    >>> axes.get_xlabel()
    'step'
    """
    if ax is None:
        figure: Any = require("matplotlib.figure", "drawing a picture").Figure(layout="constrained")
        ax = figure.subplots()
    axes: Any = ax
    if picture.image is not None:
        _field(picture.image, axes)
    for index, series in enumerate(picture.series):
        # on a coloured field only black and white stand out everywhere
        _curve(series, f"C{index}" if picture.image is None else ("black", "white")[index % 2], axes)
    if picture.x_log:
        axes.set_xscale("log")
    if picture.y_log:
        axes.set_yscale("log")
    axes.set(title=symbols(picture.title), xlabel=symbols(picture.x_label), ylabel=symbols(picture.y_label))
    handles = [] if picture.image is None else _categories(picture.image)
    if handles or len([series for series in picture.series if series.label]) > 1:
        handles += axes.get_legend_handles_labels()[0]
        if picture.image is None:
            axes.legend(handles=handles)
        else:
            # a field fills its axes: there is no room on it that shows nothing
            axes.legend(
                handles=handles, facecolor="lightgray", fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0)
            )
    return axes


def _categories(image: Image) -> list[Any]:
    """A patch for each category that occurs on the field."""
    if not image.categorical:
        return []
    patch = require("matplotlib.patches", "drawing a picture").Patch
    present = sorted({int(code) for row in image.z for code in row})
    return [
        patch(color=[channel / 255 for channel in CATEGORIES[code % len(CATEGORIES)]], label=image.categorical[code])
        for code in present
    ]


def _curve(series: Series, colour: str, axes: Any) -> None:
    label = symbols(series.label) or None
    match series.style:
        case "points":
            edge = {"black": "white", "white": "black"}.get(colour)
            shape = {"marker": "."} if edge is None else {"marker": "o", "markersize": 6, "markeredgecolor": edge}
            axes.plot(series.x, series.y, linestyle="", color=colour, label=label, **shape)
        case "steps":
            axes.step(series.x, series.y, where="post", color=colour, label=label)
        case "bars":
            gaps = [b - a for a, b in zip(sorted(series.x), sorted(series.x)[1:], strict=False) if b > a]
            axes.bar(series.x, series.y, width=0.84 * min(gaps, default=1.0), color=colour, label=label)
        case "band":
            axes.fill_between(series.x, series.y, series.y_upper, color=colour, alpha=0.25, label=label, linewidth=0)
        case "vline":
            for index, x in enumerate(series.x):
                axes.axvline(x, color=colour, linestyle="--", label=label if index == 0 else None)
        case "hline":
            for index, y in enumerate(series.y):
                axes.axhline(y, color=colour, linestyle="--", label=label if index == 0 else None)
        case _:
            axes.plot(series.x, series.y, color=colour, label=label)


def _field(image: Image, axes: Any) -> None:
    if image.categorical:
        colours = [[channel / 255 for channel in colour] for colour in CATEGORIES]
        listed = require("matplotlib.colors", "drawing a picture").ListedColormap(colours)
        axes.pcolormesh(image.x, image.y, image.z, cmap=listed, vmin=-0.5, vmax=len(colours) - 0.5, shading="nearest")
    else:
        mesh = axes.pcolormesh(image.x, image.y, image.z, cmap="viridis", shading="nearest")
        axes.figure.colorbar(mesh, ax=axes, label=symbols(image.label))
    levels = sorted(level for level in image.levels if math.isfinite(level))
    if levels:
        axes.contour(image.x, image.y, image.z, levels=levels, colors="white", linewidths=0.8)
