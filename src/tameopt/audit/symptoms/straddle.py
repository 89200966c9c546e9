"""At a kink: the gradients at the last iterates are long, yet a convex combination of them is nearly 0.

An iterate that jumps to and fro over a kink never lands on it, so no single gradient tells. Their hull does: it lies
in the Goldstein subdifferential of the ball that holds the iterates.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from tameopt.analysis import Context
from tameopt.audit.symptoms.history import History
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

CLAIM = "run.straddles_kink"
_POINTS = 40
_SHARE = 0.15  # the hull's least norm against the shortest gradient: above that they do not cancel
_JUMP = 20.0  # a gradient that changes this many times faster than the Hessian says has crossed a kink


def find(context: Context, history: History, curvature: float) -> tuple[Finding, dict[str, Any]]:
    """run.straddles_kink from the gradients at the last consecutive iterates.

    curvature: the largest abs(Hessian eigenvalue) at recorded points; a smooth but steep valley also makes gradients
    cancel, at that rate, and is not a kink.
    """
    steps = history.run.vector_steps()
    first = _last_stretch(steps.tolist())
    if len(steps) - first < 4:
        return (
            unknown(
                CLAIM,
                "No stretch of consecutive iterates was recorded at the end.",
                missing="theta at consecutive steps",
                remedy="tameopt train records them",
            ),
            {},
        )
    from tameopt.nonsmooth import min_norm

    chosen = steps[first:][-_POINTS:]
    thetas = [history.run.vector(int(step)).to(context.problem.device, context.problem.dtype) for step in chosen]
    gradients = torch.stack([context.problem.gradient(theta) for theta in thetas])
    if not bool(torch.isfinite(gradients).all()):
        missing = "finite gradients at the last iterates"
        return unknown(CLAIM, "The gradients at the last iterates are not all finite.", missing=missing), {}
    norms = gradients.norm(dim=1)
    shortest = float(norms.min())
    radius = float(max((theta - thetas[-1]).norm() for theta in thetas))
    least = min_norm(gradients).distance
    moved = torch.stack([(b - a).norm() for a, b in itertools.pairwise(thetas)])
    turned = (gradients[1:] - gradients[:-1]).norm(dim=1)
    secant = float((turned / moved.clamp_min(1e-300)).max()) if bool((moved > 0).any()) else 0.0
    facts = {
        "radius": radius,
        "least_norm": least,
        "shortest_gradient": shortest,
        "secant": secant,
        "hessian": curvature,
        "points": len(thetas),
    }
    how = f"least norm in the hull of the gradients at the last {len(thetas)} iterates, within {radius:.2g}"
    jumps = secant > _JUMP * max(curvature, 0.0)
    if shortest > 0 and least < _SHARE * shortest and jumps:
        return (
            measured(
                CLAIM,
                f"The last {len(thetas)} iterates lie within {radius:.2g} of each other; their gradients "
                f"are at least "
                f"{shortest:.3g} long, but a convex combination of them has norm {least:.2g}: they cross a kink.",
                least,
                method=how,
                error_kind="upper bound: the hull lies in the Goldstein subdifferential",
                interval=(0.0, least),
                scope=Scope.PATH,
                sample_size=len(thetas),
                witness=facts,
            ),
            facts,
        )
    smooth = least < _SHARE * shortest
    return (
        refuted(
            CLAIM,
            f"The last {len(thetas)} iterates do not straddle a kink: the hull of their gradients stays "
            f"{least:.3g} away "
            f"from 0 (the shortest is {shortest:.3g})."
            if not smooth
            else f"The gradients at the last {len(thetas)} iterates cancel at the rate of the curvature: a "
            f"smooth valley.",
            facts,
            method=how,
            scope=Scope.PATH,
        ),
        facts,
    )


def _last_stretch(steps: list[int]) -> int:
    """Index where the last run of consecutive steps begins."""
    start = len(steps) - 1
    while start > 0 and steps[start - 1] == steps[start] - 1:
        start -= 1
    return max(start, 0)
