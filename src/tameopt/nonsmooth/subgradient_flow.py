"""The subgradient flow, d theta / dt in -dF(theta): event-driven, exact in rationals for piecewise linear F.

At a point the fan of active kinks is enumerated in rationals. A solution leaves along v inside a face S of the fan
exactly when v = -(least-norm element of the hull of the gradients of the cells around S) and v points into S: the
chain rule makes <g, v> one number for all those g, so that no other element can be the velocity. All such v are
found, so non-uniqueness is seen. The next event is the first time an inactive kink becomes active; it is rational.
Piecewise quadratic F (`quadratic_flow`) and sums of powers (`power_flow`) go on in closed form. For convex F with a
proximal map, proximal Euler steps carry an a-posteriori bound instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth.bundle_flow import bundle_flow
from tameopt.nonsmooth.fan import Fan, faces, fan_of, refined, split
from tameopt.nonsmooth.germ import Circuit
from tameopt.nonsmooth.graph import Graph, trace_function
from tameopt.nonsmooth.local_form import Local, local_form_of_graph
from tameopt.nonsmooth.min_norm import min_norm
from tameopt.nonsmooth.modes import NotQuadratic
from tameopt.nonsmooth.polytope import Point, rational_point
from tameopt.nonsmooth.power_flow import power_flow
from tameopt.nonsmooth.quadratic_flow import closed_form
from tameopt.nonsmooth.smooth_flow import smooth_flow
from tameopt.nonsmooth.trajectory import Event, Inclusion

_STEPS = 200  # of the bundle method, a few milliseconds each: our choice


def velocities(local: Local, fan: Fan) -> list[Point]:
    """All velocities with which a solution can leave x, exactly; the zero one, when possible, is first."""
    d = len(local.x)
    if fan.dim == 0:
        return [tuple(-entry for entry in fan.lifted(()))]
    planes, cones = refined(fan)
    found: list[Point] = []
    for signs, _ in faces(planes, cones, fan.dim):
        around = [cone for cone in cones if all(s in (0, t) for s, t in zip(signs, cone.signs, strict=True))]
        gradients = list(dict.fromkeys(fan.lifted(cone.u) for cone in around))
        v = tuple(-entry for entry in min_norm([list(g) for g in gradients]).point)
        reduced_v = [sum((a * b for a, b in zip(row, v, strict=True)), Fraction(0)) for row in fan.basis]
        at = [sum((a * b for a, b in zip(plane, reduced_v, strict=True)), Fraction(0)) for plane in planes]
        if all((value > 0) - (value < 0) == sign for value, sign in zip(at, signs, strict=True)) and v not in found:
            found.append(v)
    still = tuple([Fraction(0)] * d)
    if still not in found and _stays(fan, d):
        found.append(still)
    return sorted(found, key=lambda v: sum(entry * entry for entry in v))


def _stays(fan: Fan, d: int) -> bool:
    return min_norm([list(g) for g in fan.gradients]).squared_distance == 0


def _speed_along(circuit: Circuit, form: dict[int, Fraction], v: Point) -> Fraction:
    """The derivative of an entry of that form along v, the kinks included."""
    sizes: list[Fraction] = []
    for own in circuit.forms:
        linear, nested = split(own, circuit.dim, len(circuit.forms))
        total = sum((a * b for a, b in zip(linear, v, strict=True)), Fraction(0))
        total += sum((a * b for a, b in zip(nested, sizes, strict=False)), Fraction(0))
        sizes.append(abs(total))
    linear, nested = split(form, circuit.dim, len(circuit.forms))
    return sum((a * b for a, b in zip(linear, v, strict=True)), Fraction(0)) + sum(
        (a * b for a, b in zip(nested, sizes, strict=True)), Fraction(0)
    )


def _next_event(local: Local, v: Point) -> Fraction | None:
    """The first time at which an inactive kink becomes active along v, or None."""
    times = []
    for entry in local.circuit.inactive:
        speed = _speed_along(local.circuit, entry.form, v)
        if speed and -entry.value / speed > 0:
            times.append(-entry.value / speed)
    return min(times, default=None)


def inclusion(
    F: Callable[[torch.Tensor], torch.Tensor],
    x0: Any,
    times: Sequence[float],
    *,
    branch: int = 0,
    prox: Callable[[torch.Tensor, float], torch.Tensor] | None = None,
    steps: int | None = None,
    most_cells: int = 5_000,
    most_events: int = 1_000,
) -> Inclusion:
    """A solution of d theta / dt in -dF(theta), theta(0) = x0: (d,), at increasing times >= 0.

    Event-driven where F is piecewise linear (in rationals) or piecewise quadratic (closed forms, float64), or a sum
    of powers c abs(x_j - a)^p, one a coordinate (closed form; extinct where c > 0 and p < 2). Other F that are smooth
    between kinks of abs, relu, maximum and minimum, met one at a time, are integrated numerically: status
    "integrated", `error` an estimate. Elsewhere, and where `steps` is given, proximal Euler steps found by planes
    below a convex F: status "bundle", with an a-posteriori bound that holds if F is convex; a witness that it is not
    is an error.

    branch: where several velocities are possible, which to take in the order of their norms; 0 stays at a Clarke
        critical point, 1, 2, ... leave it.
    prox: (x, h) -> prox_{h F}(x) of a convex F; then proximal Euler steps with an a-posteriori bound.
    steps: proximal Euler steps, 1,000 with prox and 200 without by default (our choice).
    most_events: events after which the flow is called Zeno and given up to there (our choice).

    Raises ValueError for times that do not increase, a point that is not finite, and without prox for an F that is
    neither piecewise quadratic along the curve, nor covered by the others, nor, as far as seen, convex.

    >>> inclusion(lambda x: x.abs().sum(), [2], [0.0, 1.0, 3.0]).points.ravel().tolist()
    [2.0, 1.0, 0.0]
    """
    if any(not math.isfinite(t) for t in times):
        raise ValueError(f"times must be finite, got {list(times)}.")
    wanted = [Fraction(t) for t in times]
    if not wanted or wanted[0] < 0 or any(a > b for a, b in itertools.pairwise(wanted)):
        raise ValueError(f"times must be >= 0 and increase, got {list(times)}.")
    if branch < 0 or most_events < 1:
        raise ValueError(f"branch must be >= 0 and most_events >= 1, got {branch} and {most_events}.")
    point = rational_point(x0)
    if prox is not None:
        return _proximal_euler(F, point, wanted, prox, 1000 if steps is None else steps)
    graph = trace_function(F, torch.tensor([float(entry) for entry in point], dtype=torch.float64))
    linear = _piecewise_linear(graph, point, wanted, branch, most_cells, most_events)
    if linear is not None:
        return linear
    grid = [float(t) for t in wanted]
    try:
        return closed_form(graph, point, grid, branch=branch, most_cells=most_cells, most_events=most_events)
    except NotQuadratic as error:
        powers = power_flow(F, graph, point, grid, most_events)
        if powers is not None:
            return powers
        integrated = smooth_flow(graph, point, grid, most_events) if steps is None else None
        if integrated is not None:
            return integrated
        try:
            return bundle_flow(
                F, np.array([float(entry) for entry in point]), grid, _STEPS if steps is None else steps
            )
        except ValueError as refused:  # a witness against convexity, or an operator without a certified gradient
            raise ValueError(
                f"F must be piecewise linear or quadratic near the curve: {error}. Nor do proximal Euler steps "
                f"apply: {refused}. Pass prox=lambda x, h: ..., the proximal map of a convex F (an entry of "
                "nonsmooth.prox, say); where F is smooth use gradient_flow."
            ) from error


def _piecewise_linear(
    graph: Graph, point: Point, wanted: Sequence[Fraction], branch: int, most_cells: int, most_events: int
) -> Inclusion | None:
    """The solution in rationals, or None where F is curved near the curve."""
    local = local_form_of_graph(graph, point)
    events: list[Event] = []
    now, status, defect = Fraction(0), "exact", Fraction(0)
    total, end = Fraction(0), wanted[-1]
    while True:
        if not local.piecewise_linear:
            return None
        fan = fan_of(local.circuit, local.entry, most_cells=most_cells)
        found = velocities(local, fan)
        if not found:
            raise RuntimeError("no velocity satisfies the inclusion: please report this as a bug of tameopt.")
        v = found[min(branch, len(found) - 1)]
        events.append(Event(now, local.x, v, local.entry.value, tuple(other for other in found if other != v)))
        squared = sum((entry * entry for entry in v), Fraction(0))
        defect = max(defect, *(abs(_product(g, v) + squared) for g in _gradients_along(fan, v)))
        ahead = _next_event(local, v) if any(v) else None
        if ahead is None or now + ahead >= end:
            ahead = end - now
        elif len(events) >= most_events:
            status, end = "zeno", now + ahead
        total += ahead * squared
        now += ahead
        local = local_form_of_graph(graph, tuple(a + ahead * b for a, b in zip(local.x, v, strict=True)))
        if now >= end:
            break
    total += local.entry.value - Fraction(events[0].value)
    unique = all(not event.alternatives for event in events)
    points = np.array([[float(entry) for entry in _at(events, t)] for t in wanted])
    grid = np.array([float(t) for t in wanted])
    return Inclusion(grid, points, tuple(events), status, unique, float(total), chain_rule_defect=float(defect))


def _product(a: Sequence[int | Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _gradients_along(fan: Fan, v: Point) -> list[Point]:
    """The gradients of the cells whose closure holds x + t v for small t > 0."""
    inner = [_product(row, v) for row in fan.basis]
    return [fan.lifted(cell.u) for cell in fan.cells if all(_product(row, inner) >= 0 for row in cell.rows)]


def _at(events: Sequence[Event], t: Fraction) -> list[Any]:
    event = next(event for event in reversed(events) if event.t <= t)
    return [a + (t - event.t) * b for a, b in zip(event.x, event.velocity, strict=True)]


def _proximal_euler(
    F: Callable[[torch.Tensor], torch.Tensor],
    x0: Any,
    wanted: Sequence[Fraction],
    prox: Callable[[torch.Tensor, float], torch.Tensor],
    steps: int,
) -> Inclusion:
    """U_n = prox_{h F}(U_{n-1}); error^2 <= sum h^2 E_n, E_n = (F(U_{n-1}) - F(U_n)) / h - norm(dU / h)^2 >= 0.

    Source: Nochetto, Savare & Verdi 2000, for convex F.
    """
    x = torch.as_tensor([float(entry) for entry in x0], dtype=torch.float64)
    end = float(wanted[-1])
    h = end / steps if end else 1.0
    nodes, value, bound, spent = [x], float(F(x)), 0.0, 0.0
    start = value
    for _ in range(steps if end else 0):
        new = prox(x, h)
        new_value = float(F(new))
        slope = float((new - x).norm()) / h
        bound += h**2 * max(0.0, (value - new_value) / h - slope**2)
        spent += h * slope**2
        x, value = new, new_value
        nodes.append(x)
    grid = torch.stack(nodes).numpy()
    at = np.array([float(t) for t in wanted])
    columns = [np.interp(at, h * np.arange(len(nodes)), grid[:, j]) for j in range(grid.shape[1])]
    error = math.sqrt(bound)
    return Inclusion(at, np.stack(columns, 1), (), "bounded", True, value - start + spent, error)
