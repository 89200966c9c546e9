"""Semialgebraic functions as finitely many polynomial pieces: f = p_i where the condition of piece i holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tameopt.structure.semialgebraic.formula import (
    And,
    Atom,
    Formula,
    Or,
    Quantified,
    holds_at,
    parse,
    parse_polynomial,
)
from tameopt.structure.semialgebraic.polynomial import Polynomial
from tameopt.structure.semialgebraic.sets import Set, truth

if TYPE_CHECKING:
    import torch

    from tameopt.problem import Problem

Number = int | Fraction


@dataclass(frozen=True)
class Function:
    """A piecewise polynomial function of named variables.

    pieces: (condition, polynomial), conditions quantifier-free; where several hold, they must agree.

    >>> f = Function.of({"x > 0": "x**2", "x <= 0": "-x"}, ["x"])
    >>> f(x=3), f(x=-2), f.is_continuous()
    (Fraction(9, 1), Fraction(2, 1), True)
    >>> f.derivative("x")(x=-2), str(f.derivative("x").domain())
    (Fraction(-1, 1), '{(x) : (x > 0 or x < 0)}')
    """

    variables: tuple[str, ...]
    pieces: tuple[tuple[Formula, Polynomial], ...]

    @staticmethod
    def of(pieces: Mapping[str, str] | str, variables: Sequence[str]) -> Function:
        """From texts: condition -> polynomial, or one polynomial."""
        if isinstance(pieces, str):
            return Function(tuple(variables), ((And(()), parse_polynomial(pieces)),))
        return Function(tuple(variables), tuple((parse(c), parse_polynomial(p)) for c, p in pieces.items()))

    @staticmethod
    def from_problem(
        problem: Problem,
        *,
        along: Mapping[str, Sequence[Number | float]] | None = None,
        theta: torch.Tensor | None = None,
        max_pieces: int = 1000,
    ) -> Function:
        """F of a tiny piecewise polynomial network as its formula, in exact rationals.

        along: name -> direction (d,): F(theta + sum name * direction) in these names, as for a plane through theta;
            by default all coordinates move, as theta0, theta1, ... theta: (d,), the problem's by default.
        max_pieces: a limit on paths through the kinks; a path whose conditions are not all linear in the variables
            may hold nowhere, and is then listed in vain.

        Floats are taken as the rationals they are, 1/n as 1/n, and sums as exact: F differs from problem.value by
        rounding alone. Raises TypeError for another thing than a Problem, ValueError at an operator that is not
        piecewise polynomial or not covered, and past the limit. Cost: one pass over the operators a piece, in
        polynomials.

        >>> import torch, tameopt as tame
        >>> problem = tame.Problem.from_function(lambda theta: (theta[0] * theta[1].relu() - 1) ** 2, torch.ones(2))
        >>> for condition, polynomial in Function.from_problem(problem).pieces:
        ...     print(f"{polynomial}  where {condition}")
        theta0^2*theta1^2 - 2*theta0*theta1 + 1  where (theta1 > 0)
        1  where (theta1 <= 0)
        """
        from tameopt.problem import Problem as Given
        from tameopt.structure.semialgebraic.network import coordinates, exact_loss, pieces

        if not isinstance(problem, Given):
            raise TypeError(
                f"Function.from_problem needs a tameopt.Problem, got {type(problem).__name__}: make one of the "
                "model, the loss and the data."
            )

        names, moved = coordinates(problem, along, theta)
        return Function(names, tuple(pieces(exact_loss(problem), moved, max_pieces)))

    def __str__(self) -> str:
        return "\n".join(f"{polynomial}  where {condition}" for condition, polynomial in self.pieces)

    def __call__(self, point: Mapping[str, Number] | None = None, **coordinates: Number) -> Fraction:
        """The exact value at a rational point.

        Raises ValueError outside the domain.
        """
        at = {**(point or {}), **coordinates}

        def sign(polynomial: Polynomial) -> int:
            value = polynomial.at(at)
            return (value > 0) - (value < 0)

        for condition, polynomial in self.pieces:
            if holds_at(condition, sign):
                return polynomial.at(at)
        raise ValueError(f"the point must lie in the domain, {at} does not.")

    @property
    def degree(self) -> int:
        return max((polynomial.degree for _, polynomial in self.pieces), default=0)

    def domain(self) -> Set:
        return Set(_or([condition for condition, _ in self.pieces]), self.variables)

    def graph(self, name: str = "value") -> Set:
        """{(x, value) : value = f(x)}."""
        return Set(self._is(name), (*self.variables, name))

    def image(self, name: str = "value") -> Set:
        """{value : some x has f(x) = value} (Tarski-Seidenberg)."""
        return self.graph(name).project(*self.variables)

    def preimage(self, condition: str, name: str = "value") -> Set:
        """{x : the condition holds of f(x)}, the condition a text in `name`."""
        read = Set(condition, [name]).formula
        parts = [And((where, _with(read, name, polynomial))) for where, polynomial in self.pieces]
        return Set(_or(parts), self.variables)

    def derivative(self, name: str) -> Function:
        """The partial derivative inside the pieces; on borders it is left undefined, even where neighbours agree:
        the domain is the union of the pieces' interiors as the strict conditions show them."""
        return Function(self.variables, tuple((_open(c), p.derivative(name)) for c, p in self.pieces))

    def is_continuous(self, seconds: float = 30.0) -> bool:
        """Whether pieces that meet agree: p_i = p_j on the closure of piece i within the closure of piece j."""
        for k, (left, p) in enumerate(self.pieces):
            for right, q in self.pieces[k + 1 :]:
                a, b = Set(left, self.variables).closure(), Set(right, self.variables).closure()
                differ: Formula = And((a.formula, b.formula, Atom(p - q, "!=")))
                for variable in reversed(self.variables):
                    differ = Quantified(False, variable, differ)
                if truth(differ, seconds):
                    return False
        return True

    def _is(self, name: str) -> Formula:
        value = Polynomial.variable(name)
        return _or([And((where, Atom(value - polynomial, "="))) for where, polynomial in self.pieces])


def _or(parts: Sequence[Formula]) -> Formula:
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def _with(formula: Formula, name: str, polynomial: Polynomial) -> Formula:
    if isinstance(formula, Atom):
        return Atom(formula.polynomial.substitute({name: polynomial}), formula.relation)
    assert isinstance(formula, (And, Or))
    return type(formula)(tuple(_with(part, name, polynomial) for part in formula.parts))


def _open(formula: Formula) -> Formula:
    """The condition with weak inequalities made strict; equations drop out as empty."""
    if isinstance(formula, Atom):
        if formula.relation == "=":
            return Or(())
        return Atom(formula.polynomial, {"<=": "<", ">=": ">"}.get(formula.relation, formula.relation))
    assert isinstance(formula, (And, Or))
    return type(formula)(tuple(_open(part) for part in formula.parts))
