"""Polynomials with rational coefficients in named variables, exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

Monomial = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Polynomial:
    """A polynomial as its terms: monomial -> coefficient, zeros left out.

    >>> x, y = Polynomial.variable("x"), Polynomial.variable("y")
    >>> print((x - y) ** 2)
    -2*x*y + x^2 + y^2
    """

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(terms: Mapping[Monomial, Fraction]) -> Polynomial:
        """From a mapping; the order of terms is fixed, so that equal polynomials are equal objects."""
        kept = [(monomial, Fraction(value)) for monomial, value in terms.items() if value]
        return Polynomial(tuple(sorted(kept, key=lambda term: (-sum(e for _, e in term[0]), term[0]))))

    @staticmethod
    def constant(value: Fraction | int) -> Polynomial:
        return Polynomial.of({(): Fraction(value)})

    @staticmethod
    def variable(name: str) -> Polynomial:
        return Polynomial.of({((name, 1),): Fraction(1)})

    @property
    def variables(self) -> tuple[str, ...]:
        """The names that occur, sorted."""
        return tuple(sorted({name for monomial, _ in self.terms for name, _ in monomial}))

    @property
    def degree(self) -> int:
        """Total degree; 0 for constants, zero included."""
        return max((sum(e for _, e in monomial) for monomial, _ in self.terms), default=0)

    @property
    def value(self) -> Fraction | None:
        """The number, when it is constant."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    def __add__(self, other: Polynomial) -> Polynomial:
        total = dict(self.terms)
        for monomial, value in other.terms:
            total[monomial] = total.get(monomial, Fraction(0)) + value
        return Polynomial.of(total)

    def __neg__(self) -> Polynomial:
        return Polynomial(tuple((monomial, -value) for monomial, value in self.terms))

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + (-other)

    def __mul__(self, other: Polynomial) -> Polynomial:
        total: dict[Monomial, Fraction] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                exponents = dict(left)
                for name, e in right:
                    exponents[name] = exponents.get(name, 0) + e
                monomial = tuple(sorted(exponents.items()))
                total[monomial] = total.get(monomial, Fraction(0)) + a * b
        return Polynomial.of(total)

    def __pow__(self, n: int) -> Polynomial:
        if n < 0:
            raise ValueError(f"a polynomial's exponent must be >= 0, got {n}.")
        result = Polynomial.constant(1)
        for _ in range(n):
            result = result * self
        return result

    def derivative(self, name: str) -> Polynomial:
        """The partial derivative."""
        total: dict[Monomial, Fraction] = {}
        for monomial, value in self.terms:
            exponents = dict(monomial)
            e = exponents.pop(name, 0)
            if e == 0:
                continue
            if e > 1:
                exponents[name] = e - 1
            key = tuple(sorted(exponents.items()))
            total[key] = total.get(key, Fraction(0)) + value * e
        return Polynomial.of(total)

    def substitute(self, values: Mapping[str, Polynomial | Fraction | int]) -> Polynomial:
        """With variables replaced by polynomials or numbers."""
        result = Polynomial.constant(0)
        for monomial, value in self.terms:
            term = Polynomial.constant(value)
            for name, e in monomial:
                factor = values.get(name, Polynomial.variable(name))
                factor = factor if isinstance(factor, Polynomial) else Polynomial.constant(factor)
                term = term * factor**e
            result = result + term
        return result

    def at(self, point: Mapping[str, Fraction | int]) -> Fraction:
        """The exact value at a rational point.

        Raises ValueError when a variable has no value.
        """
        total = Fraction(0)
        for monomial, value in self.terms:
            for name, e in monomial:
                if name not in point:
                    raise ValueError(f"the point must give {name}, it has {sorted(point)}.")
                value = value * Fraction(point[name]) ** e
            total += value
        return total

    def coefficients(self, name: str) -> list[Fraction]:
        """Of a polynomial in one variable, from the constant up.

        Raises ValueError when there are others.
        """
        if set(self.variables) - {name}:
            raise ValueError(f"a polynomial in {name} alone is required, got one in {', '.join(self.variables)}.")
        found = [Fraction(0)] * (self.degree + 1)
        for monomial, value in self.terms:
            found[dict(monomial).get(name, 0)] += value
        return found

    def integral(self) -> Polynomial:
        """The positive multiple with coprime integer coefficients."""
        if not self.terms:
            return self
        scale = math.lcm(*(value.denominator for _, value in self.terms))
        divisor = math.gcd(*(int(value * scale) for _, value in self.terms))
        return Polynomial(tuple((monomial, value * scale / divisor) for monomial, value in self.terms))

    def __str__(self) -> str:
        return _written(self, "^", "*")

    def qepcad(self) -> str:
        """In QEPCAD's notation: juxtaposition for products, integer coefficients."""
        return _written(self.integral(), "^", " ")


def _written(polynomial: Polynomial, power: str, times: str) -> str:
    if not polynomial.terms:
        return "0"
    text = ""
    for monomial, value in polynomial.terms:
        factors = [name if e == 1 else f"{name}{power}{e}" for name, e in monomial]
        size = abs(value)
        if size != 1 or not factors:
            factors.insert(0, str(size) if size.denominator == 1 else f"({size})")
        sign = "-" if value < 0 else "+"
        text += (f" {sign} " if text else ("-" if value < 0 else "")) + times.join(factors)
    return text
