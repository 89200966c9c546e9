"""Iterating a map from many starts at once, with what it takes to know where each one ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import grad, hessian, jacrev, vmap

from tameopt.dynamics.gradient_map import GradientMap
from tameopt.problem import Problem

Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attractor:
    """A fixed point that draws its neighbourhood in.

    point: (d,). radius: within it the map's Jacobian had norm below 1 wherever it was sampled, so that a start
    there converges to the point. rate: spectral radius of the Jacobian at the point.
    """

    point: torch.Tensor
    radius: float
    rate: float


def batched(T: GradientMap | Map, probe: torch.Tensor) -> Map:
    """T on a block of points (m, d) -> (m, d).

    probe: (p, d) some points, on which a shortcut is tried out: a function written in coordinates (t[0] ** 2 + …)
    also takes (d, m) at once, which spares torch.func's overhead. It is used only if it gives the same gradients.
    """
    if not isinstance(T, GradientMap):
        return vmap(T)
    alpha, gradients = T.alpha, _batched_gradients(T.F, probe)
    return lambda points: points - alpha * gradients(points)


def _batched_gradients(F: Problem | Map, probe: torch.Tensor) -> Map:
    slopes = vmap(grad(F))
    try:
        expected = slopes(probe)
    except (RuntimeError, NotImplementedError):  # no batching rule: one point at a time
        problem = F if isinstance(F, Problem) else Problem.from_function(F, probe[0])
        return lambda points: torch.stack([problem.gradient(point) for point in points])
    if isinstance(F, Problem) and not F.is_function:
        return slopes
    function: Any = F.model.function if isinstance(F, Problem) else F

    def by_columns(points: torch.Tensor) -> torch.Tensor:
        return _gradient_of_columns(function, points.T.contiguous().requires_grad_(), False).T

    return by_columns if _agree(by_columns, probe, expected) else slopes


def _gradient_of_columns(function: Any, columns: torch.Tensor, keep: bool) -> torch.Tensor:
    with torch.enable_grad():
        values = function(columns)
        if values.shape != (columns.shape[1],):
            raise RuntimeError("the function does not act on columns one by one")
        return torch.autograd.grad(values.sum(), columns, create_graph=keep, materialize_grads=True)[0]


def _agree(shortcut: Map, probe: torch.Tensor, expected: torch.Tensor) -> bool:
    try:
        return torch.allclose(shortcut(probe), expected, rtol=1e-10, atol=1e-12, equal_nan=True)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False


def values_at(F: Problem | Map, points: torch.Tensor) -> torch.Tensor:
    """(m,) F at points (m, d); one at a time where an operator has no batching rule."""
    try:
        with torch.no_grad():
            return vmap(F)(points)
    except (RuntimeError, NotImplementedError):  # no batching rule: one point at a time
        problem = F if isinstance(F, Problem) else Problem.from_function(F, points[0])
        return torch.stack([problem.value(point) for point in points])


def jacobian(T: GradientMap | Map, point: torch.Tensor) -> torch.Tensor:
    """(d, d) DT at a point."""
    return T.jacobian(point) if isinstance(T, GradientMap) else jacrev(T)(point)


def jacobians(T: GradientMap | Map, points: torch.Tensor) -> torch.Tensor:
    """(m, d, d) DT at each of m points; one at a time where an operator has no batching rule."""
    try:
        if isinstance(T, GradientMap):
            identity = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
            return identity - T.alpha * vmap(hessian(T.F))(points)
        return vmap(jacrev(T))(points)
    except (RuntimeError, NotImplementedError):  # no batching rule: one point at a time
        return torch.stack([jacobian(T, point) for point in points])


def batched_jacobians(T: GradientMap | Map, probe: torch.Tensor) -> Map:
    """(m, d) -> (m, d, d) DT of each point, by the same shortcut as `batched` where it holds at the probe."""

    def general(points: torch.Tensor) -> torch.Tensor:
        return jacobians(T, points)

    if not isinstance(T, GradientMap) or (isinstance(T.F, Problem) and not T.F.is_function):
        return general
    function: Any = T.F.model.function if isinstance(T.F, Problem) else T.F
    alpha = T.alpha

    def by_columns(points: torch.Tensor) -> torch.Tensor:
        columns = points.T.contiguous().requires_grad_()
        gradient = _gradient_of_columns(function, columns, True)
        rows = [
            torch.autograd.grad(one.sum(), columns, retain_graph=True, materialize_grads=True)[0]
            if one.requires_grad
            else torch.zeros_like(columns)
            for one in gradient
        ]
        identity = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
        return identity - alpha * torch.stack(rows).permute(2, 0, 1)

    return by_columns if _agree(by_columns, probe, general(probe)) else general


def steepest(F: Problem | Map, points: torch.Tensor) -> float:
    """The gradient's steepest slope seen at points (m, d): in the Hessian at each, and between one and the next.

    A lower bound of L over the region that they cover, from the points at which F has a finite gradient and Hessian;
    nan where there are none.
    """
    T = GradientMap(F, 1.0)
    curvatures = torch.eye(points.shape[1]).to(points) - batched_jacobians(T, points[:4])(points)
    gradients = points - batched(T, points[:4])(points)
    known = torch.isfinite(curvatures).flatten(1).all(dim=1) & torch.isfinite(gradients).all(dim=1)
    if not bool(known.any()):
        return math.nan
    points, curvatures, gradients = points[known], curvatures[known], gradients[known]
    distances = (points[1:] - points[:-1]).norm(dim=1).clamp_min(torch.finfo(points.dtype).tiny)
    secants = (gradients[1:] - gradients[:-1]).norm(dim=1) / distances
    return max(float(torch.linalg.eigvalsh(curvatures).abs().max()), float(secants.amax() if len(secants) else 0.0))


def settle(
    step: Map, points: torch.Tensor, num_steps: int, tolerance: float, escape: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Iterate until points stand still, leave, or num_steps is reached.

    Returns the points, which of them stand still (norm(T(x) - x) <= tolerance * max(1, norm(x))) and which left
    (norm above `escape`, or not finite).
    """
    points = points.clone()
    still = torch.zeros(points.shape[0], dtype=torch.bool, device=points.device)
    left = ~torch.isfinite(points).all(dim=1)
    for _ in range(num_steps):
        active = (~still & ~left).nonzero()[:, 0]
        if active.numel() == 0:
            break
        before = points[active]
        after = step(before)
        size = before.norm(dim=1).clamp_min(1.0)
        gone = ~torch.isfinite(after).all(dim=1) | (after.norm(dim=1) > escape)
        still[active] = ((after - before).norm(dim=1) <= tolerance * size) & ~gone
        left[active] = gone
        points[active] = torch.where(gone[:, None], before, after)
    return points, still, left
