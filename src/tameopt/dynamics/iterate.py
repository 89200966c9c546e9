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

_FIRST_LOOK = 32  # our choice: rounds of steps after which a steady power law may end the wait

# our choice: blocks of this many numbers stay in a core's cache, which is worth a factor of three on a CPU
_CACHE_NUMBERS = 32_768


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

    A lower bound of L over the region that they cover; nan where F has no gradient or Hessian.
    """
    T = GradientMap(F, 1.0)
    curvatures = torch.eye(points.shape[1]).to(points) - batched_jacobians(T, points[:4])(points)
    gradients = points - batched(T, points[:4])(points)
    if not bool(torch.isfinite(curvatures).all() and torch.isfinite(gradients).all()):
        return math.nan
    distances = (points[1:] - points[:-1]).norm(dim=1).clamp_min(torch.finfo(points.dtype).tiny)
    secants = (gradients[1:] - gradients[:-1]).norm(dim=1) / distances
    return max(float(torch.linalg.eigvalsh(curvatures).abs().max()), float(secants.max()))


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


@dataclass(frozen=True)
class _Pace:
    """Lengths of steps when the count had last doubled, and the power of k by which they had shrunk until then."""

    lengths: torch.Tensor
    powers: torch.Tensor

    @staticmethod
    def of(points: torch.Tensor) -> _Pace:
        unknown = torch.full((points.shape[0],), math.nan, dtype=points.dtype, device=points.device)
        return _Pace(unknown, unknown)

    def at(self, places: torch.Tensor) -> _Pace:
        return _Pace(self.lengths[places], self.powers[places])

    def look(self, now: torch.Tensor, share: float, least: torch.Tensor) -> tuple[torch.Tensor, _Pace]:
        """Whether steps of length `now`, at this share of the time, shrink steadily like k^-p, 1 < p < 3, and will be
        longer than `least` at its end; a run that passes a saddle slows down by more than any such power."""
        power = torch.log2(self.lengths / now)
        steady = ((power - self.powers).abs() <= 0.1) & (power > 1.02) & (power < 3)
        return steady & (now * share**power > least), _Pace(now, power)


def attractors_among(
    T: GradientMap | Map, ends: torch.Tensor, tolerance: float, generator: torch.Generator
) -> list[Attractor]:
    """The distinct attracting fixed points among points that stand still, polished by Newton's method."""
    found: list[Attractor] = []
    for end in ends:
        if any(float((end - known.point).norm()) <= max(known.radius, 1e-6) for known in found):
            continue
        point = _polished(T, end)
        if point is None or float((point - end).norm()) > 1e-3 * max(1.0, float(end.norm())):
            continue
        rate = float(torch.linalg.eigvals(jacobian(T, point).double()).abs().max())
        if rate >= 1 - 1e-9:
            continue
        radius = _capture_radius(T, point, generator)
        if radius > 0:
            found.append(Attractor(point, radius, rate))
    return found


def _polished(T: GradientMap | Map, point: torch.Tensor) -> torch.Tensor | None:
    """A fixed point of T by Newton's method on T(x) - x, None when its Jacobian minus 1 is singular."""
    identity = torch.eye(point.numel(), dtype=point.dtype, device=point.device)
    for _ in range(8):
        try:
            point = point - torch.linalg.solve(jacobian(T, point) - identity, T(point) - point)
        except RuntimeError:
            return None
        if not bool(torch.isfinite(point).all()):
            return None
    return point


def _capture_radius(T: GradientMap | Map, point: torch.Tensor, generator: torch.Generator) -> float:
    """The largest of the radii 2^-j max(1, norm) at which 64 sampled Jacobians in the ball all have norm < 1."""
    d = point.numel()
    for exponent in range(24):
        radius = max(1.0, float(point.norm())) * 2.0**-exponent
        drawn = torch.randn(64, d, generator=generator, dtype=torch.float64)
        # half of them on the sphere, where the Jacobian is farthest from the one at the point
        lengths = torch.cat([torch.ones(32), torch.rand(32, generator=generator)]).double()
        around = point + (radius * lengths[:, None] * drawn / drawn.norm(dim=1, keepdim=True)).to(point)
        matrices = jacobians(T, around)
        if bool(torch.isfinite(matrices).all()) and float(torch.linalg.matrix_norm(matrices, 2).max()) < 1:
            return radius
    return 0.0


def label(
    step: Map,
    starts: torch.Tensor,
    attractors: list[Attractor],
    *,
    num_steps: int,
    tolerance: float,
    escape: float,
    every: int = 8,
    notify: Callable[[str], None] = lambda message: None,
) -> torch.Tensor:
    """(m,) int16: the attractor that each start goes to, -1 none in time, -2 it left, -3 it settled elsewhere, -4 its
    steps shrink like a power of k, too slowly to end in time, with no attractor within reach."""
    labels = torch.full((starts.shape[0],), -1, dtype=torch.int16, device=starts.device)
    points, open_places = starts, torch.arange(starts.shape[0], device=starts.device)
    chunk = max(1, _CACHE_NUMBERS // starts.shape[1]) if starts.device.type == "cpu" else starts.shape[0]
    pace = _Pace.of(starts)
    for count in range(1, math.ceil(num_steps / every) + 1):
        # a chunk takes several steps while it is in the cache; the few slow starts at the end share one chunk
        moved = [_steps(step, part, every) for part in points.split(chunk)]
        before, points = (torch.cat(parts) for parts in zip(*moved, strict=True))
        verdict = torch.full((points.shape[0],), -1, dtype=torch.int16, device=points.device)
        size = points.norm(dim=1)
        verdict[((points - before).norm(dim=1) <= tolerance * size.clamp_min(1.0))] = -3
        for number, attractor in enumerate(attractors):
            verdict[(points - attractor.point).norm(dim=1) <= attractor.radius] = number
        verdict[~(size <= escape)] = -2
        if count >= _FIRST_LOOK and count & (count - 1) == 0:  # whenever the number of steps has doubled
            now = (points - before).norm(dim=1)
            slow, pace = pace.look(now, count * every / num_steps, tolerance * size.clamp_min(1.0))
            # the steps to come sum to k / (p - 1) of them; thrice that brings it to no attractor
            reach = 3 * now * count * every / (pace.powers - 1).clamp_min(0.02)
            for attractor in attractors:
                slow &= (points - attractor.point).norm(dim=1) - attractor.radius > reach
            verdict[(verdict == -1) & slow] = -4
        settled = verdict != -1
        labels[open_places[settled]] = verdict[settled]
        points, open_places = points[~settled], open_places[~settled]
        pace = pace.at(~settled)
        notify(f"{starts.shape[0] - open_places.numel():,} of {starts.shape[0]:,} starts labelled")
        if open_places.numel() == 0:
            break
    return labels.cpu()


def _steps(step: Map, points: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The points after count - 1 and after count steps."""
    before = points
    for _ in range(count):
        before, points = points, step(points)
    return before, points
