"""Curvature: Hessian eigenvalues with error bounds, what kind of point theta is, and how large a step may be.

>>> import torch
>>> import tameopt as tame
>>> saddle = tame.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.zeros(2, dtype=torch.float64))
>>> tame.curvature.classify(saddle).kind
'strict saddle'
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> the module that defines it, imported when it is first named. No module here has the name of a
# function: importing it would put the module in the function's place.
_NAMES = {
    "spectrum": "eigenvalues",
    "Spectrum": "eigenvalues",
    "ritz_pairs": "lanczos",
    "RitzPairs": "lanczos",
    "classify": "classification",
    "Classification": "classification",
    "prove_point": "rigorous",
    "PointProof": "rigorous",
    "critical_points_in_box": "rigorous",
    "lipschitz_on_box": "lipschitz_box",
    "BoxConstant": "lipschitz_box",
    "lipschitz": "sharpness",
    "Sharpness": "sharpness",
    "find_critical_points": "critical",
    "FoundPoints": "critical",
    "coordinates": "operators",
    "gauss_newton": "operators",
    "gradient_covariance": "operators",
    "density": "quadrature",
    "SpectralDensity": "quadrature",
    "loss_plane": "planes",
    "PlaneSlice": "planes",
    "density_picture": "planes",
    "trace": "estimators",
    "diagonal": "estimators",
    "log_determinant": "estimators",
    "inertia": "linear_networks",
    "Inertia": "linear_networks",
    "over_processes": "distributed",
    "mean_over_processes": "distributed",
    "stability_limit": "stability",
    "StabilityLimit": "stability",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"tameopt.curvature.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'tameopt.curvature' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
