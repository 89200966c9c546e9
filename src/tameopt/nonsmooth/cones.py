"""Exact polyhedral geometry in rationals: feasibility of strict systems, extreme rays, vertices.

Sizes are those of active kinks at a point: tens of rows in a few dimensions. Every answer is checked in exact
arithmetic; floating point only proposes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tameopt.nonsmooth.min_norm import min_norm

Row = tuple[int, ...]


def primitive(row: Sequence[Fraction | int]) -> Row:
    """The positive multiple of a rational vector with coprime integer entries.

    >>> primitive([Fraction(1, 2), Fraction(-1, 3)])
    (3, -2)
    """
    scale = math.lcm(*(Fraction(entry).denominator for entry in row)) if row else 1
    whole = [int(entry * scale) for entry in row]
    common = math.gcd(*whole) if whole else 0
    return tuple(entry // common for entry in whole) if common else tuple(whole)


def product(a: Sequence[int], b: Sequence[int]) -> int:
    """<a, b>."""
    return sum(x * y for x, y in zip(a, b, strict=True) if x and y)


def strict_interior(rows: Sequence[Row]) -> Row | None:
    """An integer h with <a, h> > 0 for every row a, or None when there is none; exact.

    By Gordan's theorem there is none exactly when 0 is in the hull of the rows, and else the least-norm point of
    the hull is such an h.
    """
    if not rows:
        return ()
    if any(not any(row) for row in rows):
        return None
    floats = np.array([[float(entry) for entry in row] for row in rows])
    floats /= np.abs(floats).max(axis=1, keepdims=True)
    solution = min_norm(floats)
    if solution.lower_bound > 1e-7:
        size = float(np.abs(solution.point).max())
        proposal = tuple(round(float(entry) / size * 2**24) for entry in solution.point)
        if all(product(row, proposal) > 0 for row in rows):
            return proposal
    elif solution.distance < 1e-9 and _combines_to_zero([rows[int(i)] for i in np.flatnonzero(solution.weights)]):
        return None
    exact = min_norm([[Fraction(entry) for entry in row] for row in rows])
    return primitive(exact.point) if exact.squared_distance else None


def _combines_to_zero(rows: list[Row]) -> bool:
    """Whether positive weights with sum_i w_i row_i = 0 exist and are unique, found exactly: a Gordan certificate."""
    kernel = null_space([list(column) for column in zip(*rows, strict=True)])
    return len(kernel) == 1 and (all(w > 0 for w in kernel[0]) or all(w < 0 for w in kernel[0]))


def reduced(rows: Sequence[Sequence[Fraction | int]]) -> tuple[list[list[Fraction]], list[int]]:
    """The reduced row echelon form (nonzero rows only) and its pivot columns."""
    table = [[Fraction(entry) for entry in row] for row in rows]
    pivots: list[int] = []
    columns = len(table[0]) if table else 0
    height = 0
    for column in range(columns):
        found = next((i for i in range(height, len(table)) if table[i][column]), None)
        if found is None:
            continue
        table[height], table[found] = table[found], table[height]
        head = table[height][column]
        table[height] = [entry / head for entry in table[height]]
        for i in range(len(table)):
            if i != height and table[i][column]:
                factor = table[i][column]
                table[i] = [a - factor * b for a, b in zip(table[i], table[height], strict=True)]
        pivots.append(column)
        height += 1
        if height == len(table):
            break
    return table[:height], pivots


def rank(rows: Sequence[Sequence[Fraction | int]]) -> int:
    """The rank of a rational matrix."""
    return len(reduced(rows)[1]) if rows else 0


_PRIME = 2**31 - 1


def independent_rows(rows: Sequence[Sequence[Fraction | int]]) -> bool:
    """Whether the rows are linearly independent; exact.

    Full rank modulo a prime proves it, in fast arithmetic; only a deficiency there needs the rationals.
    """
    if not rows:
        return True
    if len(rows) > len(rows[0]):
        return False
    table = np.array([[entry % _PRIME for entry in primitive(row)] for row in rows], dtype=np.int64)
    height = 0
    for column in range(table.shape[1]):
        below = np.flatnonzero(table[height:, column])
        if not len(below):
            continue
        pivot = height + int(below[0])
        table[[height, pivot]] = table[[pivot, height]]
        head = table[height] * pow(int(table[height, column]), -1, _PRIME) % _PRIME
        table[height] = head
        rest = table[height + 1 :]
        table[height + 1 :] = (rest - rest[:, column : column + 1] * head % _PRIME) % _PRIME
        height += 1
        if height == len(rows):
            return True
    return rank(rows) == len(rows)


def null_space(rows: Sequence[Sequence[Fraction | int]]) -> list[Row]:
    """Integer vectors spanning {x: <row, x> = 0 for every row}."""
    if not rows:
        return []
    table, pivots = reduced(rows)
    columns = len(rows[0])
    basis = []
    for free in (column for column in range(columns) if column not in pivots):
        vector = [Fraction(0)] * columns
        vector[free] = Fraction(1)
        for row, pivot in zip(table, pivots, strict=True):
            vector[pivot] = -row[free]
        basis.append(primitive(vector))
    return basis


def extreme_rays(rows: Sequence[Row], dim: int) -> tuple[list[Row], list[Row]]:
    """({rays}, {lines}) of the cone {x in R^dim: <a, x> >= 0 for every row a}: x = cone(rays) + span(lines).

    The double description method (Motzkin et al. 1953) with the combinatorial adjacency test.
    """
    lines = [tuple(int(i == j) for j in range(dim)) for i in range(dim)]
    rays: list[Row] = []
    tight: list[frozenset[int]] = []
    for number, row in enumerate(rows):
        moving = next((line for line in lines if product(row, line)), None)
        if moving is not None:
            lines, rays, tight = _cut_lines(row, number, moving, lines, rays, tight)
            continue
        signs = [product(row, ray) for ray in rays]
        keep = [i for i, sign in enumerate(signs) if sign >= 0]
        new_rays = [rays[i] for i in keep]
        new_tight = [tight[i] | ({number} if signs[i] == 0 else frozenset()) for i in keep]
        positive = [i for i, sign in enumerate(signs) if sign > 0]
        negative = [i for i, sign in enumerate(signs) if sign < 0]
        for i in positive:
            for j in negative:
                common = tight[i] & tight[j]
                if any(common <= tight[k] for k in range(len(rays)) if k not in (i, j)):
                    continue
                new = [signs[i] * b - signs[j] * a for a, b in zip(rays[i], rays[j], strict=True)]
                new_rays.append(primitive(new))
                new_tight.append(common | {number})
        rays, tight = new_rays, new_tight
    return rays, lines


def _cut_lines(
    row: Row, number: int, moving: Row, lines: list[Row], rays: list[Row], tight: list[frozenset[int]]
) -> tuple[list[Row], list[Row], list[frozenset[int]]]:
    """A row that is not constant along a line: the line becomes a ray, all else is moved onto the row's plane."""
    size = product(row, moving)
    up = moving if size > 0 else tuple(-entry for entry in moving)
    size = abs(size)

    def onto(vector: Row) -> Row:
        shift = product(row, vector)
        return primitive([size * a - shift * b for a, b in zip(vector, up, strict=True)])

    kept = [onto(line) for line in lines if line is not moving]
    return kept, [*(onto(ray) for ray in rays), up], [*(t | {number} for t in tight), frozenset(range(number))]


def polyhedron_vertices(rows: Sequence[Sequence[Fraction]], bounds: Sequence[Fraction]) -> list[tuple[Fraction, ...]]:
    """The vertices of the bounded polyhedron {v: <row, v> <= bound}, exactly; [] when it is empty.

    Raises ValueError when it is unbounded.
    """
    dim = len(rows[0])
    system = [primitive([*(-entry for entry in row), bound]) for row, bound in zip(rows, bounds, strict=True)]
    system.append((*([0] * dim), 1))
    rays, lines = extreme_rays(list(dict.fromkeys(system)), dim + 1)
    points = [ray for ray in rays if ray[-1] > 0]
    if points and (lines or any(ray[-1] == 0 for ray in rays)):
        raise ValueError("the polyhedron is unbounded: it has no description by vertices alone.")
    return sorted({tuple(Fraction(entry, ray[-1]) for entry in ray[:-1]) for ray in points})
