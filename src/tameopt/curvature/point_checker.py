"""Replays proofs about critical points: interval arithmetic (arb) or exact rationals, second-order jets.

A proof comes as plain data with F as a tape (a list of scalar operations, see `Jets.run`). Nothing here is shared
with the code that finds points or writes tapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tameopt.curvature.jets import Jets, Undecided, arb_unary, rational_unary
from tameopt.extras import require

_PRECISION = 120  # bits; centres are doubles, so that twice their precision leaves room for cancellation


def _rational(text: str) -> Fraction:
    return Fraction(float.fromhex(text))


def _box(data: Mapping[str, Any]) -> tuple[list[Any], list[Any], Any]:
    """The centre, the closed box around it, and the radius, as arbs."""
    from flint import arb

    centre = [arb(float.fromhex(text)) for text in data["center"]]
    radius = arb(float.fromhex(str(data["radius"])))
    if not radius > 0:
        raise ValueError("a box must have a radius > 0.")
    spread = float.fromhex(str(data["radius"]))
    return centre, [arb(float.fromhex(text), spread) for text in data["center"]], radius


def _matrix(rows: Any) -> list[list[Any]]:
    from flint import arb

    return [[arb(float.fromhex(text)) for text in row] for row in rows]


def _full(hessian: Mapping[tuple[int, int], Any], dim: int, zero: Any) -> list[list[Any]]:
    return [[hessian.get((min(i, j), max(i, j)), zero) for j in range(dim)] for i in range(dim)]


def _times(left: list[list[Any]], right: list[list[Any]]) -> list[list[Any]]:
    columns = list(zip(*right, strict=True))
    return [
        [sum((a * b for a, b in zip(row, column, strict=True)), 0 * row[0]) for column in columns] for row in left
    ]


def check_nondegenerate(data: Mapping[str, Any]) -> bool:
    """Exactly one critical point lies in a box, it is non-degenerate, and its index is `index`.

    Krawczyk's operator K = x - Y g(x) + (I - Y H(X)) (X - x) maps the box X into its interior, which proves
    existence and uniqueness (Krawczyk 1969; Neumaier 1990, Theorem 5.1.8). The index: Q^T H(X) Q, with any Q, has
    Gershgorin discs away from 0, as many of them negative as `index`; then Q is regular and Sylvester's law of
    inertia applies.
    data: tape, center, radius, preconditioner Y, congruence Q (hex floats), index.
    """
    flint = require("flint", "replaying a proof about a critical point")
    tape = list(data["tape"])
    dim = len(data["center"])
    with flint.ctx.workprec(_PRECISION):
        centre, box, radius = _box(data)
        jets = Jets(lambda text: flint.arb(float.fromhex(text)), arb_unary)
        try:
            gradient = jets.run(tape, centre)[1]
            hessian = jets.run(tape, box)[2]
        except Undecided:
            return False
        zero = flint.arb(0)
        H = _full(hessian, dim, zero)
        Y, Q = _matrix(data["preconditioner"]), _matrix(data["congruence"])
        if [len(Y), len(Q)] != [dim, dim] or any(len(row) != dim for row in (*Y, *Q)):
            raise ValueError(f"the preconditioner and the congruence must be {dim} x {dim}.")
        step = [sum((Y[i][j] * gradient.get(j, zero) for j in range(dim)), zero) for i in range(dim)]
        product = _times(Y, H)
        for i in range(dim):
            row = [(1 if i == j else 0) - product[i][j] for j in range(dim)]
            reach = abs(step[i]) + sum((abs(number) for number in row), zero) * radius
            # K_i lies within reach of centre_i: strictly inside the box when reach < radius
            if not reach < radius:
                return False
        return _index_by_gershgorin(_times(_times([list(r) for r in zip(*Q, strict=True)], H), Q)) == int(
            data["index"]
        )


def _index_by_gershgorin(matrix: list[list[Any]]) -> int | None:
    """The number of negative discs, None when one touches 0."""
    negative = 0
    for i, row in enumerate(matrix):
        off = sum((abs(number) for j, number in enumerate(row) if j != i), 0 * row[0])
        if row[i] + off < 0:
            negative += 1
        elif not row[i] - off > 0:
            return None
    return negative


def check_exact(data: Mapping[str, Any]) -> bool:
    """The gradient at a rational point is exactly 0, and the Hessian has exactly this index and nullity.

    All in rationals. A real symmetric matrix has real eigenvalues, so Descartes' rule of signs counts the positive
    ones exactly: they are the sign changes of its characteristic polynomial; the negative ones, those of p(-t).
    data: tape, center (hex floats, taken exactly), index, nullity.
    """
    flint = require("flint", "replaying a proof about a critical point")
    tape = list(data["tape"])
    point = [_rational(text) for text in data["center"]]
    try:
        _, gradient, hessian = Jets(_rational, rational_unary).run(tape, list(point))
    except Undecided:
        return False
    if any(number != 0 for number in gradient.values()):
        return False
    dim = len(point)
    entries = [
        flint.fmpq(number.numerator, number.denominator) for row in _full(hessian, dim, Fraction(0)) for number in row
    ]
    coefficients = [Fraction(int(c.p), int(c.q)) for c in flint.fmpq_mat(dim, dim, entries).charpoly().coeffs()]
    nullity = next(power for power, number in enumerate(coefficients) if number != 0)
    index = _sign_changes([number * (-1) ** power for power, number in enumerate(coefficients)])
    return index == int(data["index"]) and nullity == int(data["nullity"])


def _sign_changes(numbers: list[Fraction]) -> int:
    signs = [number > 0 for number in numbers if number != 0]
    return sum(before != after for before, after in itertools.pairwise(signs))


def check_not_critical(data: Mapping[str, Any]) -> bool:
    """A component of the gradient at a point is not 0: its enclosure excludes 0. data: tape, center, component."""
    flint = require("flint", "replaying a proof about a point")
    with flint.ctx.workprec(_PRECISION):
        point = [flint.arb(float.fromhex(text)) for text in data["center"]]
        try:
            gradient = Jets(lambda text: flint.arb(float.fromhex(text)), arb_unary).run(list(data["tape"]), point)[1]
        except Undecided:
            return False
        component = gradient.get(int(data["component"]), flint.arb(0))
        return bool(component > 0) or bool(component < 0)


def check_box(data: Mapping[str, Any]) -> bool:
    """The critical points in a box are exactly `count`, each alone in a cell whose Krawczyk test succeeds.

    data: tape, lower, upper (hex floats), tree, count. A tree is a leaf or ["split", coordinate, place, below,
    above], so that the leaves cover the box by construction. Leaves: ["none"]: 0 is outside an enclosure of a
    component of the gradient over the cell (by the mean value form or directly); ["none", Y]: of a component of
    Y times the gradient, for any matrix Y (by the mean value form). ["one", center, radius, Y]: the
    ball of that radius (sup norm) holds the cell and exactly one critical point, which lies inside the cell.
    """
    flint = require("flint", "replaying a proof about all critical points")
    with flint.ctx.workprec(_PRECISION):
        lower = [float.fromhex(text) for text in data["lower"]]
        upper = [float.fromhex(text) for text in data["upper"]]
        try:
            return _count_leaves(flint, list(data["tape"]), lower, upper, data["tree"]) == int(data["count"])
        except Undecided:
            return False


def leaf_holds(tape: list[list[Any]], lower: list[float], upper: list[float], leaf: list[Any]) -> bool:
    """Whether one leaf of `check_box` holds on the cell between lower and upper; what a search asks cell by cell."""
    flint = require("flint", "searching critical points with proof")
    with flint.ctx.workprec(_PRECISION):
        try:
            _count_leaves(flint, tape, lower, upper, leaf)
        except Undecided:
            return False
        return True


def derivatives_at(tape: list[list[Any]], point: list[float]) -> tuple[list[float], list[list[float]]] | None:
    """The gradient and Hessian of a tape at a point, rounded to doubles; None where they have no value."""
    flint = require("flint", "searching critical points with proof")
    with flint.ctx.workprec(64):
        jets = Jets(lambda text: flint.arb(float.fromhex(text)), arb_unary)
        try:
            _, gradient, hessian = jets.run(tape, [flint.arb(number) for number in point])
        except Undecided:
            return None
        zero, dim = flint.arb(0), len(point)
        return (
            [float(gradient.get(i, zero).mid()) for i in range(dim)],
            [[float(number.mid()) for number in row] for row in _full(hessian, dim, zero)],
        )


def _count_leaves(flint: Any, tape: list[Any], lower: list[float], upper: list[float], tree: Any) -> int:
    """The number of critical points in a cell; Undecided when a leaf does not hold."""
    kind = tree[0]
    if kind == "split":
        coordinate, place = int(tree[1]), float.fromhex(tree[2])
        if not lower[coordinate] < place < upper[coordinate]:
            raise ValueError("a cell must be split inside.")
        below, above = list(upper), list(lower)
        below[coordinate] = above[coordinate] = place
        return _count_leaves(flint, tape, lower, below, tree[3]) + _count_leaves(flint, tape, above, upper, tree[4])
    cell = [flint.arb(low).union(flint.arb(high)) for low, high in zip(lower, upper, strict=True)]
    jets = Jets(lambda text: flint.arb(float.fromhex(text)), arb_unary)
    zero = flint.arb(0)
    if kind == "none":
        Y = _matrix(tree[1]) if len(tree) > 1 else None
        if _without_zero(flint, jets, tape, cell, Y):
            return 0
        raise Undecided
    if kind != "one":
        raise ValueError(f"a leaf must be 'none' or 'one', got {kind!r}.")
    centre = [flint.arb(float.fromhex(text)) for text in tree[1]]
    radius = float.fromhex(tree[2])
    box = [flint.arb(float.fromhex(text), radius) for text in tree[1]]
    # with exact numbers: a ball's radius is rounded up, so that balls would hold a little more than they should
    exact = [_rational(text) for text in tree[1]]
    for low, high, middle in zip(lower, upper, exact, strict=True):
        if max(middle - Fraction(low), Fraction(high) - middle) > Fraction(radius):
            raise Undecided
    gradient = jets.run(tape, centre)[1]
    H = _full(jets.run(tape, box)[2], len(centre), zero)
    product = _times(_matrix(tree[3]), H)
    Y = _matrix(tree[3])
    for i in range(len(centre)):
        step = sum((Y[i][j] * gradient.get(j, zero) for j in range(len(centre))), zero)
        row = sum((abs((1 if i == j else 0) - product[i][j]) for j in range(len(centre))), zero)
        if not abs(step) + row * flint.arb(radius) < flint.arb(radius):
            raise Undecided
        # the root lies in K, which must lie inside the cell: then neighbours cannot count it again
        reach = row * flint.arb(radius)
        if not (centre[i] - step - reach > flint.arb(lower[i]) and centre[i] - step + reach < flint.arb(upper[i])):
            raise Undecided
    return 1


def _without_zero(flint: Any, jets: Jets, tape: list[Any], cell: list[Any], Y: list[list[Any]] | None) -> bool:
    """Whether no x in the cell has Y g(x) = 0, hence none g(x) = 0. Y: None for the identity."""
    dim = len(cell)
    _, gradient, hessian = jets.run(tape, cell)
    zero = flint.arb(0)
    if Y is None and any(bool(number > 0) or bool(number < 0) for number in gradient.values()):
        return True
    if Y is not None and (len(Y) != dim or any(len(row) != dim for row in Y)):
        raise ValueError(f"the preconditioner of a cell must be {dim} x {dim}.")
    middle = [flint.arb(number.mid()) for number in cell]
    at_middle = jets.run(tape, middle)[1]
    start = [at_middle.get(i, zero) for i in range(dim)]
    H = _full(hessian, dim, zero)
    if Y is not None:
        start, H = [sum((a * b for a, b in zip(row, start, strict=True)), zero) for row in Y], _times(Y, H)
    for i in range(dim):
        spread = sum((H[i][j] * (cell[j] - middle[j]) for j in range(dim)), zero)
        number = start[i] + spread
        if bool(number > 0) or bool(number < 0):
            return True
    return False
