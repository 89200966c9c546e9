"""The subgradient flow of a sum of powers, one a coordinate, in closed form: extinct in finite time where p < 2.

For F = sum_j c_j abs(x_j - a_j)^p_j the distance u = abs(x_j - a_j) obeys u' = -c p u^(p-1), so that

    u(t) = u_0 (1 - s)^(1 / (2 - p)),  s = c p (2 - p) t / u_0^(2-p)   (exp(-2 c t) for p = 2).

With c > 0 and 1 <= p < 2 it is 0 from t = u_0^(2-p) / (c p (2 - p)) on: F is convex in x_j, so nothing else solves
the inclusion. With c < 0 and p < 2 more than one solution leaves u = 0; that is not claimed here, nor is any p < 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth.graph import Graph, Step, mapped
from tameopt.nonsmooth.polytope import Point
from tameopt.nonsmooth.trajectory import Event, Inclusion

_AGREE = 1e-9  # the gradient that autograd returns, against the law read off, relative to its size: our choice
_CLEAR = 1e-6  # nearer to a, relative to where it starts and to a, x is rounded too coarsely to compare: our choice
_MOST = 1000  # a power beyond it is not read


class _Unread(Exception):
    """F is not a sum of powers, or its flow has no closed form here."""


@dataclass(frozen=True)
class _Sum:
    """constant + sum c_j x_j + sum c abs(x_j - a)^p; powers are keyed by (j, a, p)."""

    constant: Fraction = Fraction(0)
    linear: dict[int, Fraction] = field(default_factory=dict)
    powers: dict[tuple[int, Fraction, Fraction], Fraction] = field(default_factory=dict)

    def plus(self, other: _Sum, factor: Fraction = Fraction(1)) -> _Sum:
        linear, powers = dict(self.linear), dict(self.powers)
        for j, c in other.linear.items():
            linear[j] = linear.get(j, Fraction(0)) + factor * c
        for key, c in other.powers.items():
            powers[key] = powers.get(key, Fraction(0)) + factor * c
        return _Sum(
            self.constant + factor * other.constant,
            {j: c for j, c in linear.items() if c},
            {key: c for key, c in powers.items() if c},
        )

    @property
    def is_constant(self) -> bool:
        return not self.linear and not self.powers

    def times(self, other: _Sum) -> _Sum:
        if not other.is_constant and not self.is_constant:
            raise _Unread
        a, b = (self, other) if other.is_constant else (other, self)
        return _Sum().plus(a, b.constant)

    def absolute(self) -> _Sum:
        if self.powers or len(self.linear) != 1:
            raise _Unread
        ((j, c),) = self.linear.items()
        return _Sum(powers={(j, -self.constant / c, Fraction(1)): abs(c)})

    def power(self, exponent: float) -> _Sum:
        q = Fraction(exponent)
        if not 0 < q <= _MOST:
            raise _Unread
        if not self.powers and q.denominator == 1 and q % 2 == 0:
            return self.absolute().power(exponent)
        if self.linear or self.constant or len(self.powers) != 1:
            raise _Unread
        (((j, a, p), c),) = self.powers.items()
        if c < 0:
            raise _Unread
        factor = c**q.numerator if q.denominator == 1 else Fraction(float(c) ** float(q))
        return _Sum(powers={(j, a, p * q): factor})


@dataclass(frozen=True)
class _Law:
    """u' = -c p u^(p-1) from u_0 = abs(x_0 - a) on the side `side` of a; q = 2 - p."""

    c: float
    p: float
    q: float
    a: float
    u0: float
    side: float

    @staticmethod
    def of(x0: Fraction, a: Fraction, p: Fraction, c: Fraction) -> _Law:
        if p < 1 or (c < 0 and x0 == a and p < 2):
            raise _Unread
        side = float((x0 > a) - (x0 < a))
        return _Law(float(c), float(p), float(2 - p), float(a), float(abs(x0 - a)), side)

    @property
    def extinct(self) -> float:
        """The time from which u is 0; inf where there is none."""
        if self.u0 == 0:
            return 0.0
        return self.u0**self.q / (self.c * self.p * self.q) if self.c > 0 and self.q > 0 else math.inf

    def _log_share(self, t: float) -> float:
        """log(u(t) / u_0) before extinction."""
        if self.q == 0:
            return -2 * self.c * t
        s = self.c * self.p * self.q * t / self.u0**self.q
        if s >= 1:  # rounded up to its end, or c < 0 and p > 2: it leaves every bound in finite time
            if self.c < 0:
                raise _Unread
            return -math.inf
        return math.log1p(-s) / self.q

    def distance(self, t: float) -> float:
        return 0.0 if t >= self.extinct else self.u0 * math.exp(self._log_share(t))

    def at(self, t: float) -> float:
        return self.a + self.side * self.distance(t)

    def velocity(self, t: float) -> float:
        u = self.distance(t)
        return -self.c * self.p * u ** (self.p - 1) * self.side if u else 0.0

    def clear(self, t: float) -> bool:
        """Whether rounding x(t) does not matter to its velocity."""
        return t >= self.extinct or self.distance(t) > _CLEAR * (abs(self.a) + self.u0)

    def action(self, t: float) -> float:
        """The integral of the squared velocity up to t."""
        if self.u0 == 0:
            return 0.0
        spent = self.c * self.u0**self.p
        return spent if t >= self.extinct else -spent * math.expm1(self.p * self._log_share(t))


@dataclass(frozen=True)
class _Steady:
    """x' = v."""

    x0: float
    v: float
    extinct: float = math.inf

    def at(self, t: float) -> float:
        return self.x0 + self.v * t

    def velocity(self, t: float) -> float:
        return self.v

    def clear(self, t: float) -> bool:
        return True

    def action(self, t: float) -> float:
        return self.v * self.v * t


def power_flow(
    F: Callable[[torch.Tensor], torch.Tensor], graph: Graph, x0: Point, wanted: Sequence[float], most_events: int
) -> Inclusion | None:
    """The solution from x0 at increasing times where F is read as a sum of powers, one a coordinate; else None.

    None also where several solutions may leave, where the curve leaves every bound, and where autograd does not
    return the gradient of the law that was read. graph: a trace of F.
    """
    try:
        laws = _laws(_read(graph, len(x0)), x0)
        found = _followed(F, laws, [float(t) for t in wanted])
    except (_Unread, OverflowError, ZeroDivisionError):
        return None
    return found if len(found.events) <= most_events else None


def _laws(total: _Sum, x0: Point) -> list[_Law | _Steady]:
    laws: list[_Law | _Steady] = []
    for j, x in enumerate(x0):
        own = [(a, p, c) for (i, a, p), c in total.powers.items() if i == j]
        if len(own) + (j in total.linear) > 1:
            raise _Unread
        if own:
            laws.append(_Law.of(Fraction(x), *own[0]))
        else:
            laws.append(_Steady(float(x), -float(total.linear.get(j, 0))))
    return laws


def _followed(
    F: Callable[[torch.Tensor], torch.Tensor], laws: Sequence[_Law | _Steady], times: Sequence[float]
) -> Inclusion:
    end = times[-1]
    starts = sorted({0.0} | {law.extinct for law in laws if law.extinct < end})

    def at(t: float) -> torch.Tensor:
        return torch.tensor([law.at(t) for law in laws], dtype=torch.float64)

    def velocity(t: float) -> np.ndarray:
        return np.array([law.velocity(t) for law in laws])

    defect = 0.0
    for t, following in zip(starts, [*starts[1:], end], strict=True):
        for look in (t, t + (following - t) / 2):
            clear = np.array([law.clear(look) for law in laws])
            g, v = _gradient(F, at(look))[clear], velocity(look)[clear]
            size = float(np.abs(np.concatenate([g, v])).max(initial=0.0))
            if not float(np.abs(g + v).max(initial=0.0)) <= _AGREE * size:
                raise _Unread
            defect = max(defect, abs(float(g @ v) + float(v @ v)))
    points = np.array([[law.at(t) for law in laws] for t in times])
    change = float(F(at(end))) - float(F(at(0.0)))
    defect_of_energy = change + sum(law.action(end) for law in laws)
    if not (np.isfinite(points).all() and math.isfinite(defect_of_energy)):
        raise _Unread
    events = tuple(Event(t, tuple(at(t).tolist()), tuple(velocity(t).tolist()), float(F(at(t))), ()) for t in starts)
    return Inclusion(np.array(times), points, events, "closed form", True, defect_of_energy, chain_rule_defect=defect)


def _gradient(F: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> np.ndarray:
    x.requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(F(x), x)
    except RuntimeError as error:
        raise _Unread from error
    return np.asarray(gradient.numpy())


def _constants(value: torch.Tensor) -> np.ndarray:
    array = np.empty(value.numel(), dtype=object)
    numbers = value.detach().reshape(-1).tolist()
    if not all(math.isfinite(number) for number in numbers):
        raise _Unread
    array[:] = [_Sum(Fraction(number)) for number in numbers]
    return array.reshape(tuple(value.shape))


def _pairs(function: Callable[[_Sum, _Sum], _Sum], a: Any, b: Any) -> np.ndarray:
    sides = [np.asarray(_Sum(Fraction(part)) if isinstance(part, (int, float)) else part, object) for part in (a, b)]
    left, right = np.broadcast_arrays(*sides)
    return _filled([function(x, y) for x, y in zip(left.reshape(-1), right.reshape(-1), strict=True)], left.shape)


def _filled(flat: Sequence[_Sum], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def _each(function: Callable[[_Sum], _Sum], x: np.ndarray) -> np.ndarray:
    return _filled([function(entry) for entry in x.reshape(-1)], x.shape)


def _total(x: np.ndarray) -> np.ndarray:
    total = _Sum()
    for entry in x.reshape(-1):
        total = total.plus(entry)
    return _filled([total], ())


def _minus(a: _Sum, b: _Sum) -> _Sum:
    return a.plus(b, Fraction(-1))


def _divided(a: _Sum, b: _Sum) -> _Sum:
    if not b.is_constant or b.constant == 0:
        raise _Unread
    return _Sum().plus(a, 1 / b.constant)


_TABLE: dict[str, Callable[..., np.ndarray]] = {
    "aten.add.Tensor": lambda a, b: _pairs(_Sum.plus, a, b),
    "aten.sub.Tensor": lambda a, b: _pairs(_minus, a, b),
    "aten.rsub.Scalar": lambda a, b: _pairs(_minus, b, a),
    "aten.mul.Tensor": lambda a, b: _pairs(_Sum.times, a, b),
    "aten.div.Tensor": lambda a, b: _pairs(_divided, a, b),
    "aten.neg.default": lambda x: _each(lambda entry: _Sum().plus(entry, Fraction(-1)), x),
    "aten.abs.default": lambda x: _each(_Sum.absolute, x),
    "aten.pow.Tensor_Scalar": lambda x, q: _each(lambda entry: entry.power(q), x),
    "aten.sqrt.default": lambda x: _each(lambda entry: entry.power(0.5), x),
    "aten.sum.default": _total,
    "aten.dot.default": lambda a, b: _total(_pairs(_Sum.times, a, b)),
    "aten.select.int": lambda x, dim, index: np.asarray(x.take(index, axis=dim), dtype=object),
}


def _read(graph: Graph, d: int) -> _Sum:
    """F as a sum; operators of one vector or scalar suffice, with their plain arguments."""
    known: dict[str, Any] = {}
    for step in graph:
        known[step.name] = _result(step, graph, known, d)
    last = known[graph.output]
    if not isinstance(last, np.ndarray) or last.size != 1:
        raise _Unread
    only: _Sum = last.reshape(-1)[0]
    return only


def _result(step: Step, graph: Graph, known: dict[str, Any], d: int) -> Any:
    if step.op == "parameter":
        return _filled([_Sum(linear={j: Fraction(1)}) for j in range(d)], (d,))
    if step.op == "constant":
        return graph.constants[step.name]
    args, kwargs = mapped(list(step.args), known), mapped(dict(step.kwargs), known)
    if not step.depends and step.function is not None:
        return step.function(*args, **kwargs)
    row = _TABLE.get(step.op)
    if row is None or kwargs:
        raise _Unread
    try:
        return row(*(_constants(arg) if isinstance(arg, torch.Tensor) else arg for arg in args))
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise _Unread from error
