"""How a solution of the inclusion can go on from x where F is piecewise quadratic: its modes, one for each stratum.

A mode is a face S of the fan of active kinks. On the flat piece x + span S all pieces C around S have one value, so
their gradients g_C differ by normals only; a solution stays there exactly while 0 is in the hull of the normal parts,
and then its velocity is the common tangential part of -g_C, the least-norm element of the hull with the sign turned.
The flow in a mode is linear, so it is known in closed form; a mode is possible when the kinks that it leaves go to
the sides of S for small t > 0, by the first derivative that is not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tameopt.nonsmooth.fan import Cone, Fan, faces, fan_of, independent, refined
from tameopt.nonsmooth.germ import Entry
from tameopt.nonsmooth.graph import Graph
from tameopt.nonsmooth.linear_flow import Function, LinearFlow
from tameopt.nonsmooth.local_form import Local, local_form_of_graph
from tameopt.nonsmooth.min_norm import min_norm
from tameopt.nonsmooth.polytope import Point

Array = np.ndarray

TOLERANCE = Fraction(
    1, 10**11
)  # kink inputs this small, relative to their slope, are 0: our choice, far above rounding
_INSIDE = 1e-10  # 0 is in a hull that comes this near, relative to its points: our choice


class NotQuadratic(ValueError):
    """F is not piecewise quadratic with flat kinks where the curve goes; the message says what it met."""


@dataclass(frozen=True)
class Piece:
    """F on one cell around x: gradient g, Hessian H there, and the inputs of all kinks as functions on it."""

    value: float
    gradient: Array
    hessian: Array
    kinks: tuple[Function, ...]


@dataclass(frozen=True)
class Mode:
    """One way to go on from x. flow: its closed form; pieces: F around it; normals: (d, r) orthonormal, off it.

    kinks: the inputs whose next zero is an event. margins: affine functions of which none may change its sign while
    the solution slides on one kink.
    """

    flow: LinearFlow
    pieces: tuple[Piece, ...]
    normals: Array
    kinks: tuple[Function, ...]
    margins: tuple[Function, ...]

    def holds(self, moved: Array, tolerance: float) -> bool:
        """Whether 0 is in the hull of the normal parts of the gradients at x + moved."""
        if self.normals.shape[1] == 0:
            return True
        points = np.array([self.normals.T @ (piece.gradient + piece.hessian @ moved) for piece in self.pieces])
        size = max(float(np.linalg.norm(piece.gradient)) for piece in self.pieces)
        return bool(min_norm(points).distance <= tolerance * max(size, 1e-300))

    def chain_rule_defect(self, t: float) -> float:
        """max over the pieces C around x(t) of abs(<g_C, x'> + norm(x')^2): 0 where the chain rule holds."""
        moved, v = self.flow.moved(t), self.flow.velocity_at(t)
        rates = [float((piece.gradient + piece.hessian @ moved) @ v) for piece in self.pieces]
        return max(abs(rate + float(v @ v)) for rate in rates)


def _vector(form: dict[int, Fraction], d: int) -> Array:
    return np.array([float(form.get(j, 0)) for j in range(d)])


def _bend(entry: Entry, d: int, what: str) -> Array | None:
    if not entry.curved:
        return None
    if entry.second is None or entry.second.beyond or entry.inexact:
        raise NotQuadratic(f"{what} is neither linear nor quadratic on a piece around the curve")
    bend = np.zeros((d, d))
    for (i, j), value in entry.second.terms.items():
        bend[i, j] += float(value)
        bend[j, i] += float(value)
    return bend


def piece_towards(graph: Graph, point: Point, toward: Sequence[Fraction]) -> Piece:
    """F on the cell into which a direction leads from a point. Raises NotQuadratic."""
    d = len(point)
    local = local_form_of_graph(graph, point, tolerance=TOLERANCE, toward=toward, second_order=True)
    if local.kinks or local.circuit.norms:
        raise NotQuadratic("a kink is left open by every direction")
    kinks = []
    for entry in dict.fromkeys(local.circuit.inactive):
        slope = _vector(entry.form, d)
        near = abs(entry.value) <= TOLERANCE * sum(map(abs, entry.form.values()))
        kinks.append(Function(0.0 if near else float(entry.value), slope, _bend(entry, d, "the input of a kink")))
    hessian = _bend(local.entry, d, "F")
    gradient = _vector(local.entry.form, d)
    return Piece(float(local.entry.value), gradient, np.zeros((d, d)) if hessian is None else hessian, tuple(kinks))


def _lifted(fan: Fan, d: int, reduced_point: Sequence[int]) -> list[Fraction]:
    """A direction of R^d with these reduced coordinates."""
    h = [Fraction(0)] * d
    for pivot, entry in zip(fan.pivots, reduced_point, strict=True):
        h[pivot] = Fraction(entry)
    return h


def _normals(fan: Fan, planes: Sequence[Sequence[int]], d: int) -> tuple[Array, Array]:
    """Orthonormal bases of the span of planes and of its complement: (d, r), (d, d - r)."""
    rows = [[float(entry) for entry in fan.lifted_row(plane)] for plane in planes]
    if not rows:
        return np.zeros((d, 0)), np.eye(d)
    left, sizes, _ = np.linalg.svd(np.array(rows).T)
    rank = int((sizes > 1e-12 * sizes.max()).sum())
    return left[:, :rank], left[:, rank:]


def modes(graph: Graph, point: Point, *, most_cells: int = 5_000) -> list[Mode]:
    """All ways to go on from a point, the slowest first. Raises NotQuadratic, TooManyKinks, GermError."""
    d = len(point)
    local = local_form_of_graph(graph, point, tolerance=TOLERANCE)
    if local.circuit.norms:
        raise NotQuadratic("a 2-norm is 0")
    if not local.exact_kinks and not independent(local.circuit):
        raise NotQuadratic("curved kinks meet whose gradients are dependent")
    fan = fan_of(local.circuit, local.entry, most_cells=most_cells)
    if fan.dim == 0:
        everywhere = piece_towards(graph, point, [Fraction(j * j + 1) for j in range(d)])
        flow = LinearFlow.of(np.eye(d), everywhere.gradient, everywhere.hessian)
        return [Mode(flow, (everywhere,), np.zeros((d, 0)), everywhere.kinks, ())]
    planes, cones = refined(fan)
    pieces = {cone.signs: piece_towards(graph, point, _lifted(fan, d, _inside(cone))) for cone in cones}
    size = max(float(np.linalg.norm(piece.gradient)) for piece in pieces.values())
    bends = max(float(np.abs(piece.hessian).max(initial=0.0)) for piece in pieces.values())
    size += bends * max((abs(float(entry)) for entry in point), default=0.0)
    found = []
    for signs, _ in faces(planes, cones, fan.dim):
        around = [
            pieces[cone.signs] for cone in cones if all(s in (0, t) for s, t in zip(signs, cone.signs, strict=True))
        ]
        zero = [plane for plane, sign in zip(planes, signs, strict=True) if sign == 0]
        normals, tangent = _normals(fan, zero, d)
        flow = LinearFlow.of(tangent, around[0].gradient, around[0].hessian)
        left = [(plane, sign) for plane, sign in zip(planes, signs, strict=True) if sign]
        slopes = [(np.array([float(entry) for entry in fan.lifted_row(plane)]), sign) for plane, sign in left]
        if any(flow.sign_after(slope, size) != sign for slope, sign in slopes):
            continue
        mode = _mode(flow, tuple(around), normals, size)
        if mode is not None:
            found.append(mode)
    _refuse_bent(local, found, d)
    return sorted(found, key=lambda mode: float(mode.flow.speeds @ mode.flow.speeds))


def _inside(cone: Cone) -> list[int]:
    return [sum(column) for column in zip(*cone.rays, strict=True)]


def _mode(flow: LinearFlow, around: tuple[Piece, ...], normals: Array, size: float) -> Mode | None:
    """The mode, when the solution can stay on it for small t > 0."""
    kinks = []
    for kink in around[0].kinks:
        sign = 0
        if kink.value == 0:
            sign = flow.sign_after(kink.slope, size)
            if sign == 0:  # the solution stays on it
                continue
        kinks.append(Function(kink.value, kink.slope, kink.bend, sign))
    margins: list[Function] = []
    mode = Mode(flow, around, normals, tuple(kinks), ())
    if not mode.holds(np.zeros(len(normals)), _INSIDE):
        return None
    if normals.shape[1] == 1:
        signs = []
        for piece in around:
            value, slope = float(normals[:, 0] @ piece.gradient), normals[:, 0] @ piece.hessian
            near = abs(value) <= _INSIDE * size
            sign = flow.sign_after(slope, size) if near else 0
            signs.append(sign if near else 1 if value > 0 else -1)
            if not near or sign:
                margins.append(Function(0.0 if near else value, slope, None, sign))
        if min(signs) > 0 or max(signs) < 0:
            return None
    elif normals.shape[1] > 1:
        soon = 1e-5 / (1.0 + float(np.abs(flow.rates).max(initial=0.0)))
        if not mode.holds(flow.moved(soon), _INSIDE):
            return None
    return Mode(flow, around, normals, tuple(kinks), tuple(margins))


def _refuse_bent(local: Local, found: Sequence[Mode], d: int) -> None:
    """A curved kink may be crossed, or end the curve at a point of rest; sliding along it is no linear flow."""
    for mode in found:
        slides = mode.normals.shape[1] > 0 and bool(np.any(mode.flow.speeds != 0))
        if not local.exact_kinks and slides and float(np.abs(mode.flow.velocity).max()) > 0:
            raise NotQuadratic("the solution slides along a kink that is curved")
