"""Dynamics: gradient descent as a map, its fixed points, manifolds, basins and continuous-time limits."""

from __future__ import annotations

import importlib
from typing import Any

# name -> the module that defines it, imported when it is first named. No module here has the name of a function:
# importing it would put the module in the function's place.
_NAMES = {
    "GradientMap": "gradient_map",
    "basins": "basin_labels",
    "Basins": "basin_labels",
    "track_edge": "basin_labels",
    "saddle_avoidance": "avoidance",
    "stable_manifold": "manifold",
    "unstable_manifold": "manifold",
    "globalised_curve": "globalised",
    "globalised_surface": "globalised",
    "saddle_escape": "escape",
    "portrait": "phase_portrait",
    "splitting": "linear",
    "stable_space": "linear",
    "unstable_space": "linear",
    "convergence": "linear",
    "gradient_flow": "flow",
    "inclusion": "subgradient_flow",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"tameopt.dynamics.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'tameopt.dynamics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
