"""Real algebraic numbers, exactly: a square-free polynomial and an interval that holds one of its roots."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.extras import require

_PURPOSE = "exact semialgebraic computation"


def _poly(coefficients: Sequence[Fraction]) -> Any:
    flint = require("flint", _PURPOSE)
    return flint.fmpq_poly([flint.fmpq(value.numerator, value.denominator) for value in coefficients])


def _fraction(value: Any) -> Fraction:
    return Fraction(int(value.p), int(value.q))


def _eval(polynomial: Any, x: Fraction) -> Fraction:
    flint = require("flint", _PURPOSE)
    return _fraction(polynomial(flint.fmpq(x.numerator, x.denominator)))


def _coefficients(polynomial: Any) -> tuple[Fraction, ...]:
    return tuple(_fraction(value) for value in polynomial.coeffs())


@functools.lru_cache(maxsize=4096)
def _square_free(coefficients: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    polynomial = _poly(coefficients)
    reduced = polynomial // polynomial.gcd(polynomial.derivative()) if polynomial.degree() > 0 else polynomial
    return _coefficients(reduced)


@functools.lru_cache(maxsize=4096)
def _sturm(coefficients: tuple[Fraction, ...]) -> tuple[Any, ...]:
    """The Sturm sequence of a square-free polynomial."""
    first = _poly(coefficients)
    chain = [first, first.derivative()]
    while chain[-1].degree() > 0:
        chain.append(-(chain[-2] % chain[-1]))
    return tuple(part for part in chain if part.degree() >= 0 and part != 0)


def _variations(chain: Sequence[Any], x: Fraction) -> int:
    signs = [value > 0 for part in chain if (value := _eval(part, x)) != 0]
    return sum(a != b for a, b in itertools.pairwise(signs))


def count_roots(coefficients: tuple[Fraction, ...], low: Fraction, high: Fraction) -> int:
    """The number of distinct roots of a square-free polynomial in (low, high] (Sturm)."""
    chain = _sturm(coefficients)
    return _variations(chain, low) - _variations(chain, high)


@functools.total_ordering
@dataclass(frozen=True, eq=False)
class AlgebraicNumber:
    """The only root of a square-free polynomial in (low, high], or the rational low = high.

    coefficients: of the polynomial, from the constant up.
    """

    coefficients: tuple[Fraction, ...]
    low: Fraction
    high: Fraction

    @staticmethod
    def rational(value: Fraction | int) -> AlgebraicNumber:
        x = Fraction(value)
        return AlgebraicNumber((-x, Fraction(1)), x, x)

    @property
    def is_rational(self) -> bool:
        return self.low == self.high

    def refined(self, width: Fraction) -> AlgebraicNumber:
        """The same number in an interval no wider than `width`."""
        low, high = self.low, self.high
        while high - low > width:
            middle = (low + high) / 2
            if count_roots(self.coefficients, low, middle):
                high = middle
            else:
                low = middle
            if _eval(_poly(self.coefficients), high) == 0:
                return AlgebraicNumber(self.coefficients, high, high)
        return AlgebraicNumber(self.coefficients, low, high)

    def sign_of(self, coefficients: Sequence[Fraction]) -> int:
        """The sign (-1, 0, 1) of a polynomial at this number, exactly."""
        polynomial = _poly(coefficients)
        if polynomial.degree() <= 0:
            value = Fraction(0) if polynomial.degree() < 0 else _coefficients(polynomial)[0]
            return (value > 0) - (value < 0)
        if self.is_rational:
            value = _eval(polynomial, self.low)
            return (value > 0) - (value < 0)
        common = polynomial.gcd(_poly(self.coefficients))
        if common.degree() > 0 and count_roots(_square_free(_coefficients(common)), self.low, self.high):
            return 0
        reduced = _square_free(tuple(coefficients))
        at = self
        while count_roots(reduced, at.low, at.high) or _eval(polynomial, at.low) == 0:
            at = at.refined((at.high - at.low) / 2)
            if at.is_rational:
                return at.sign_of(coefficients)
        value = _eval(polynomial, at.high)
        return (value > 0) - (value < 0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AlgebraicNumber):
            return NotImplemented
        return self._compared(other) == 0

    def __lt__(self, other: AlgebraicNumber) -> bool:
        return self._compared(other) < 0

    def __hash__(self) -> int:
        return hash(round(float(self), 6))

    def _compared(self, other: AlgebraicNumber) -> int:
        if other.is_rational:
            return self.sign_of((-other.low, Fraction(1)))
        if self.is_rational:
            return -other.sign_of((-self.low, Fraction(1)))
        a, b = self, other
        common = _poly(a.coefficients).gcd(_poly(b.coefficients))
        while True:
            low, high = max(a.low, b.low), min(a.high, b.high)
            if low >= high:
                return -1 if a.high <= b.low else 1
            if common.degree() > 0 and count_roots(_square_free(_coefficients(common)), low, high):
                return 0
            a, b = a.refined((a.high - a.low) / 2), b.refined((b.high - b.low) / 2)
            if a.is_rational or b.is_rational:
                return a._compared(b)

    def __float__(self) -> float:
        size = max(Fraction(1), abs(self.low), abs(self.high))
        at = self.refined(Fraction(1, 10**17) * size)
        return float((at.low + at.high) / 2)

    def __str__(self) -> str:
        if self.is_rational:
            return str(self.low)
        return f"{float(self):.12g} (root of degree {len(self.coefficients) - 1})"


def real_roots(coefficients: Sequence[Fraction]) -> list[AlgebraicNumber]:
    """The distinct real roots of a polynomial that is not 0, in order.

    coefficients: from the constant up. Exact: Sturm's theorem on rational intervals.

    >>> [str(root) for root in real_roots([Fraction(-2), Fraction(1), Fraction(1)])]
    ['-2', '1']
    """
    trimmed = list(coefficients)
    while trimmed and trimmed[-1] == 0:
        trimmed.pop()
    if not trimmed:
        raise ValueError("the zero polynomial has every number as a root: a polynomial that is not 0 is required.")
    if len(trimmed) == 1:
        return []
    reduced = _square_free(tuple(trimmed))
    bound = 1 + max(abs(value / reduced[-1]) for value in reduced[:-1])
    found: list[AlgebraicNumber] = []

    def split(low: Fraction, high: Fraction) -> None:
        count = count_roots(reduced, low, high)
        if count == 0:
            return
        if count == 1:
            at = AlgebraicNumber(reduced, low, high)
            found.append(_as_rational(at))
            return
        middle = (low + high) / 2
        split(low, middle)
        split(middle, high)

    split(-bound, bound)
    return found


def _as_rational(number: AlgebraicNumber) -> AlgebraicNumber:
    """The same number, as a rational where it is one (by the rational root theorem on its factor)."""
    flint = require("flint", _PURPOSE)
    _, factors = _poly(number.coefficients).numer().factor()
    for factor, _ in factors:
        coefficients = tuple(_fraction(flint.fmpq(value)) for value in factor.coeffs())
        if len(coefficients) == 2:
            root = -coefficients[0] / coefficients[1]
            if number.low < root <= number.high:
                return AlgebraicNumber.rational(root)
        elif count_roots(coefficients, number.low, number.high):
            return AlgebraicNumber(coefficients, number.low, number.high)
    return number
