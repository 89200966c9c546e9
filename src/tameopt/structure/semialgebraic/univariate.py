"""Semialgebraic sets of the line: finitely many points and open intervals, found exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tameopt.structure.semialgebraic.algebraic import AlgebraicNumber, real_roots
from tameopt.structure.semialgebraic.formula import And, Atom, Formula, Or, atoms, holds_at
from tameopt.structure.semialgebraic.polynomial import Polynomial


@dataclass(frozen=True)
class Piece:
    """A point (low = high) or an interval; None is an infinite end; closed_low, closed_high: it has its end."""

    low: AlgebraicNumber | None
    high: AlgebraicNumber | None
    closed_low: bool = False
    closed_high: bool = False

    @property
    def is_point(self) -> bool:
        return self.low is not None and self.high is not None and self.low == self.high

    def __str__(self) -> str:
        if self.is_point:
            return f"{{{self.low}}}"
        left = "(-inf" if self.low is None else f"{'[' if self.closed_low else '('}{self.low}"
        right = "inf)" if self.high is None else f"{self.high}{']' if self.closed_high else ')'}"
        return f"{left}, {right}"


def cells(polynomials: Sequence[Polynomial], name: str) -> list[tuple[AlgebraicNumber | Fraction, Piece]]:
    """The line cut at all roots: (a point of the cell, the cell), in order. Every sign is constant on a cell."""
    roots: list[AlgebraicNumber] = []
    for polynomial in polynomials:
        coefficients = polynomial.coefficients(name)
        if any(coefficients[1:]):
            roots.extend(real_roots(coefficients))
    cuts: list[AlgebraicNumber] = []
    for root in sorted(roots):
        if not cuts or cuts[-1] != root:
            cuts.append(root)
    found: list[tuple[AlgebraicNumber | Fraction, Piece]] = []
    ends: list[AlgebraicNumber | None] = [None, *cuts, None]
    for k in range(len(ends) - 1):
        found.append((_between(ends[k], ends[k + 1]), Piece(ends[k], ends[k + 1])))
        cut = ends[k + 1]
        if cut is not None:
            found.append((cut, Piece(cut, cut, True, True)))
    return found


def _between(low: AlgebraicNumber | None, high: AlgebraicNumber | None) -> Fraction:
    if low is None and high is None:
        return Fraction(0)
    if low is None:
        assert high is not None
        return high.low - 1
    if high is None:
        return low.high + 1
    a, b = low, high
    while a.high >= b.low:
        if a.is_rational and b.is_rational:
            break
        a, b = a.refined((a.high - a.low) / 2), b.refined((b.high - b.low) / 2)
    return (a.high + b.low) / 2


def decompose(formula: Formula, name: str) -> tuple[Piece, ...]:
    """The set of a quantifier-free formula in one variable, as finitely many maximal pieces, in order."""
    found = cells([atom.polynomial for atom in atoms(formula)], name)
    pieces: list[Piece] = []
    for sample, cell in found:
        if not _true_at(formula, name, sample):
            continue
        if pieces and _adjacent(pieces[-1], cell):
            last = pieces.pop()
            cell = Piece(last.low, cell.high, last.closed_low, cell.closed_high)
        pieces.append(cell)
    return tuple(pieces)


def _adjacent(left: Piece, right: Piece) -> bool:
    # cells come in order, interval, point, interval: two that both belong and share an end touch
    if left.high is None or right.low is None or left.high != right.low:
        return False
    return left.closed_high or right.closed_low


def _true_at(formula: Formula, name: str, sample: AlgebraicNumber | Fraction) -> bool:
    at = sample if isinstance(sample, AlgebraicNumber) else AlgebraicNumber.rational(sample)
    return holds_at(formula, lambda polynomial: at.sign_of(polynomial.coefficients(name)))


def closed(piece: Piece, name: str) -> Formula:
    """The closure of a piece as a formula in `name`, exactly, algebraic ends included."""
    parts: list[Formula] = []
    if piece.low is not None:
        parts.append(_beyond(piece.low, name, True))
    if piece.high is not None:
        parts.append(_beyond(piece.high, name, False))
    return And(tuple(parts))


def _beyond(end: AlgebraicNumber, name: str, above: bool) -> Formula:
    """x >= end (or <=): past the isolating interval, or inside it where the polynomial has the right sign."""
    x = Polynomial.variable(name)
    if end.is_rational:
        return Atom(x - Polynomial.constant(end.low), ">=" if above else "<=")
    polynomial = Polynomial.of({((name, k),) if k else (): value for k, value in enumerate(end.coefficients)})
    # the polynomial has one simple root in (low, high], so it changes sign there and nowhere else
    right = AlgebraicNumber.rational(end.high).sign_of(end.coefficients)
    inside = Atom(polynomial, (">=" if right > 0 else "<=") if above else ("<=" if right > 0 else ">="))
    over_low = Atom(x - Polynomial.constant(end.low), ">")
    over_high = Atom(x - Polynomial.constant(end.high), ">")
    under_high = Atom(x - Polynomial.constant(end.high), "<=")
    under_low = Atom(x - Polynomial.constant(end.low), "<=")
    if above:
        return Or((over_high, And((over_low, inside))))
    return Or((under_low, And((under_high, inside))))
