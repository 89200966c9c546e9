"""Semialgebraic sets in R^p and what Tarski-Seidenberg lets one do with them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tameopt.picture import Image, Picture, Series
from tameopt.structure.semialgebraic.formula import (
    And,
    Atom,
    Formula,
    Or,
    Quantified,
    atoms,
    free_variables,
    holds_at,
    is_quantifier_free,
    negation,
    parse,
    substituted,
)
from tameopt.structure.semialgebraic.polynomial import Polynomial
from tameopt.structure.semialgebraic.qepcad import EliminationError, closure_in_the_plane, eliminate
from tameopt.structure.semialgebraic.univariate import Piece, closed, decompose

Number = int | Fraction


@dataclass(frozen=True)
class Set:
    """{(variables) : formula}, a semialgebraic set.

    formula: a text (see `formula.parse`) or a Formula; quantifiers are eliminated when the set is made, in one
    variable by exact root isolation, in several by QEPCAD. variables: the coordinates in order; those of the formula,
    sorted, by default.

    >>> disc = Set("x**2 + y**2 < 1")
    >>> disc.contains(x=0, y=Fraction(1, 2)), disc.complement().contains(x=1, y=0)
    (True, True)
    >>> print(*Set("x**2 <= 2 or x == 3").pieces())
    [-1.41421356237 (root of degree 2), 1.41421356237 (root of degree 2)] {3}
    """

    formula: Formula
    variables: tuple[str, ...]

    def __init__(self, formula: str | Formula, variables: Sequence[str] | None = None) -> None:
        read = parse(formula) if isinstance(formula, str) else formula
        free = free_variables(read)
        names = tuple(sorted(free)) if variables is None else tuple(variables)
        if missing := free - set(names):
            raise ValueError(f"variables must name every free variable, {sorted(missing)} are missing from {names}.")
        object.__setattr__(self, "formula", without_quantifiers(read))
        object.__setattr__(self, "variables", names)

    def __str__(self) -> str:
        return f"{{({', '.join(self.variables)}) : {self.formula}}}"

    @property
    def dimension(self) -> int:
        """Of the space, not of the set."""
        return len(self.variables)

    # -- Boolean operations ----------------------------------------------------------------------------------

    def union(self, other: Set) -> Set:
        return Set(Or((self.formula, other.formula)), self._common(other))

    def intersection(self, other: Set) -> Set:
        return Set(And((self.formula, other.formula)), self._common(other))

    def complement(self) -> Set:
        return Set(negation(self.formula), self.variables)

    def difference(self, other: Set) -> Set:
        return self.intersection(other.complement())

    def product(self, other: Set) -> Set:
        """The product with a set in other variables.

        Raises ValueError when they share a variable.
        """
        if shared := set(self.variables) & set(other.variables):
            raise ValueError(f"a product needs sets in different variables, both have {sorted(shared)}.")
        return Set(And((self.formula, other.formula)), (*self.variables, *other.variables))

    __or__, __and__, __invert__, __sub__, __mul__ = union, intersection, complement, difference, product

    def _common(self, other: Set) -> tuple[str, ...]:
        if set(self.variables) != set(other.variables):
            raise ValueError(f"both sets must be in the same variables, got {self.variables} and {other.variables}.")
        return self.variables

    # -- decisions -------------------------------------------------------------------------------------------

    def contains(self, point: Mapping[str, Number] | None = None, **coordinates: Number) -> bool:
        """Whether a rational point belongs to the set, exactly."""
        at = {**(point or {}), **coordinates}
        if set(at) != set(self.variables):
            raise ValueError(f"a point must give {self.variables}, got {tuple(at)}.")

        def sign(polynomial: Polynomial) -> int:
            value = polynomial.at(at)
            return (value > 0) - (value < 0)

        return holds_at(self.formula, sign)

    def is_empty(self) -> bool:
        """Whether no real point satisfies the formula."""
        return not truth(_quantified(False, self.variables, self.formula))

    def is_everything(self) -> bool:
        return self.complement().is_empty()

    def is_subset(self, other: Set) -> bool:
        return self.difference(other).is_empty()

    def equals(self, other: Set) -> bool:
        """Whether both are the same set of points."""
        return self.is_subset(other) and other.is_subset(self)

    # -- geometry --------------------------------------------------------------------------------------------

    def pieces(self) -> tuple[Piece, ...]:
        """A set of the line as finitely many points and intervals, exactly, in order.

        Raises ValueError in more than one variable.
        """
        if self.dimension != 1:
            raise ValueError(f"pieces are those of a set of the line, this one is in {self.variables}.")
        return decompose(self.formula, self.variables[0])

    def project(self, *drop: str) -> Set:
        """The projection that forgets these variables (Tarski-Seidenberg)."""
        if unknown := set(drop) - set(self.variables):
            raise ValueError(f"variables to drop must be among {self.variables}, got {sorted(unknown)}.")
        kept = tuple(name for name in self.variables if name not in drop)
        return Set(_quantified(False, drop, self.formula), kept)

    def closure(self) -> Set:
        """The points with points of the set arbitrarily near; in three and more variables rarely in time."""
        if self.dimension == 1:
            name = self.variables[0]
            return Set(Or(tuple(closed(piece, name) for piece in self.pieces())), self.variables)
        if self.dimension == 2:
            first, second = self.variables
            return Set(closure_in_the_plane(self.formula, (first, second)), self.variables)
        radius, near, formula = self._moved()
        inner = _quantified(False, tuple(near.values()), And((*_box(near, radius), formula)))
        bound = Atom(Polynomial.variable(radius), "<=")
        return Set(Quantified(True, radius, Or((bound, inner))), self.variables)

    def interior(self) -> Set:
        """The points with a ball inside the set."""
        return self.complement().closure().complement()

    def boundary(self) -> Set:
        """Closure without interior."""
        return self.closure().difference(self.interior())

    def picture(self, radius: Number = 2, points: int = 121) -> Picture:
        """A set of the plane within |x|, |y| <= radius: membership decided exactly at points x points places.

        A curve passes through few of these places: where the formula has an equation, dots show where its polynomial
        changes sign. Raises ValueError unless the set has two variables.
        """
        if self.dimension != 2:
            raise ValueError(f"a picture needs a set in two variables, this one is in {self.variables}.")
        first, second = self.variables
        axis = [Fraction(radius) * Fraction(2 * k - points + 1, points - 1) for k in range(points)]
        inside = tuple(tuple(float(self.contains({first: x, second: y})) for x in axis) for y in axis)
        edges = _sign_changes(
            [atom.polynomial for atom in atoms(self.formula) if atom.relation == "="], (first, second), axis
        )
        ends = tuple(float(x) for x in axis)
        return Picture(
            "semialgebraic-set", "A semialgebraic set", first, second, (edges,) if edges.x else (),
            Image(ends, ends, inside, "member", categorical=("outside", "inside")),
            caption=f"{self}, membership decided exactly at {points} x {points} places.",
        )  # fmt: skip

    def _moved(self) -> tuple[str, dict[str, str], Formula]:
        fresh = (f"n{k}" for k in itertools.count())
        names = iter(name for name in fresh if name not in self.variables)
        radius = next(names)
        near = {name: next(names) for name in self.variables}
        formula = substituted(self.formula, {name: Polynomial.variable(new) for name, new in near.items()})
        return radius, near, formula


def _sign_changes(polynomials: Sequence[Polynomial], names: tuple[str, str], axis: Sequence[Fraction]) -> Series:
    """Midpoints of the horizontal steps of the grid across which the sign of a polynomial changes."""
    xs, ys = [], []
    for polynomial in polynomials:
        for y in axis:
            values = [polynomial.at({names[0]: x, names[1]: y}) for x in axis]
            for (x, before), (after_x, after) in itertools.pairwise(zip(axis, values, strict=True)):
                if before * after <= 0 and before != after:
                    xs.append(float(x + after_x) / 2)
                    ys.append(float(y))
    return Series.of("zeros", xs, ys, "points")


def _box(near: Mapping[str, str], radius: str) -> list[Formula]:
    """|new - old| < radius in every coordinate."""
    found: list[Formula] = []
    for old, new in near.items():
        step = Polynomial.variable(new) - Polynomial.variable(old)
        found.append(Atom(step - Polynomial.variable(radius), "<"))
        found.append(Atom(-step - Polynomial.variable(radius), "<"))
    return found


def _quantified(universal: bool, names: Sequence[str], formula: Formula) -> Formula:
    for name in reversed(tuple(names)):
        formula = Quantified(universal, name, formula)
    return formula


def without_quantifiers(formula: Formula, seconds: float = 30.0) -> Formula:
    """An equivalent formula without quantifiers: exactly on the line, by QEPCAD elsewhere.

    Raises EliminationError when neither can.
    """
    if is_quantifier_free(formula):
        return formula
    if isinstance(formula, (And, Or)):
        return type(formula)(tuple(without_quantifiers(part, seconds) for part in formula.parts))
    assert isinstance(formula, Quantified)
    body = formula.body
    if is_quantifier_free(body):
        free = free_variables(body)
        if formula.variable not in free:
            return body
        if free == {formula.variable}:
            pieces = decompose(negation(body) if formula.universal else body, formula.variable)
            return And(()) if bool(pieces) != formula.universal else Or(())
    return eliminate(formula, seconds=seconds)


def truth(sentence: Formula, seconds: float = 30.0) -> bool:
    """The truth of a formula without free variables.

    Raises ValueError when it has some, EliminationError when it could not be decided.

    >>> truth(parse("ForAll(x, x**2 - 2*x + 2 > 0)"))
    True
    """
    if free := free_variables(sentence):
        raise ValueError(f"a sentence has no free variables, this one has {sorted(free)}.")
    found = without_quantifiers(sentence, seconds)

    def sign(polynomial: Polynomial) -> int:
        value = polynomial.value
        if value is None:
            raise EliminationError("a variable was left over after elimination.")
        return (value > 0) - (value < 0)

    return holds_at(found, sign)


def project(of: Set, *drop: str) -> Set:
    """The projection of a set that forgets the variables `drop` (Tarski-Seidenberg); by QEPCAD in several variables.

    Raises ValueError when a variable is not one of the set's.

    >>> project(Set("x < 1"), "y")
    Traceback (most recent call last):
    ValueError: variables to drop must be among ('x',), got ['y'].
    """
    return of.project(*drop)
