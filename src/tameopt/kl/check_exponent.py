"""The checker of exponents: replays a claim's rule in rational arithmetic, from the polynomial alone.

It shares no code with what finds exponents. Each rule is a theorem with a short proof:

- "one variable": f = a t^l (1 + O(t)) gives abs(f') = l abs(a)^(1/l) abs(f)^(1 - 1/l) (1 + O(t)).
- "monomial": f = c prod x_i^(a_i): norm(grad f) >= abs(f) max_i a_i/abs(x_i) >= c' abs(f)^(1 - 1/sum a_i), since
  min abs(x_i) <= abs(f/c)^(1/sum a_i); equality of orders on the diagonal.
- "nondegenerate": the Morse lemma, 1/2.
- "corank one": the splitting lemma (`splitting`). With z(y) correct to order M, f along it is correct to order 2 M.
- "sum" over separate variables: norm(grad f)^2 = sum of norm(grad f_i)^2, and abs(f)^(2 theta) <= C sum abs(f_i)^(2
  theta): the largest of the parts, if every part is critical.
- "power": f = u h^l with u(0) != 0: grad h^l = l h^(l-1) grad h gives 1 - (1 - theta_h)/l, and a unit changes
  nothing.
- "talweg" for two variables: see `check_talweg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tameopt.kl import check_talweg

_Terms = dict[tuple[int, ...], Fraction]


def check(data: Mapping[str, Any]) -> bool:
    """Whether theta is the KL exponent at 0 of the polynomial of the claim.

    data: {"rule": one of the above, "terms": [[[powers], "coefficient"], ...] without a constant term, "theta":
    "1/2", and what the rule needs}. Raises ValueError when data is no such claim.
    """
    try:
        terms = _read(data["terms"])
        theta, rule = Fraction(data["theta"]), data["rule"]
        replay = _RULES[rule]
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"an exponent's certificate must hold a rule, terms and theta: {error!r}.") from error
    if any(not any(e) for e in terms):
        raise ValueError("the polynomial must vanish at 0, it has a constant term.")
    if not terms or min(sum(e) for e in terms) < 2:
        return False
    try:
        return bool(replay(terms, theta, data))
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"the certificate by {rule!r} must hold what that rule needs: {error!r}.") from error


def _read(rows: Any) -> _Terms:
    terms: _Terms = {}
    for powers, c in rows:
        e = tuple(int(power) for power in powers)
        if any(power < 0 for power in e) or e in terms:
            raise ValueError("powers must be nonnegative and differ")
        if Fraction(c):
            terms[e] = Fraction(c)
    if len({len(e) for e in terms}) > 1:
        raise ValueError("all terms must have the same variables")
    return terms


def _one_variable(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    used = {j for e in terms for j, power in enumerate(e) if power}
    return len(used) == 1 and theta == 1 - Fraction(1, min(sum(e) for e in terms))


def _monomial(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    return len(terms) == 1 and theta == 1 - Fraction(1, sum(next(iter(terms))))


def _hessian(terms: _Terms) -> list[list[Fraction]]:
    n = len(next(iter(terms)))
    H = [[Fraction(0)] * n for _ in range(n)]
    for e, c in terms.items():
        if sum(e) == 2:
            i, j = [k for k, power in enumerate(e) for _ in range(power)]
            H[i][j] += c
            H[j][i] += c
    return H


def _determinant(matrix: list[list[Fraction]]) -> Fraction:
    A, result = [list(row) for row in matrix], Fraction(1)
    for j in range(len(A)):
        pivot = next((i for i in range(j, len(A)) if A[i][j]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != j:
            A[j], A[pivot], result = A[pivot], A[j], -result
        result *= A[j][j]
        for i in range(j + 1, len(A)):
            factor = A[i][j] / A[j][j]
            A[i] = [a - factor * b for a, b in zip(A[i], A[j], strict=True)]
    return result


def _nondegenerate(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    return theta == Fraction(1, 2) and _determinant(_hessian(terms)) != 0


def _multiply(a: list[Fraction], b: list[Fraction], size: int) -> list[Fraction]:
    result = [Fraction(0)] * size
    for i, left in enumerate(a[:size]):
        if left:
            for j, right in enumerate(b[: size - i]):
                if right:
                    result[i + j] += left * right
    return result


def _substituted(terms: _Terms, values: list[list[Fraction]], size: int) -> list[Fraction]:
    """The polynomial at power series, modulo y^size."""
    one = [Fraction(1)] + [Fraction(0)] * (size - 1)
    powers: list[list[list[Fraction]]] = [[one] for _ in values]
    for j, row in enumerate(powers):
        for _ in range(max((e[j] for e in terms), default=0)):
            row.append(_multiply(row[-1], values[j], size))
    total = [Fraction(0)] * size
    for e, c in terms.items():
        product = one
        for j, power in enumerate(e):
            if power:
                product = _multiply(product, powers[j][power], size)
        total = [t + c * p for t, p in zip(total, product, strict=True)]
    return total


def _derivative(terms: _Terms, j: int) -> _Terms:
    return {(*e[:j], e[j] - 1, *e[j + 1 :]): c * e[j] for e, c in terms.items() if e[j]}


def _corank_one(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    """basis: rows v, E_1, ...; series: z_j(y) = sum_i series[j][i] y^(i+1)."""
    basis = [[Fraction(c) for c in row] for row in data["basis"]]
    series = [[Fraction(0), *(Fraction(c) for c in row)] for row in data["series"]]
    n = len(next(iter(terms)))
    if len(basis) != n or any(len(row) != n for row in basis) or len(series) != n - 1 or _determinant(basis) == 0:
        return False
    H = _hessian(terms)
    if any(sum(H[i][j] * basis[0][j] for j in range(n)) for i in range(n)):
        return False
    inner = [
        [sum(basis[a][i] * H[i][j] * basis[b][j] for i in range(n) for j in range(n)) for b in range(1, n)]
        for a in range(1, n)
    ]
    if _determinant([[Fraction(c) for c in row] for row in inner]) == 0:
        return False
    bound = (max(sum(e) for e in terms) - 1) ** n + 1
    size = bound + 1
    values = [[Fraction(0)] * size for _ in range(n)]
    for coordinate in range(n):
        values[coordinate][1] += basis[0][coordinate]
        for j, row in enumerate(series):
            for i, c in enumerate(row[:size]):
                values[coordinate][i] += basis[j + 1][coordinate] * c
    along = [_substituted(_derivative(terms, j), values, size) for j in range(n)]
    slopes = [[sum(E[j] * along[j][i] for j in range(n)) for i in range(size)] for E in basis[1:]]
    # z is right up to the order of the slopes, since their derivative in z is invertible at 0
    right = min(next((i for i, c in enumerate(slope) if c), size) for slope in slopes)
    value = _substituted(terms, values, size)
    order = next((i for i, c in enumerate(value) if c), size)
    if order < 2 * right and order < size:
        return order >= 3 and theta == 1 - Fraction(1, order)
    # nothing up to the largest order that an isolated critical point can have: g = 0, and f is Morse-Bott
    return 2 * right >= size and order >= size and theta == Fraction(1, 2)


def _inner(part: Mapping[str, Any], n: int) -> tuple[_Terms, Fraction, set[int], bool]:
    """{"places": [...], "claim": ...}: (terms in all n variables, theta, variables, whether the claim holds)."""
    places, claim = [int(j) for j in part["places"]], part["claim"]
    own = _read(claim["terms"])
    if len(set(places)) != len(places) or any(not 0 <= j < n or len(e) != len(places) for e in own for j in places):
        return {}, Fraction(0), set(), False
    wide = {}
    for e, c in own.items():
        row = [0] * n
        for j, power in zip(places, e, strict=True):
            row[j] = power
        wide[tuple(row)] = c
    return wide, Fraction(claim["theta"]), set(places), check(claim)


def _sum(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    n = len(next(iter(terms)))
    total: _Terms = {}
    used: set[int] = set()
    thetas: list[Fraction] = []
    for part in data["parts"]:
        own, inner, variables, holds = _inner(part, n)
        if used & variables or not holds:
            return False
        used |= variables
        total.update(own)
        thetas.append(inner)
    return len(thetas) > 1 and total == terms and theta == max(thetas)


def _power(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    """base: the claim of h with its places, or {"terms", "theta": "0"} where h has no critical point at 0."""
    n, unit, power = len(next(iter(terms))), _read(data["unit"]), int(data["power"])
    regular = "claim" not in data["base"]
    if regular:
        h, inner = _read(data["base"]["terms"]), Fraction(data["base"]["theta"])
        holds = bool(h) and min(sum(e) for e in h) == 1 and inner == 0 and power > 1
    else:
        h, inner, _, holds = _inner(data["base"], n)
    if power < 1 or not any(not any(e) for e in unit) or not holds:
        return False
    product = unit
    for _ in range(power):
        product = _product(product, h)
    return product == terms and theta == 1 - (1 - inner) / power


def _two_variables(terms: _Terms, theta: Fraction, data: Mapping[str, Any]) -> bool:
    return check_talweg.check(data)


def _product(a: _Terms, b: _Terms) -> _Terms:
    result: _Terms = {}
    for e, c in a.items():
        for f, d in b.items():
            key = tuple(i + j for i, j in zip(e, f, strict=True))
            result[key] = result.get(key, Fraction(0)) + c * d
    return {e: c for e, c in result.items() if c}


_RULES = {
    "one variable": _one_variable,
    "monomial": _monomial,
    "nondegenerate": _nondegenerate,
    "corank one": _corank_one,
    "sum": _sum,
    "power": _power,
    "talweg": _two_variables,
}
