"""Which sign patterns of curved kinks occur near x: cells that are thinner than any cone, decided to second order.

To first order the kinks y and y - x^2 are one hyperplane; between them lies {0 < y < x^2}, a cusp that no fan of
cones shows. A pattern s *occurs* when the curve x + t u + t^2 v makes every s_k z_k > 0 for small t > 0: for some u
with s_k <Z_k, u> >= 0, and v with s_k (<Z_k, v> + q_k(u)) > 0 where that is 0. It *cannot occur* when a combination
sum_k l_k s_k z_k with l >= 0, not all 0, has no linear part and is <= 0 near x. Both are decided in rationals.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

from tameopt.nonsmooth.cones import Row, extreme_rays, primitive, product, strict_interior
from tameopt.nonsmooth.germ import Circuit
from tameopt.nonsmooth.quadratic import Quadratic

_DIRECTIONS = 24  # combinations of generators tried for u, besides each generator: our choice

Pattern = tuple[int, ...]


def patterns(circuit: Circuit) -> tuple[list[Pattern], list[Pattern]]:
    """(those that occur, those that are not decided) among the 2^m sign patterns of the kinks of a circuit.

    The kinks must not lie inside one another. Cost: 2^m small exact problems, for m up to ten.
    """
    d, m = circuit.dim, len(circuit.forms)
    linear = [tuple(form.get(j, Fraction(0)) for j in range(d)) for form in circuit.forms]
    occurring, undecided = [], []
    for signs in itertools.product((1, -1), repeat=m):
        rows = [[s * entry for entry in row] for s, row in zip(signs, linear, strict=True)]
        seconds = [
            None if q is None else Quadratic({}).plus(q, Fraction(s))
            for s, q in zip(signs, circuit.seconds, strict=True)
        ]
        if _occurs(rows, seconds, d):
            occurring.append(signs)
        elif not _impossible(rows, seconds, d):
            undecided.append(signs)
    return occurring, undecided


def _occurs(rows: Sequence[Sequence[Fraction]], seconds: Sequence[Quadratic | None], d: int) -> bool:
    whole = [primitive(row) for row in rows]
    if strict_interior(whole) is not None:
        return True
    for u in _directions(whole, d):
        level = [k for k, row in enumerate(whole) if product(row, u) == 0]
        if any(seconds[k] is None for k in level):
            continue
        # <row, v> + q(u) > 0, made homogeneous by a last coordinate > 0
        system: list[Row] = [(*([0] * d), 1)]
        for k in level:
            second = seconds[k]
            assert second is not None
            system.append(primitive([*rows[k], second.at(u)]))
        if strict_interior(system) is not None:
            return True
    return False


def _directions(rows: Sequence[Row], d: int) -> list[Row]:
    """Directions in the cone {<row, u> >= 0}: its generators and combinations of them, in a fixed order."""
    rays, lines = extreme_rays(list(rows), d)
    generators = [*rays, *lines, *(tuple(-entry for entry in line) for line in lines)]
    found = [ray for ray in generators if any(ray)]
    for number in range(_DIRECTIONS if len(generators) > 1 else 0):
        # small coefficients from the digits of a running number: fixed, and no two alike
        weights = [(number * (2 * i + 3) + i * i) % 5 for i in range(len(generators))]
        u = tuple(sum(w * ray[j] for w, ray in zip(weights, generators, strict=True)) for j in range(d))
        if any(u):
            found.append(u)
    return list(dict.fromkeys(found))


def _impossible(rows: Sequence[Sequence[Fraction]], seconds: Sequence[Quadratic | None], d: int) -> bool:
    m = len(rows)
    columns = [primitive([row[j] for row in rows]) for j in range(d)]
    equal = [row for column in columns for row in (column, tuple(-entry for entry in column))]
    unit = [tuple(int(i == k) for i in range(m)) for k in range(m)]
    rays, _ = extreme_rays([*unit, *equal], m)
    together = [tuple(sum(column) for column in zip(*rays, strict=True))] if len(rays) > 1 else []
    for weights in [*rays, *together]:
        total = Quadratic({})
        for weight, second in zip(weights, seconds, strict=True):
            if weight and second is None:
                break
            if weight and second is not None:
                total = total.plus(second, Fraction(weight))
        else:
            if not _positive_somewhere(total, d):
                return True
    return False


def _positive_somewhere(second: Quadratic, d: int) -> bool:
    """Whether a function without linear part may be > 0 near 0: False only when it surely is <= 0 there.

    Exact elimination: <= 0 everywhere for a negative semidefinite quadratic; with more beyond it, it must be
    negative definite, in all d variables.
    """
    matrix = [[Fraction(0)] * d for _ in range(d)]
    for (i, j), value in second.terms.items():
        matrix[i][j] -= value if i == j else value / 2
        if i != j:
            matrix[j][i] -= value / 2
    rank = 0
    for k in range(d):  # LDL^T of the negative: all pivots >= 0, and a zero pivot has a zero row
        pivot = matrix[k][k]
        if pivot < 0 or (pivot == 0 and any(matrix[k][j] for j in range(k + 1, d))):
            return True
        if pivot == 0:
            continue
        rank += 1
        for i in range(k + 1, d):
            factor = matrix[i][k] / pivot
            for j in range(k, d):
                matrix[i][j] -= factor * matrix[k][j]
    return second.beyond and rank < d
