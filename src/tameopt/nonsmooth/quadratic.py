"""Polynomials of second order in h, sparse and exact: what a `germ` entry has beyond its linear form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Form = dict[int, Fraction]


@dataclass(frozen=True)
class Quadratic:
    """The part of second order, sum q_ij h_i h_j over i <= j, and whether anything is left beyond it."""

    terms: dict[tuple[int, int], Fraction]
    beyond: bool = False

    def plus(self, other: Quadratic, factor: Fraction = Fraction(1)) -> Quadratic:
        """self + factor * other."""
        terms = dict(self.terms)
        for key, value in other.terms.items():
            total = terms.get(key, Fraction(0)) + factor * value
            if total:
                terms[key] = total
            else:
                terms.pop(key, None)
        return Quadratic(terms, self.beyond or (other.beyond and factor != 0))

    def at(self, u: Sequence[int | Fraction]) -> Fraction:
        """Its value at a direction, without what is beyond."""
        return sum((value * u[i] * u[j] for (i, j), value in self.terms.items()), Fraction(0))


def outer(a: Form, b: Form) -> dict[tuple[int, int], Fraction]:
    """The terms of the product of two linear forms."""
    terms: dict[tuple[int, int], Fraction] = {}
    for i, x in a.items():
        for j, y in b.items():
            key = (min(i, j), max(i, j))
            terms[key] = terms.get(key, Fraction(0)) + x * y
    return {key: value for key, value in terms.items() if value}
