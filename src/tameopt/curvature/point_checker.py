"""Replays proofs about critical points: interval arithmetic (arb) or exact rationals, second-order jets.

A proof comes as plain data with F as a tape (a list of scalar operations, see `_Jets.run`). Nothing here is shared
with the code that finds points or writes tapes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from tameopt.extras import require

_PRECISION = 120  # bits; centres are doubles, so that twice their precision leaves room for cancellation


class _Undecided(Exception):
    """An interval does not decide a branch, or an operation has no value there."""


class _Jets:
    """Values, gradients and Hessians of a tape in one kind of number.

    A jet is (value, {i: d_i}, {(i, j): d_ij with i <= j}); absent entries are exactly 0.
    """

    def __init__(self, number: Callable[[str], Any], unary: Callable[[str, Any], tuple[Any, Any, Any]]) -> None:
        self.number = number
        self.unary = unary

    def run(self, tape: list[list[Any]], point: list[Any]) -> tuple[Any, dict[int, Any], dict[tuple[int, int], Any]]:
        """The jet of the last entry. An entry that has no value is passed over unless something uses it."""
        one = self.number("0x1p+0")
        jets: list[Any] = []
        for entry in tape:
            operation, arguments = str(entry[0]), entry[1:]
            if operation == "const":
                jets.append((self.number(str(arguments[0])), {}, {}))
                continue
            if operation == "var":
                jets.append((point[int(arguments[0])], {int(arguments[0]): one}, {}))
                continue
            try:
                jets.append(self._apply(operation, [int(place) for place in arguments], jets))
            except (_Undecided, ZeroDivisionError):
                jets.append(None)
        if jets[-1] is None:
            raise _Undecided
        return jets[-1]

    def _apply(self, operation: str, arguments: list[int], jets: list[Any]) -> Any:
        def jet(place: int) -> Any:
            if not 0 <= place < len(jets):
                raise ValueError(f"a tape may refer to earlier entries only, {operation} refers to {place}.")
            if jets[place] is None:
                raise _Undecided
            return jets[place]

        if operation == "if_less":
            a, b, then, otherwise = arguments
            left, right = jet(a)[0], jet(b)[0]
            if left < right:
                return jet(then)
            if left > right:
                return jet(otherwise)
            raise _Undecided
        if operation == "pow":
            x, exponent = jet(arguments[0]), arguments[1]
            if exponent < 2:
                raise ValueError(f"a power on a tape must be at least 2, got {exponent}.")
            lower = _power(x[0], exponent - 2, self.number((1.0).hex()))
            first = lower * x[0]
            return self._chain(x, first * x[0], exponent * first, exponent * (exponent - 1) * lower)
        x = jet(arguments[0])
        if operation == "neg":
            return -x[0], {i: -g for i, g in x[1].items()}, {ij: -h for ij, h in x[2].items()}
        if operation in ("add", "sub", "mul", "div"):
            y = jet(arguments[1])
            if operation == "div":
                inverse = 1 / y[0]
                y = self._chain(y, inverse, -inverse * inverse, 2 * inverse * inverse * inverse)
            return self._product(x, y) if operation in ("mul", "div") else self._sum(x, y, operation == "sub")
        value, first, second = self.unary(operation, x[0])
        return self._chain(x, value, first, second)

    @staticmethod
    def _sum(x: Any, y: Any, negative: bool) -> Any:
        value = x[0] - y[0] if negative else x[0] + y[0]
        parts = []
        for left, right in ((x[1], y[1]), (x[2], y[2])):
            merged = dict(left)
            for key, number in right.items():
                term = -number if negative else number
                merged[key] = merged[key] + term if key in merged else term
            parts.append(merged)
        return value, parts[0], parts[1]

    @staticmethod
    def _product(x: Any, y: Any) -> Any:
        gradient = {i: g * y[0] for i, g in x[1].items()}
        for i, g in y[1].items():
            gradient[i] = gradient[i] + x[0] * g if i in gradient else x[0] * g
        hessian = {ij: h * y[0] for ij, h in x[2].items()}
        for ij, h in y[2].items():
            hessian[ij] = hessian[ij] + x[0] * h if ij in hessian else x[0] * h
        for i, g in x[1].items():
            for j, other in y[1].items():
                key = (i, j) if i <= j else (j, i)
                # d_ij (xy) holds x_i y_j + x_j y_i: for i = j the loop meets the pair once, hence the factor
                term = 2 * g * other if i == j else g * other
                hessian[key] = hessian[key] + term if key in hessian else term
        return x[0] * y[0], gradient, hessian

    @staticmethod
    def _chain(x: Any, value: Any, first: Any, second: Any) -> Any:
        gradient = {i: first * g for i, g in x[1].items()}
        hessian = {ij: first * h for ij, h in x[2].items()}
        items = sorted(x[1].items())
        for place, (i, g) in enumerate(items):
            for j, other in items[place:]:
                term = second * g * other
                hessian[i, j] = hessian[i, j] + term if (i, j) in hessian else term
        return value, gradient, hessian


def _power(x: Any, exponent: int, one: Any) -> Any:
    """x^exponent by products: arb's own power is nan on an interval around 0."""
    result = one
    for _ in range(exponent):
        result = result * x
    return result


def _arb_unary(operation: str, x: Any) -> tuple[Any, Any, Any]:
    if operation == "exp":
        value = x.exp()
        return value, value, value
    if operation == "log":
        return x.log(), 1 / x, -1 / (x * x)
    if operation == "sqrt":
        root = x.sqrt()
        return root, 1 / (2 * root), -1 / (4 * x * root)
    if operation == "sin":
        return x.sin(), x.cos(), -x.sin()
    if operation == "cos":
        return x.cos(), -x.sin(), -x.cos()
    if operation == "tanh":
        value = x.tanh()
        slope = 1 - value * value
        return value, slope, -2 * value * slope
    if operation == "atan":
        slope = 1 / (1 + x * x)
        return x.atan(), slope, -2 * x * slope * slope
    if operation == "erf":
        from flint import arb

        slope = 2 * (-x * x).exp() / arb.pi().sqrt()
        return x.erf(), slope, -2 * x * slope
    raise ValueError(f"a tape holds the operation {operation!r}, which is not known.")


def _rational_unary(operation: str, x: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    # exp, sin and the like of 0, which is where critical points like to be
    at_zero = {
        "exp": (1, 1, 1),
        "sin": (0, 1, 0),
        "cos": (1, 0, -1),
        "tanh": (0, 1, 0),
        "atan": (0, 1, 0),
    }
    if operation in at_zero and x == 0:
        value, first, second = at_zero[operation]
        return Fraction(value), Fraction(first), Fraction(second)
    if operation == "log" and x == 1:
        return Fraction(0), Fraction(1), Fraction(-1)
    if operation == "sqrt" and x > 0:
        root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
        if root * root == x:
            return root, 1 / (2 * root), -1 / (4 * x * root)
    raise _Undecided


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
        jets = _Jets(lambda text: flint.arb(float.fromhex(text)), _arb_unary)
        try:
            gradient = jets.run(tape, centre)[1]
            hessian = jets.run(tape, box)[2]
        except _Undecided:
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
        _, gradient, hessian = _Jets(_rational, _rational_unary).run(tape, list(point))
    except _Undecided:
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
            gradient = _Jets(lambda text: flint.arb(float.fromhex(text)), _arb_unary).run(list(data["tape"]), point)[
                1
            ]
        except _Undecided:
            return False
        component = gradient.get(int(data["component"]), flint.arb(0))
        return bool(component > 0) or bool(component < 0)


def check_box(data: Mapping[str, Any]) -> bool:
    """The critical points in a box are exactly `count`, each alone in a cell whose Krawczyk test succeeds.

    data: tape, lower, upper (hex floats), tree, count. A tree is a leaf or ["split", coordinate, place, below,
    above], so that the leaves cover the box by construction. Leaves: ["none"]: 0 is outside an enclosure of a
    component of the gradient over the cell (by the mean value form or directly). ["one", center, radius, Y]: the
    ball of that radius (sup norm) holds the cell and exactly one critical point, which lies inside the cell.
    """
    flint = require("flint", "replaying a proof about all critical points")
    with flint.ctx.workprec(_PRECISION):
        lower = [float.fromhex(text) for text in data["lower"]]
        upper = [float.fromhex(text) for text in data["upper"]]
        try:
            return _count_leaves(flint, list(data["tape"]), lower, upper, data["tree"]) == int(data["count"])
        except _Undecided:
            return False


def leaf_holds(tape: list[list[Any]], lower: list[float], upper: list[float], leaf: list[Any]) -> bool:
    """Whether one leaf of `check_box` holds on the cell between lower and upper; what a search asks cell by cell."""
    flint = require("flint", "searching critical points with proof")
    with flint.ctx.workprec(_PRECISION):
        try:
            _count_leaves(flint, tape, lower, upper, leaf)
        except _Undecided:
            return False
        return True


def _count_leaves(flint: Any, tape: list[Any], lower: list[float], upper: list[float], tree: Any) -> int:
    """The number of critical points in a cell; _Undecided when a leaf does not hold."""
    kind = tree[0]
    if kind == "split":
        coordinate, place = int(tree[1]), float.fromhex(tree[2])
        if not lower[coordinate] < place < upper[coordinate]:
            raise ValueError("a cell must be split inside.")
        below, above = list(upper), list(lower)
        below[coordinate] = above[coordinate] = place
        return _count_leaves(flint, tape, lower, below, tree[3]) + _count_leaves(flint, tape, above, upper, tree[4])
    cell = [flint.arb(low).union(flint.arb(high)) for low, high in zip(lower, upper, strict=True)]
    jets = _Jets(lambda text: flint.arb(float.fromhex(text)), _arb_unary)
    zero = flint.arb(0)
    if kind == "none":
        if _without_zero(flint, jets, tape, cell):
            return 0
        raise _Undecided
    if kind != "one":
        raise ValueError(f"a leaf must be 'none' or 'one', got {kind!r}.")
    centre = [flint.arb(float.fromhex(text)) for text in tree[1]]
    radius = float.fromhex(tree[2])
    box = [flint.arb(float.fromhex(text), radius) for text in tree[1]]
    if not all(outer.contains(inner) for outer, inner in zip(box, cell, strict=True)):
        raise _Undecided
    gradient = jets.run(tape, centre)[1]
    H = _full(jets.run(tape, box)[2], len(centre), zero)
    product = _times(_matrix(tree[3]), H)
    Y = _matrix(tree[3])
    for i in range(len(centre)):
        step = sum((Y[i][j] * gradient.get(j, zero) for j in range(len(centre))), zero)
        row = sum((abs((1 if i == j else 0) - product[i][j]) for j in range(len(centre))), zero)
        if not abs(step) + row * flint.arb(radius) < flint.arb(radius):
            raise _Undecided
        # the root lies in K, which must lie inside the cell: then neighbours cannot count it again
        reach = flint.arb(0, 1) * row * flint.arb(radius)
        if not cell[i].contains_interior(centre[i] - step + reach):
            raise _Undecided
    return 1


def _without_zero(flint: Any, jets: _Jets, tape: list[Any], cell: list[Any]) -> bool:
    _, gradient, hessian = jets.run(tape, cell)
    zero = flint.arb(0)
    if any(bool(number > 0) or bool(number < 0) for number in gradient.values()):
        return True
    middle = [flint.arb(number.mid()) for number in cell]
    at_middle = jets.run(tape, middle)[1]
    H = _full(hessian, len(cell), zero)
    for i in range(len(cell)):
        spread = sum((H[i][j] * (cell[j] - middle[j]) for j in range(len(cell))), zero)
        number = at_middle.get(i, zero) + spread
        if bool(number > 0) or bool(number < 0):
            return True
    return False
