"""The fan of active kinks: on each full-dimensional cell around x the function has one gradient.

A kink inside a kink is linear on each cell of the earlier ones, so the cells are found level by level, each with
an interior direction and, exactly, the gradient F has there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tameopt.nonsmooth.cones import Row, extreme_rays, independent_rows, primitive, product, reduced, strict_interior
from tameopt.nonsmooth.germ import Circuit, Entry
from tameopt.nonsmooth.polytope import Point
from tameopt.nonsmooth.quadratic import Form

Vector = tuple[Fraction, ...]


class TooManyKinks(ValueError):
    """More cells than asked for; the message says how many kinks are active and what to do instead."""


@dataclass(frozen=True)
class Cell:
    """One cone of the fan in reduced coordinates: {h: <row, h> >= 0 for its rows}, with an interior point.

    u: the part of the gradient that the kinks contribute there, in reduced coordinates.
    """

    rows: tuple[Row, ...]
    interior: Row
    u: Vector


@dataclass(frozen=True)
class Fan:
    """The cells around x, in coordinates of the row space of the kinks.

    pivots: the coordinates of h that are kept; basis: (r, d) with g = smooth_part + basis^T u.
    """

    cells: tuple[Cell, ...]
    pivots: tuple[int, ...]
    basis: tuple[Vector, ...]
    smooth_part: Vector

    @property
    def dim(self) -> int:
        """r, the dimension of the row space."""
        return len(self.pivots)

    def lifted(self, u: Sequence[Fraction]) -> Point:
        """The gradient in R^d that belongs to reduced coordinates u."""
        g = list(self.smooth_part)
        for coefficient, row in zip(u, self.basis, strict=True):
            if coefficient:
                g = [a + coefficient * b for a, b in zip(g, row, strict=True)]
        return tuple(g)

    def lifted_row(self, plane: Sequence[int]) -> Point:
        """The linear function of h: (d,) that a hyperplane of the reduced coordinates is."""
        columns = zip(*self.basis, strict=True)
        return tuple(sum((a * b for a, b in zip(plane, column, strict=True)), Fraction(0)) for column in columns)

    @property
    def gradients(self) -> tuple[Point, ...]:
        """The gradients of the cells: the Bouligand subdifferential of the first-order form."""
        return tuple(dict.fromkeys(self.lifted(cell.u) for cell in self.cells))


def generic_count(kinks: int, dim: int) -> int:
    """The number of cells of that many central hyperplanes in general position: 2 sum_{i<dim} C(kinks-1, i).

    >>> generic_count(3, 2), generic_count(3, 3)
    (6, 8)
    """
    return 1 if kinks == 0 else 2 * sum(math.comb(kinks - 1, i) for i in range(min(dim, kinks)))


def split(form: Form, dim: int, kinks: int) -> tuple[list[Fraction], list[Fraction]]:
    """A form as its (d,) part in h and its (m,) part in the kinks."""
    zero = Fraction(0)
    return [form.get(j, zero) for j in range(dim)], [form.get(dim + k, zero) for k in range(kinks)]


def fan_of(circuit: Circuit, F: Entry, *, most_cells: int = 20_000) -> Fan:
    """Enumerate the cells around x, exactly.

    Cost: at most one small linear feasibility problem for each cell and kink.
    Raises TooManyKinks beyond `most_cells` cells.
    """
    d, m = circuit.dim, len(circuit.forms)
    smooth, outer = split(F.form, d, m)
    linear, nested = zip(*(split(form, d, m) for form in circuit.forms), strict=True) if m else ((), ())
    table, pivots = reduced(list(linear)) if m else ([], [])
    if not pivots:
        whole = Cell((), (), ())
        return Fan((whole,), (), (), tuple(smooth))
    Z = [[row[p] for p in pivots] for row in linear]
    partial: list[tuple[list[list[Fraction]], list[int], list[Row], Row | None]] = [([], [], [], None)]
    for k in range(m):
        grown = []
        for slopes, signs, rows, inside in partial:
            a = list(Z[k])
            for j in range(k):
                weight = nested[k][j] * signs[j]
                if weight:
                    a = [x + weight * y for x, y in zip(a, slopes[j], strict=True)]
            for sign, new_rows, point in _sides(primitive(a), rows, inside):
                grown.append(([*slopes, a], [*signs, sign], new_rows, point))
        partial = grown
        # once the first hundred cells are those of general position, the rest is not waited for
        generic = len(partial) >= 100 and 2 * len(partial) >= generic_count(k + 1, len(pivots))
        if len(partial) > most_cells or (generic and generic_count(m, len(pivots)) > 2 * most_cells):
            raise TooManyKinks(
                f"{m} kinks are active, in {len(pivots)} dimensions: about {generic_count(m, len(pivots)):,} cells, "
                f"more than {most_cells:,}. Ask for goldstein(...), which samples, or raise most_cells."
            )
    cells = []
    for slopes, signs, rows, inside in partial:
        u = [Fraction(0)] * len(pivots)
        for weight, sign, a in zip(outer, signs, slopes, strict=True):
            if weight and sign:
                u = [x + weight * sign * y for x, y in zip(u, a, strict=True)]
        cells.append(Cell(tuple(rows), inside or tuple([0] * len(pivots)), tuple(u)))
    return Fan(tuple(cells), tuple(pivots), tuple(tuple(row) for row in table), tuple(smooth))


def _sides(a: Row, rows: list[Row], inside: Row | None) -> list[tuple[int, list[Row], Row | None]]:
    """The full-dimensional sides of <a, h> = 0 within a cell: (sign, rows, interior point); sign 0 where a = 0."""
    if not any(a):
        return [(0, rows, inside)]
    minus = tuple(-entry for entry in a)
    if a in rows:
        return [(1, rows, inside)]
    if minus in rows:
        return [(-1, rows, inside)]
    if inside is None:
        return [(1, [a], a), (-1, [minus], minus)]
    here = product(a, inside)
    found: list[tuple[int, list[Row], Row | None]] = []
    for sign, row in ((1, a), (-1, minus)):
        if here * sign > 0:
            found.append((sign, [*rows, row], inside))
            continue
        point = strict_interior([*rows, row])
        if point is not None:
            found.append((sign, [*rows, row], point))
    return found


@dataclass(frozen=True)
class Cone:
    """A refined cell: the signs of the hyperplanes inside it, its generators (rays and +-lines), and its u."""

    signs: tuple[int, ...]
    rays: tuple[Row, ...]
    u: Vector


def generators(rows: Sequence[Row], dim: int) -> tuple[Row, ...]:
    """Rays that generate a cone, a line as two opposite ones."""
    rays, lines = extreme_rays(list(rows), dim)
    return (*rays, *lines, *(tuple(-entry for entry in line) for line in lines))


def refined(fan: Fan) -> tuple[list[Row], list[Cone]]:
    """The arrangement of all hyperplanes that bound a cell, as cones: every face of it has one local structure.

    Nested kinks bend: two cells may share part of a face only. In the arrangement of all their hyperplanes they
    no longer do.
    """
    planes: list[Row] = []
    for cell in fan.cells:
        for row in cell.rows:
            upright = row if next(entry for entry in row if entry) > 0 else tuple(-entry for entry in row)
            if upright not in planes:
                planes.append(upright)
    partial: list[tuple[list[Row], Row | None]] = [([], None)]
    for plane in planes:
        partial = [(rows, point) for old, inside in partial for _, rows, point in _sides(plane, old, inside)]
    cones = []
    for rows, inside in partial:
        point = inside or tuple([0] * fan.dim)
        home = next(cell for cell in fan.cells if all(product(row, point) >= 0 for row in cell.rows))
        signs = tuple(1 if product(plane, point) > 0 else -1 for plane in planes)
        cones.append(Cone(signs, generators(rows, fan.dim), home.u))
    return planes, cones


def faces(planes: Sequence[Row], cones: Sequence[Cone], dim: int) -> list[tuple[tuple[int, ...], Row]]:
    """All faces of the arrangement, each by its signs on the planes and a point of its relative interior."""
    found: dict[tuple[int, ...], Row] = {}

    def visit(rays: frozenset[Row]) -> None:
        point = tuple(sum(column) for column in zip(*rays, strict=True)) if rays else tuple([0] * dim)
        signs = tuple((value > 0) - (value < 0) for value in (product(plane, point) for plane in planes))
        if signs in found:
            return
        found[signs] = point
        for plane in planes:
            inner = frozenset(ray for ray in rays if product(plane, ray) == 0)
            if inner != rays:
                visit(inner)

    for cone in cones:
        visit(frozenset(cone.rays))
    return list(found.items())


def independent(circuit: Circuit) -> bool:
    """Whether the kinks' gradients are linearly independent (LIKQ): then all 2^m sign patterns occur near x."""
    m = len(circuit.forms)
    return independent_rows([split(form, circuit.dim, m)[0] for form in circuit.forms])
