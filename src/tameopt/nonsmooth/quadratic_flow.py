"""The subgradient flow of piecewise quadratic F: from event to event in closed form.

Between events the solution follows one linear flow (`modes`): exponentials of the projected Hessian. An event is the
first zero of a kink's input along it, or the time at which 0 leaves the hull of the normal parts of the gradients, so
that the solution leaves the stratum it slides on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tameopt.nonsmooth.graph import Graph
from tameopt.nonsmooth.local_form import local_form_of_graph
from tameopt.nonsmooth.modes import TOLERANCE, Mode, modes
from tameopt.nonsmooth.polytope import Point
from tameopt.nonsmooth.trajectory import Event, Inclusion

Array = np.ndarray

_LOOKS = 64  # times at which a hull of dimension > 1 is looked at between events: our choice
_HALVINGS = 60


@dataclass(frozen=True)
class _Leg:
    """One mode, from time t at x until the next event."""

    t: float
    x: Array
    mode: Mode


def closed_form(
    graph: Graph, x0: Point, wanted: Sequence[float], *, branch: int, most_cells: int, most_events: int
) -> Inclusion:
    """A solution from x0 at increasing times, by closed forms between events.

    Raises NotQuadratic where F is not piecewise quadratic near the curve, or slides along a curved kink.
    """
    end, now, point = float(wanted[-1]), 0.0, x0
    legs: list[_Leg] = []
    events: list[Event] = []
    status, defect, spent = "closed form", 0.0, 0.0
    while True:
        ways = modes(graph, point, most_cells=most_cells)
        if not ways:
            raise RuntimeError("no velocity satisfies the inclusion: please report this as a bug of tameopt.")
        mode = ways[min(branch, len(ways) - 1)]
        x = np.array([float(entry) for entry in point])
        legs.append(_Leg(now, x, mode))
        others = tuple(tuple(way.flow.velocity.tolist()) for way in ways if way is not mode)
        value = mode.pieces[0].value
        events.append(Event(now, tuple(x.tolist()), tuple(mode.flow.velocity.tolist()), value, others))
        ahead = min(_next_event(mode, end - now), end - now)
        defect = max(defect, mode.chain_rule_defect(0.0), mode.chain_rule_defect(ahead / 2))
        spent += mode.flow.action(ahead)
        if now + ahead >= end:
            break
        if len(events) >= most_events:
            status, end = "zeno", now + ahead
            break
        now += ahead
        point = _snapped(graph, x + mode.flow.moved(ahead))
    last = legs[-1]
    final = tuple(Fraction(entry) for entry in (last.x + last.mode.flow.moved(end - last.t)).tolist())
    change = float(local_form_of_graph(graph, final).entry.value) - events[0].value
    return Inclusion(
        np.array([float(t) for t in wanted]),
        np.array([_at(legs, float(t)) for t in wanted]),
        tuple(events),
        status,
        all(not event.alternatives for event in events),
        float(change) + spent,
        chain_rule_defect=defect,
    )


def _at(legs: Sequence[_Leg], t: float) -> Array:
    leg = next(leg for leg in reversed(legs) if leg.t <= t)
    return leg.x + leg.mode.flow.moved(t - leg.t)


def _next_event(mode: Mode, end: float) -> float:
    """The time until the next event in a mode, at most `end`; inf when there is none before."""
    if not np.any(mode.flow.speeds):
        return float("inf")
    times = [mode.flow.first_zero(function, end) for function in (*mode.kinks, *mode.margins)]
    first = min(times, default=float("inf"))
    if mode.normals.shape[1] > 1:
        first = min(first, _first_outside(lambda t: mode.holds(mode.flow.moved(t), 1e-13), min(first, end)))
    return first


def _first_outside(holds: Callable[[float], bool], end: float) -> float:
    """The first of a set of times at which it does not hold, made precise by halving; inf when it always does."""
    left = 0.0
    for look in range(1, _LOOKS + 1):
        right = end * look / _LOOKS
        if not holds(right):
            for _ in range(_HALVINGS):
                middle = (left + right) / 2
                left, right = (middle, right) if holds(middle) else (left, middle)
            return right
        left = right
    return float("inf")


def _snapped(graph: Graph, x: Array) -> Point:
    """The nearest point on the kinks that x has come to, so that rounding does not add up from event to event."""
    local = local_form_of_graph(graph, tuple(Fraction(entry) for entry in x.tolist()), tolerance=TOLERANCE)
    d = len(x)
    flat = [k for k, form in enumerate(local.circuit.forms) if all(0 <= key < d for key in form)]
    if flat:
        rows = np.array([[float(local.circuit.forms[k].get(j, 0)) for j in range(d)] for k in flat])
        values = np.array([float(local.circuit.values[k]) for k in flat])
        x = x - np.linalg.lstsq(rows, values, rcond=1e-12)[0]
    return tuple(Fraction(entry) for entry in x.tolist())
