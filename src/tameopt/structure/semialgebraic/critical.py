"""Exact critical values of polynomials (Morse-Sard), each with a certified real critical point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.extras import require
from tameopt.structure.semialgebraic.algebraic import AlgebraicNumber, real_roots
from tameopt.structure.semialgebraic.formula import And, Atom, Formula, Quantified, parse_polynomial
from tameopt.structure.semialgebraic.polynomial import Polynomial
from tameopt.structure.semialgebraic.qepcad import EliminationError
from tameopt.structure.semialgebraic.sets import truth


@dataclass(frozen=True)
class CriticalValue:
    """A value of f at a real critical point. certified: a real critical point with it was proved to exist; otherwise
    it is a candidate (elimination over the complex numbers gives more values than there are)."""

    value: AlgebraicNumber
    certified: bool

    def __str__(self) -> str:
        return str(self.value) if self.certified else f"{self.value} (candidate)"


def critical_values(polynomial: str | Polynomial, *, seconds: float = 30.0) -> tuple[CriticalValue, ...]:
    """The critical values of a polynomial over R^p, in order, exactly: finitely many by Morse-Sard.

    In one variable by Sturm; in several by Groebner elimination of the variables from grad f = 0, t = f, where each
    real root t is then decided: is there a real critical point on the level t? (QEPCAD; without it a candidate stays
    a candidate unless the critical points are rational.) A positive-dimensional critical set is no obstacle.

    >>> [str(found) for found in critical_values("x**4/4 + x**2/2")]
    ['0']
    >>> [str(found) for found in critical_values("x**3 - 3*x")]
    ['-2', '2']
    """
    f = parse_polynomial(polynomial) if isinstance(polynomial, str) else polynomial
    names = f.variables
    if not names:
        value = f.value
        return (CriticalValue(AlgebraicNumber.rational(value if value is not None else 0), True),)
    candidates = _eliminated(f, names)
    gradient = [f.derivative(name) for name in names]
    found = []
    for root in candidates:
        decided = _exists(f, gradient, names, root, candidates, seconds)
        if decided is not False:
            found.append(CriticalValue(root, decided is True))
    return tuple(found)


def _eliminated(f: Polynomial, names: Sequence[str]) -> list[AlgebraicNumber]:
    """The real roots of the generator of the elimination ideal <grad f, t - f> over t."""
    sympy = require("sympy", "elimination of several variables")
    symbols = {name: sympy.Symbol(name) for name in names}
    t = sympy.Dummy("t")

    def made(polynomial: Polynomial) -> Any:
        return sum(
            (
                sympy.Rational(value.numerator, value.denominator)
                * sympy.prod([symbols[name] ** e for name, e in monomial])
                for monomial, value in polynomial.terms
            ),
            sympy.Integer(0),
        )

    system = [made(f.derivative(name)) for name in names] + [t - made(f)]
    basis = sympy.groebner(system, *symbols.values(), t, order="lex", domain="QQ")
    alone = [part for part in basis.exprs if part.free_symbols <= {t}]
    if not alone:
        raise EliminationError("the elimination ideal has no polynomial in the value alone.")
    coefficients = sympy.Poly(alone[-1], t).all_coeffs()[::-1]
    numbers = [Fraction(int(value.p), int(value.q)) for value in coefficients]
    return real_roots(numbers) if any(numbers[1:]) else []


def _exists(
    f: Polynomial,
    gradient: Sequence[Polynomial],
    names: Sequence[str],
    root: AlgebraicNumber,
    candidates: Sequence[AlgebraicNumber],
    seconds: float,
) -> bool | None:
    """Whether a real critical point has the value `root`; None where it could not be decided."""
    if len(names) == 1:
        name = names[0]
        points = real_roots(gradient[0].coefficients(name)) if gradient[0].value is None else []
        return any(_value_is(f, name, point, root, candidates) for point in points)
    level: list[Formula] = [Atom(part, "=") for part in gradient]
    apart = root
    while not apart.is_rational and any(
        other != root and apart.low <= other.high and other.low <= apart.high for other in candidates
    ):
        apart = apart.refined((apart.high - apart.low) / 2)
        candidates = [other.refined((other.high - other.low) / 2) if other != root else other for other in candidates]
    if apart.is_rational:
        level.append(Atom(f - Polynomial.constant(apart.low), "="))
    else:
        # every critical value is one of the candidates, and only this one lies in the interval
        level.append(Atom(f - Polynomial.constant(apart.low), ">"))
        level.append(Atom(f - Polynomial.constant(apart.high), "<="))
    sentence: Formula = And(tuple(level))
    for name in reversed(names):
        sentence = Quantified(False, name, sentence)
    if apart.is_rational and _rational_witness(f, gradient, names, apart.low):
        return True
    try:
        return truth(sentence, seconds)
    except EliminationError:
        return None


def _value_is(
    f: Polynomial, name: str, point: AlgebraicNumber, root: AlgebraicNumber, candidates: Sequence[AlgebraicNumber]
) -> bool:
    """Whether f(point) = root, for a critical point: f(point) is one of the candidates, so an interval decides."""
    if root.is_rational:
        return point.sign_of((f - Polynomial.constant(root.low)).coefficients(name)) == 0
    at = root
    for _ in range(200):
        above = point.sign_of((f - Polynomial.constant(at.low)).coefficients(name)) > 0
        below = point.sign_of((f - Polynomial.constant(at.high)).coefficients(name)) <= 0
        if not (above and below):
            return False
        if not any(other != root and at.low < other.high and other.low < at.high for other in candidates):
            return True
        at = at.refined((at.high - at.low) / 2)
        candidates = [other.refined((other.high - other.low) / 2) if other != root else other for other in candidates]
    return False


def _rational_witness(f: Polynomial, gradient: Sequence[Polynomial], names: Sequence[str], value: Fraction) -> bool:
    """Whether the origin or a point with entries -1, 0, 1 is a critical point of that value (a cheap certificate)."""
    if len(names) > 4:
        return _is_witness(f, gradient, dict.fromkeys(names, Fraction(0)), value)
    return any(
        _is_witness(f, gradient, dict(zip(names, map(Fraction, entries), strict=True)), value)
        for entries in itertools.product((0, 1, -1), repeat=len(names))
    )


def _is_witness(f: Polynomial, gradient: Sequence[Polynomial], point: dict[str, Fraction], value: Fraction) -> bool:
    return f.at(point) == value and all(part.at(point) == 0 for part in gradient)
