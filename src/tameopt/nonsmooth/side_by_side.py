"""The convex, Frechet, limiting and Clarke subdifferentials of one function at one point, drawn on the same scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tameopt.nonsmooth.subdifferential import KINDS, Subdifferential

_MARGIN = 0.15  # of the largest extent around the sets: our choice


def side_by_side(sets: Mapping[str, Subdifferential], axes: Any = None, *, backprop: Any = None) -> Any:
    """Draw the sets that `all_subdifferentials` returns on four matplotlib axes; returns the axes.

    sets: by kind, of dimension 1 (drawn on a line) or 2. axes: four; a new figure's without them. backprop: (d,) a
    point to mark in each, such as what backprop returns. Raises ValueError in other dimensions or for another number
    of axes.

    >>> import torch
    >>> from tameopt.nonsmooth import all_subdifferentials
    >>> len(side_by_side(all_subdifferentials(lambda x: x[0].abs() - x[1].abs(), [0, 0])))
    4
    """
    dim = next(iter(sets.values())).dim
    if dim not in (1, 2):
        raise ValueError(f"the sets are drawn for d = 1 or 2, got d = {dim}.")
    if axes is None:
        from tameopt.extras import require

        size = (12, 3.4) if dim == 2 else (12, 1.8)
        axes = require("matplotlib.figure", "a picture").Figure(figsize=size, layout="constrained").subplots(1, 4)
    flat = np.asarray(axes).reshape(-1)
    if len(flat) != len(KINDS):
        raise ValueError(f"the four sets need 4 axes, got {len(flat)}.")
    for ax, kind in zip(flat, KINDS, strict=True):
        _on_a_line(sets[kind], ax) if dim == 1 else sets[kind].plot(ax)
        if backprop is not None:
            point = [float(entry) for entry in backprop]
            ax.plot(*(point if dim == 2 else (point[0], 0.0)), "o", color="C1", label="backprop")
    _same_scale(flat, dim)
    if backprop is not None:
        flat[-1].legend(loc="upper right", fontsize=8)
    return axes


def _on_a_line(found: Subdifferential, ax: Any) -> None:
    for piece in found.pieces:
        ends = [float(corner[0]) for corner in piece.corners]
        ax.plot([min(ends), max(ends)], [0, 0], "o-", color="C0", linewidth=3)
    ax.plot([0], [0], "k+")
    ax.set_title(f"{found.kind}" + (": empty" if found.empty else ""))
    ax.set_yticks([])


def _same_scale(axes: Any, dim: int) -> None:
    limits = np.array([[ax.dataLim.x0, ax.dataLim.x1, ax.dataLim.y0, ax.dataLim.y1] for ax in axes])
    low, high = limits[:, [0, 2]].min(0), limits[:, [1, 3]].max(0)
    room = _MARGIN * max(float((high - low)[:dim].max()), 1e-3)
    for ax in axes:
        ax.set_xlim(low[0] - room, high[0] + room)
        if dim == 2:
            ax.set_ylim(low[1] - room, high[1] + room)
            ax.set_aspect("equal")
        ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
