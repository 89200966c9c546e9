"""A solution of the subgradient inclusion as it is reported: events, values at the times asked for, checks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Number = Fraction | float
Vector = tuple[Number, ...]


@dataclass(frozen=True)
class Event:
    """At time t the solution is at x, where F has this value, and leaves with this velocity.

    Exact rationals where F is piecewise linear, else float64. alternatives: the other velocities possible there.
    """

    t: Number
    x: Vector
    velocity: Vector
    value: Number
    alternatives: tuple[Vector, ...]


@dataclass(frozen=True)
class Inclusion:
    """A solution of the inclusion.

    times: (m,), points: (m, d) float64 at those times. events: where the curve changes its law (event-driven).
    status: "exact" (rationals, evaluated in float64 at the end), "closed form" (piecewise quadratic, or a sum of
        powers, one a coordinate: formulas and event times in float64, up to rounding), "integrated" (DOP853 from kink
        to kink; `error` is an estimate, the difference of two tolerances, no bound), "bounded" (proximal Euler;
        `error` bounds the distance to the solution at every time), "bundle" (the same with steps found by planes
        below F: `error` is a bound if F is convex, of which no counterexample was met) or "zeno" (more events than
        allowed; the curve is right up to the last one).
    unique: no other velocity was possible at any event. Where False, more solutions may leave later from where this
        one rests or slides.
    energy_defect: F(x(T)) - F(x(0)) + integral of norm(velocity)^2; chain_rule_defect: the largest
        abs(<g, x'> + norm(x')^2) over the gradients g of the pieces around the curve, at each event and half-way to
        the next. Both are 0 when the chain rule holds (exactly so for rationals).
    """

    times: np.ndarray
    points: np.ndarray
    events: tuple[Event, ...]
    status: str
    unique: bool
    energy_defect: float
    error: float = 0.0
    chain_rule_defect: float = 0.0

    def __repr__(self) -> str:
        words = "" if self.unique else ", not unique"
        return f"Inclusion({self.status}, {len(self.events)} events, t <= {self.times[-1]:g}{words})"
