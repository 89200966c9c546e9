"""Attracting fixed points among points that stand still, each with a ball whose starts go to it."""

from __future__ import annotations

import torch

from tameopt.dynamics.follow import NONE, follow
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.iterate import Attractor, Map, jacobian, jacobians

_TRIAL_STEPS = 2_000  # our choice


def attractors_among(
    T: GradientMap | Map, step: Map, still: torch.Tensor, moving: torch.Tensor, generator: torch.Generator
) -> list[Attractor]:
    """The distinct attracting fixed points next to points that stand still: (m, d), by Newton's method.

    step: T on a block. moving: (n, d) points on their way, of which those count that lie in the ball of the point
    that Newton's method finds from them. A ball has Jacobians of norm below 1 wherever they were sampled, no other of
    the points found, and starts in it that were drawn went to its point.
    """
    points: list[torch.Tensor] = []
    rates: list[float] = []
    least: list[float] = []
    for number, end in enumerate(torch.cat([still, moving])):
        size = max(1.0, float(end.norm()))
        if any(float((end - known).norm()) <= 1e-5 * size for known in points):
            continue
        point = polished(T, end)
        if point is None:
            continue
        distance = float((point - end).norm())
        if number < len(still) and distance > 1e-3 * size:
            continue
        if any(float((point - known).norm()) <= 1e-6 * size for known in points):
            continue
        rate = float(torch.linalg.eigvals(jacobian(T, point).double()).abs().max())
        if rate < 1 - 1e-9:
            points.append(point)
            rates.append(rate)
            least.append(0.0 if number < len(still) else distance)
    found = []
    for point, rate, distance in zip(points, rates, least, strict=True):
        # a ball that T contracts holds one fixed point; the half leaves room for the saddle between two
        apart = [float((point - other).norm()) for other in points if other is not point]
        radius = _capture_radius(T, step, point, rate, 0.5 * min(apart, default=float("inf")), generator)
        if radius > distance:
            found.append(Attractor(point, radius, rate))
    return found


def polished(T: GradientMap | Map, point: torch.Tensor) -> torch.Tensor | None:
    """A fixed point of T by Newton's method on T(x) - x; None where it does not converge fast, as at that of x^4."""
    identity = torch.eye(point.numel(), dtype=point.dtype, device=point.device)
    for _ in range(12):
        try:
            move = torch.linalg.solve(jacobian(T, point) - identity, T(point) - point)
        except RuntimeError:
            return None
        point = point - move
        if not bool(torch.isfinite(point).all()):
            return None
        if float(move.norm()) <= torch.finfo(point.dtype).eps ** 0.5 * max(1.0, float(point.norm())):
            return point
    return None


def _capture_radius(
    T: GradientMap | Map, step: Map, point: torch.Tensor, rate: float, most: float, generator: torch.Generator
) -> float:
    """The largest of the radii 2^-j max(1, norm) up to `most` at which 64 sampled Jacobians in the ball all have norm
    < 1, and 64 starts in it go to the point."""
    d = point.numel()
    for exponent in range(24):
        radius = max(1.0, float(point.norm())) * 2.0**-exponent
        if radius > most:
            continue
        drawn = torch.randn(64, d, generator=generator, dtype=torch.float64)
        # half of them on the sphere, where the Jacobian is farthest from the one at the point
        lengths = torch.cat([torch.ones(32), torch.rand(32, generator=generator)]).double()
        around = point + (radius * lengths[:, None] * drawn / drawn.norm(dim=1, keepdim=True)).to(point)
        matrices = jacobians(T, around)
        if (
            bool(torch.isfinite(matrices).all())
            and float(torch.linalg.matrix_norm(matrices, 2).max()) < 1
            and _all_arrive(step, around, Attractor(point, radius / 8, rate))
        ):
            return radius
    return 0.0


def _all_arrive(step: Map, starts: torch.Tensor, core: Attractor) -> bool:
    """Whether starts come into the core of a ball, or keep coming nearer as long as they are followed.

    A narrow saddle in the ball is missed by sampled Jacobians, and shows here: starts beyond it go elsewhere.
    """
    # from the rim to an eighth takes log(8) / (1 - rate) steps where T is linear: twice that
    num_steps = min(_TRIAL_STEPS, max(16, int(4 / (1 - core.rate))))
    where, halfway = follow(step, starts, (core,), num_steps=num_steps // 2, tolerance=0.0, escape=float("inf"))
    still_open = where == NONE
    if bool((where != 0).logical_and(~still_open).any()):
        return False
    if not bool(still_open.any()):
        return True
    begun = halfway[still_open.to(halfway.device)]
    where, ends = follow(step, begun, (core,), num_steps=num_steps // 2, tolerance=0.0, escape=float("inf"))
    nearer = (ends - core.point).norm(dim=1) < (begun - core.point).norm(dim=1)
    return bool(((where == 0).to(nearer.device) | nearer).all())
