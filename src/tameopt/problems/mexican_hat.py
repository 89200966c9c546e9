"""The Mexican hat of Absil, Mahony and Andrews: smooth, bounded gradient paths that do not converge.

In polar coordinates (r, t), with r' = 1/(1 - r^2) and r < 1,

    F = exp(-r') [1 - (4 r^4 / (4 r^4 + (1 - r^2)^4)) sin(t - r')],    and F = 0 for r >= 1.

F is C-infinity but has no Kurdyka-Lojasiewicz property on the circle r = 1: the curve t = r' is an orbit of the
gradient flow and winds around the whole circle for ever.
"""

from __future__ import annotations

import math

import torch

from tameopt.evidence import Finding, Scope, refuted
from tameopt.problem import Problem
from tameopt.problems._entry import ProblemEntry


def hat(theta: torch.Tensor) -> torch.Tensor:
    """F at theta: (..., 2); the branch that is not taken is kept finite, so that autodiff stays right."""
    x, y = theta[..., 0], theta[..., 1]
    squared = x * x + y * y
    inside = squared < 1.0
    safe = torch.where(inside, squared, torch.zeros_like(squared))
    gap = 1.0 - safe
    winding = 1.0 / gap
    share = 4 * safe**2 / (4 * safe**2 + gap**4)
    # sin(t - r') = (y cos r' - x sin r') / r needs no angle, hence no cut; r^4 / r is smooth enough at 0
    radius = torch.where(safe > 0, safe, torch.ones_like(safe)).sqrt()
    sine = torch.where(safe > 0, (y * torch.cos(winding) - x * torch.sin(winding)) / radius, torch.zeros_like(safe))
    return torch.where(inside, torch.exp(-winding) * (1 - share * sine), torch.zeros_like(squared))


def orbit_length(start: float, stop: float) -> float:
    """The length of the orbit t = r' between two radii below 1: the integral of sqrt(1 + (r dr'/dr)^2).

    r dr'/dr = 2 r^2 / (1 - r^2)^2 is not integrable up to r = 1, so the whole orbit has infinite length.

    >>> 47 < orbit_length(0.5, 0.99) < 47.1
    True
    """
    radii = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    gap = (1 - start) * ((1 - stop) / (1 - start)) ** radii  # geometric: the integrand grows like 1 / gap^2
    r = 1 - gap
    return float(torch.trapezoid((1 + (2 * r**2 / (1 - r**2) ** 2) ** 2).sqrt(), r))


def _no_kl() -> Finding:
    return refuted(
        "F.kl",
        "F has no Kurdyka-Lojasiewicz property on the circle r = 1: the gradient orbit t = 1/(1 - r^2) stays in the "
        "unit disc and has infinite length.",
        {
            "critical set": "the circle r = 1, where F = 0",
            "orbit": "t = 1/(1 - r^2): the gradient is tangent to it",
            "length from r = 0.5 to 0.9, 0.99, 0.999": [orbit_length(0.5, stop) for stop in (0.9, 0.99, 0.999)],
            "why": "bounded gradient orbits of a KL function have finite length",
        },
        method="known of this function",
        source="P.-A. Absil, R. Mahony, B. Andrews (2005), section 2.1; J. Palis, W. de Melo (1982), p. 14",
        scope=Scope.GLOBAL,
    )


def build(radius: float = 0.5) -> Problem:
    """From the point of the spiralling orbit at this radius.

    Raises ValueError when the radius is not in (0, 1).
    """
    if not 0 < radius < 1:
        raise ValueError(f"radius must be in (0, 1), got {radius}: the hat is flat outside the unit disc.")
    angle = 1 / (1 - radius**2)
    theta0 = torch.tensor([radius * math.cos(angle), radius * math.sin(angle)], dtype=torch.float64)
    return Problem.from_function(hat, theta0, name="mexican-hat", initial_law="fixed", known=(_no_kl(),))


ENTRY = ProblemEntry(
    name="mexican-hat",
    title="smooth function whose gradient paths spiral for ever: no Kurdyka-Lojasiewicz property",
    source="P.-A. Absil, R. Mahony, B. Andrews (2005), SIAM J. Optim. 16(2), section 2.1",
    build=build,
    training={"optimizer": "SGD", "lr": 0.02, "steps": 20000, "batch_size": None, "schedule": "constant"},
)
