"""The checker of lower bounds of KL exponents: replays one arc in rational arithmetic (checker code).

Along x = gamma(t), t > 0, gamma(0) = 0, with f(gamma(t)) = a t^b + ..., a != 0, and norm(grad f(gamma(t))) = O(t^o):
norm(grad f) >= c abs(f)^theta near 0 asks for t^o >= c' t^(b theta), so theta >= o/b.

The coefficients of gamma are rational polynomials in T, a real root of the rational polynomial m; they are computed
with modulo m. What reduces to 0 is 0 at T; what has no common factor with m is not 0 at any root of m. That m has a
real root is seen by its odd degree, or by a change of sign between two rationals. m need not be irreducible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

_Element = tuple[Fraction, ...]  # a_0 + a_1 T + ..., without trailing zeros
_Series = dict[int, _Element]  # of powers of t
_MOST = 5000  # powers of t


def check(data: Mapping[str, Any]) -> bool:
    """Whether the arc shows that the KL exponent at 0 of the polynomial is at least theta.

    data: {"terms": [[[powers], "c"], ...] without a constant term, "theta": "p/q", "modulus": ["m_0", ...],
    "between": ["lo", "hi"] or [] for an odd degree, "arc": for each variable [[power of t, ["a_0", ...]], ...]}.
    Raises ValueError when data is no such claim.
    """
    try:
        terms = {tuple(int(k) for k in e): Fraction(c) for e, c in data["terms"]}
        theta, m = Fraction(data["theta"]), _element(data["modulus"])
        between = [Fraction(end) for end in data["between"]]
        arc = [{int(k): _element(c) for k, c in row} for row in data["arc"]]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"an arc's claim must hold terms, theta, a modulus and an arc: {error!r}.") from error
    n = len(arc)
    if not terms or any(len(e) != n or min(e, default=-1) < 0 or not any(e) for e in terms) or len(m) < 2:
        raise ValueError("the terms must have one power a coordinate and vanish at 0, the modulus a root.")
    if not _has_real_root(m, between) or any(not 1 <= k <= _MOST for row in arc for k in row):
        return False
    value = _order(_along(terms, arc, m), m, surely=True)
    slopes = [_order(_along(_derivative(terms, j), arc, m), m, surely=False) for j in range(n)]
    known = [order for order in slopes if order is not None]
    # grad f = 0 all along would ask f = 0 along it
    return value is not None and bool(known) and Fraction(min(known), value) >= theta


def _element(row: Sequence[Any]) -> _Element:
    return _trim([Fraction(c) for c in row])


def _trim(row: list[Fraction]) -> _Element:
    while row and not row[-1]:
        row.pop()
    return tuple(row)


def _has_real_root(m: _Element, between: list[Fraction]) -> bool:
    if not between:
        return len(m) % 2 == 0
    low, high = (sum((c * end**k for k, c in enumerate(m)), Fraction(0)) for end in between)
    return low * high < 0


def _remainder(a: list[Fraction], m: _Element) -> _Element:
    a = list(a)
    while len(a) >= len(m):
        factor, shift = a[-1] / m[-1], len(a) - len(m)
        for k, c in enumerate(m):
            a[shift + k] -= factor * c
        a.pop()
    return _trim(a)


def _times(a: _Element, b: _Element, m: _Element) -> _Element:
    product = [Fraction(0)] * max(len(a) + len(b) - 1, 0)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            product[i + j] += left * right
    return _remainder(product, m)


def _plus(a: _Element, b: _Element) -> _Element:
    size = max(len(a), len(b))
    padded = [[*row, *[Fraction(0)] * (size - len(row))] for row in (a, b)]
    return _trim([x + y for x, y in zip(*padded, strict=True)])


def _product(a: _Series, b: _Series, m: _Element) -> _Series:
    result: _Series = {}
    for i, left in a.items():
        for j, right in b.items():
            result[i + j] = _plus(result.get(i + j, ()), _times(left, right, m))
    return {k: c for k, c in result.items() if c}


def _along(terms: Mapping[tuple[int, ...], Fraction], arc: Sequence[_Series], m: _Element) -> _Series:
    """The polynomial along the arc, as a polynomial in t, exactly."""
    one: _Series = {0: (Fraction(1),)}
    powers: list[list[_Series]] = []
    for j, row in enumerate(arc):
        powers.append([one])
        for _ in range(max((e[j] for e in terms), default=0)):
            powers[j].append(_product(powers[j][-1], row, m))
    total: _Series = {}
    for e, c in terms.items():
        product: _Series = {0: (c,)}
        for j, power in enumerate(e):
            if power:
                product = _product(product, powers[j][power], m)
        for k, element in product.items():
            total[k] = _plus(total.get(k, ()), element)
    return {k: element for k, element in total.items() if element}


def _derivative(terms: Mapping[tuple[int, ...], Fraction], j: int) -> dict[tuple[int, ...], Fraction]:
    return {(*e[:j], e[j] - 1, *e[j + 1 :]): c * e[j] for e, c in terms.items() if e[j]}


def _order(series: _Series, m: _Element, surely: bool) -> int | None:
    """The least power of t whose coefficient is not 0 mod m; surely: at no root of m. None without one."""
    for k in sorted(series):
        if not surely or len(_common(series[k], m)) == 1:
            return k
    return None


def _common(a: _Element, b: _Element) -> _Element:
    """A greatest common divisor of polynomials in T."""
    while a:
        a, b = _remainder(list(b), a), a
    return b
