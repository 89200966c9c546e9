"""Basins with what bounds them: the saddles of a planar gradient map and their stable and unstable curves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from tameopt.dynamics.basin_labels import Basins
from tameopt.dynamics.globalised import globalised_curve
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.manifold import InvariantManifold, stable_manifold, unstable_manifold
from tameopt.picture import Picture, Series


def portrait(
    found: Basins, T: GradientMap, saddles: Sequence[torch.Tensor], title: str = "Basins and the saddles between them"
) -> Picture:
    """The picture of basins with the saddles, the curves that flow into them and those that leave them.

    saddles: (2,) critical points with one negative eigenvalue, as `curvature.find_critical_points` gives them.
    Stable curves bound basins; they are carried on by the inverse of T as far as that exists, and unstable ones by T.
    A saddle whose curves cannot be computed (F is not on a tape, the point is not hyperbolic) is marked, and
    the caption says why it has none. Raises ValueError unless the grid has two axes.
    """
    picture = found.picture(title)
    window = [(float(axis.min()), float(axis.max())) for axis in found.axes]
    curves: dict[str, tuple[list[float], list[float]]] = {"stable": ([], []), "unstable": ([], [])}
    reasons = []
    for saddle in saddles:
        for make in (stable_manifold, unstable_manifold):
            try:
                # a picture shows a thousandth: 1e-6 lets the polynomial reach farther before steps take over
                local = make(T, saddle, 12, residual=1e-6)
                curve = globalised_curve(local, T, num_steps=_steps(local))
            except ValueError as error:
                reasons.append(str(error).rstrip("."))
                continue
            x, y = _within(curve, window)
            curves[local.kind][0].extend(x)
            curves[local.kind][1].extend(y)
    series = [
        *(Series.of(f"{kind} curve", x, y) for kind, (x, y) in curves.items() if x),
        *picture.series,
    ]
    if saddles:
        places = torch.stack(list(saddles)).double().cpu()
        series.append(Series.of("saddles", places[:, 0].tolist(), places[:, 1].tolist(), "points"))
    caption = picture.caption
    if curves["stable"][0]:
        caption += " The stable curves of the saddles part the basins; they have measure zero."
    if reasons:
        caption += f" No curve of a saddle: {reasons[0]}."
    return dataclasses.replace(picture, series=tuple(series), caption=caption)


def _steps(manifold: InvariantManifold) -> int:
    """Steps that carry a curve a factor of 100 outwards, and on into a maximum that it comes from; our bounds."""
    needed = int(math.log(100) / abs(math.log(abs(float(manifold.eigenvalues[0])))))
    return min(200, max(10, needed if manifold.kind == "unstable" else 2 * needed))


def _within(curve: torch.Tensor, window: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The curve's coordinates with NaN where it is outside the window, so that the line breaks there."""
    inside = torch.ones(curve.shape[0], dtype=torch.bool)
    for j, (low, high) in enumerate(window):
        inside &= (curve[:, j] >= low) & (curve[:, j] <= high)
    cut = torch.where(inside[:, None], curve.double().cpu(), math.nan)
    return [*cut[:, 0].tolist(), math.nan], [*cut[:, 1].tolist(), math.nan]
