"""What the lecture says of functions of one variable, decided exactly: limits, jumps, kinks, monotone pieces.

A semialgebraic function of the line is continuous, C^k and monotone between finitely many points; here they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tameopt.structure.semialgebraic.algebraic import AlgebraicNumber
from tameopt.structure.semialgebraic.formula import atoms, holds_at
from tameopt.structure.semialgebraic.function import Function
from tameopt.structure.semialgebraic.polynomial import Polynomial
from tameopt.structure.semialgebraic.univariate import Piece, cells


@dataclass(frozen=True)
class LinePiece:
    """An open interval or a point on which the function is one polynomial; slope: 1 rising, -1 falling, or 0."""

    piece: Piece
    polynomial: Polynomial
    slope: int

    def __str__(self) -> str:
        words = {1: "rising", -1: "falling", 0: "constant"}[self.slope]
        return f"{self.polynomial} on {self.piece}, {words}"


@dataclass(frozen=True)
class Break:
    """A point where neighbouring pieces do not fit: not continuous (order -1), or C^order and not C^(order + 1).

    left, right: the polynomials before and after, whose values there are the one-sided limits; None where the
        function is not defined.
    """

    at: AlgebraicNumber
    left: Polynomial | None
    right: Polynomial | None
    order: int


def line_pieces(function: Function) -> tuple[LinePiece, ...]:
    """The function of one variable as finitely many monotone pieces and points, in order.

    Raises ValueError for a function of several variables.

    >>> for piece in line_pieces(Function.of({"x > 0": "x**2 - x", "x <= 0": "1"}, ["x"])):
    ...     print(piece)
    1 on (-inf, 0), constant
    1 on {0}, constant
    x^2 - x on (0, 1/2), falling
    x^2 - x on {1/2}, constant
    x^2 - x on (1/2, inf), rising
    """
    return tuple(_pieces(function, _name(function)))


def breaks(function: Function) -> tuple[Break, ...]:
    """The finitely many points where the function is not analytic, with how smooth it is there.

    Raises ValueError for a function of several variables.

    >>> f = Function.of({"x > 1": "x**2", "0 < x <= 1": "x", "x <= 0": "2"}, ["x"])
    >>> [(str(one.at), one.order) for one in breaks(f)]
    [('0', -1), ('1', 0)]
    """
    name = _name(function)
    listed = line_pieces(function)
    found = []
    for k, point in enumerate(listed):
        if not point.piece.is_point:
            continue
        assert point.piece.low is not None
        at = point.piece.low
        left = listed[k - 1].polynomial if k and listed[k - 1].piece.high == at else None
        right = listed[k + 1].polynomial if k + 1 < len(listed) and listed[k + 1].piece.low == at else None
        order = _order(left, point.polynomial, right, at, name)
        if order is not None:
            found.append(Break(at, left, right, order))
    return tuple(found)


def _name(function: Function) -> str:
    if len(function.variables) != 1:
        raise ValueError(f"a function of one variable is required, this one has {function.variables}.")
    return function.variables[0]


def _pieces(function: Function, name: str) -> Iterator[LinePiece]:
    cuts = [atom.polynomial for condition, _ in function.pieces for atom in atoms(condition)]
    cuts += [polynomial.derivative(name) for _, polynomial in function.pieces]
    for sample, cell in cells(cuts, name):
        at = sample if isinstance(sample, AlgebraicNumber) else AlgebraicNumber.rational(sample)

        def sign(polynomial: Polynomial, at: AlgebraicNumber = at) -> int:
            return at.sign_of(polynomial.coefficients(name))

        for condition, polynomial in function.pieces:
            if holds_at(condition, sign):
                slope = 0 if cell.is_point else sign(polynomial.derivative(name))
                yield LinePiece(cell, polynomial, slope)
                break


def _order(
    left: Polynomial | None, here: Polynomial, right: Polynomial | None, at: AlgebraicNumber, name: str
) -> int | None:
    """How smoothly the neighbours fit: -1 for a jump, k for C^k and not better, None for one polynomial around."""
    sides = [side for side in (left, right) if side is not None]
    if any(at.sign_of((side - here).coefficients(name)) for side in sides):
        return -1
    if left is None or right is None:
        return 0
    gap, order = left - right, -1
    if gap == Polynomial.constant(Fraction(0)):
        return None
    while at.sign_of(gap.coefficients(name)) == 0:
        gap, order = gap.derivative(name), order + 1
    return order
