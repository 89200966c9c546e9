"""The checker of exponents in two variables: that no branch is missed, and hence that the exponent is no more.

f has rational coefficients, f(0) = 0, grad f(0) = 0; g = norm(grad f)^2, D = det(H grad f, grad f).

**Theorem.** norm(grad f) >= c abs(f)^theta near 0 when (a) f = prod h_i^i with prod h_i square-free, and theta >=
1 - 1/i for every i >= 2 for which h_i = 0 has a real half-branch at 0; (b) D = P C with C a product of factors of f,
g and P, and ord g <= 2 theta ord f along every real half-branch of P = 0 at 0.

Proof. Otherwise, in every small closed ball B there are s_k -> 0 and w_k with f(w_k) = s_k != 0 at which
norm(grad f) is least on B cut with {f = s_k}, and norm(grad f(w_k))/abs(s_k)^theta -> 0; let w_k -> w, so f(w) = 0.
If w != 0: B being small, prod h_i is regular at its zero w, so f = u h^i near w with a unit u and grad h != 0, and
the inequality holds at w with 1 - 1/i (0 for i = 1). If w = 0: w_k lies inside B, where a minimum has grad g parallel
to grad f, that is D = 0; there f and grad f do not vanish (critical points near 0 have f = 0), so w_k lies on P = 0,
on one of its finitely many half-branches, where (b) gives the inequality.

**Half-branches are counted** by Sturm's theorem over Q(x) with x a positive infinitesimal: the distinct real roots y
of P(x, y) between -d and d, x << d << 1; signs there are those of the least power of x, then of the least power of d.
Then those that are listed, one for each real root of their modulus m, must be real half-branches, pairwise different,
and as many. A listed one x = +-t^q, y = y_0(t) + t^E z exists when P(t^q, y_0 + t^E z) = t^L (a z + b z^2 + ... +
O(t)), a != 0, by the implicit function theorem, or when P(t^q, y_0) = 0.

Arithmetic: python-flint's exact polynomials and matrices; no floating point.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.extras import require
from tameopt.kl import check_arc

_Plane = dict[tuple[int, int], Fraction]
_SEPARATORS = (1, 2, 3, 5, 7)  # coefficient sequences are told apart by sum k^i c_i for one such k
_MOST = 400  # ramification, and powers of t


def check(data: Mapping[str, Any]) -> bool:
    """Whether theta is the KL exponent at 0 of the polynomial of the claim.

    data: {"terms": [[[i, j], "c"], ...], "theta": "p/q", "powers": [[terms of h, i], ...], "talweg": terms of P,
    "others": [[terms of a factor, of what: "f", "g" or "P", terms of the quotient], ...], "branches": [{"side": 1 or
    -1, "ramification", "modulus", "elements": [[power of t, ["a_0", ...]], ...]}, ...], "arc": None, or what
    `check_arc` replays}. Raises ValueError when data is no such claim.
    """
    try:
        f, theta = _plane(data["terms"]), Fraction(data["theta"])
        powers = [(_plane(h), int(i)) for h, i in data["powers"]]
        others = [(_plane(a), str(whose), _plane(b)) for a, whose, b in data["others"]]
        P, listed, arc = _plane(data["talweg"]), [_branch(row) for row in data["branches"]], data["arc"]
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ValueError(f"a claim about an exponent in two variables must hold its parts: {error!r}.") from error
    if not f or min(i + j for i, j in f) < 2 or not P or not 0 <= theta < 1:
        return False
    D, g = _talweg(f)
    return (
        _factored(f, powers)
        and _split(D, P, others, {"f": f, "g": g, "P": P})
        and all(_critical(h, i, theta) for h, i in powers)
        and _bounded(P, f, g, theta, listed)
        and _attained(data["terms"], powers, theta, arc)
    )


@dataclass(frozen=True)
class _Branch:
    side: int
    q: int
    modulus: Any
    elements: tuple[tuple[int, Any], ...]

    @property
    def last(self) -> int:
        return max((e for e, _ in self.elements), default=0)


def _plane(rows: Any) -> _Plane:
    terms: _Plane = {}
    for (i, j), c in rows:
        if (int(i), int(j)) in terms or min(int(i), int(j)) < 0:
            raise ValueError("powers must be nonnegative and differ")
        if Fraction(c):
            terms[int(i), int(j)] = Fraction(c)
    return terms


def _number_poly(row: Sequence[Any]) -> Any:
    flint = require("flint", "exact KL exponents")
    return flint.fmpq_poly([flint.fmpq(c.numerator, c.denominator) for c in map(Fraction, row)])


def _branch(row: Mapping[str, Any]) -> _Branch:
    side, q, m = int(row["side"]), int(row["ramification"]), _number_poly(row["modulus"])
    elements = tuple((int(e), _number_poly(c)) for e, c in row["elements"])
    sorted_powers = [e for e, _ in elements]
    if side not in (1, -1) or not 1 <= q <= _MOST or m.degree() < 1 or sorted_powers != sorted(set(sorted_powers)):
        raise ValueError("a branch must have a side, a ramification, a modulus and increasing powers")
    if any(not 1 <= e <= _MOST for e in sorted_powers):
        raise ValueError(f"powers of t must be between 1 and {_MOST}")
    return _Branch(side, q, m, tuple((e, c % m) for e, c in elements))


def _times(a: _Plane, b: _Plane) -> _Plane:
    result: _Plane = {}
    for (i, j), c in a.items():
        for (k, n), d in b.items():
            result[i + k, j + n] = result.get((i + k, j + n), Fraction(0)) + c * d
    return {e: c for e, c in result.items() if c}


def _plus(a: _Plane, b: _Plane, factor: int = 1) -> _Plane:
    result = dict(a)
    for e, c in b.items():
        result[e] = result.get(e, Fraction(0)) + factor * c
    return {e: c for e, c in result.items() if c}


def _slope(f: _Plane, j: int) -> _Plane:
    return {(e[0] - (j == 0), e[1] - (j == 1)): c * e[j] for e, c in f.items() if e[j]}


def _talweg(f: _Plane) -> tuple[_Plane, _Plane]:
    fx, fy = _slope(f, 0), _slope(f, 1)
    fxx, fxy, fyy = _slope(fx, 0), _slope(fx, 1), _slope(fy, 1)
    a, b = _plus(_times(fxx, fx), _times(fxy, fy)), _plus(_times(fxy, fx), _times(fyy, fy))
    return _plus(_times(a, fy), _times(b, fx), -1), _plus(_times(fx, fx), _times(fy, fy))


def _factored(f: _Plane, powers: Sequence[tuple[_Plane, int]]) -> bool:
    """(a): f is the product of the powers, and the product of the h_i is square-free up to what is not 0 at 0."""
    product: _Plane = {(0, 0): Fraction(1)}
    reduced: _Plane = {(0, 0): Fraction(1)}
    for h, i in powers:
        if not 1 <= i <= _MOST or not h:
            return False
        reduced = _times(reduced, h)
        for _ in range(i):
            product = _times(product, h)
    if product != f or min(i for i, _ in reduced) > 1:
        return False
    rest = _without_axis(reduced)
    # over Q(x): no common factor with the derivative in y; what is left in x alone is not 0 at 0
    return max(j for _, j in rest) == 0 or len(_sturm(_columns(rest, 1))[-1]) == 1


def _split(D: _Plane, P: _Plane, others: Sequence[tuple[_Plane, str, _Plane]], given: Mapping[str, _Plane]) -> bool:
    """(b): D = P times factors of f, of g and of P itself."""
    product = P
    for factor, whose, quotient in others:
        if whose not in given or _times(factor, quotient) != given[whose]:
            return False
        product = _times(product, factor)
    return bool(D) and product == D


def _without_axis(P: _Plane) -> _Plane:
    least = min(i for i, _ in P)
    return {(i - least, j): c for (i, j), c in P.items()}


def _columns(P: _Plane, side: int) -> list[Any]:
    """P(side x, y) as polynomials in x with integer coefficients, one a power of y, up to a positive factor."""
    flint = require("flint", "exact KL exponents")
    common = 1
    for c in P.values():
        common = common * c.denominator // _gcd(common, c.denominator)
    rows = [[0] * (max(i for i, _ in P) + 1) for _ in range(max(j for _, j in P) + 1)]
    for (i, j), c in P.items():
        rows[j][i] = int(c * common) * side**i
    return [flint.fmpz_poly(row) for row in rows]


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _sign(p: Any) -> int:
    """The sign of a polynomial in x just right of 0."""
    c = next((c for c in p.coeffs() if c != 0), 0)
    return (c > 0) - (c < 0)


def _primitive(row: list[Any]) -> list[Any]:
    """Divided by what divides all of its coefficients, taken positive just right of 0."""
    content = row[-1]
    for p in row:
        content = content.gcd(p)
    content = content * _sign(content)
    return [p // content for p in row]


def _minus_remainder(a: list[Any], b: list[Any]) -> list[Any]:
    """Minus the remainder of a by b (in y), times a factor that is positive just right of 0."""
    a, lead = list(a), b[-1] * _sign(b[-1])
    while len(a) >= len(b):
        top, shift = a[-1] * _sign(b[-1]), len(a) - len(b)
        a = [p * lead for p in a]
        for k, p in enumerate(b):
            a[shift + k] = a[shift + k] - top * p
        while a and a[-1] == 0:
            a.pop()
    return _primitive([-p for p in a]) if a else []


def _sturm(P: list[Any]) -> list[list[Any]]:
    """The signed remainder sequence of P and its derivative in y."""
    sequence = [_primitive(P), _primitive([p * k for k, p in enumerate(P)][1:])]
    while len(sequence[-1]) > 1:
        following = _minus_remainder(sequence[-2], sequence[-1])
        if not following:
            break
        sequence.append(following)
    return sequence


def _near(row: list[Any], side: int) -> int:
    """The sign at y = side d, x << d: the least power of x, then the least power of y."""
    orders = [next((i for i, c in enumerate(p.coeffs()) if c != 0), None) for p in row]
    least = min(i for i in orders if i is not None)
    j = orders.index(least)
    c = row[j].coeffs()[least] * side**j
    return (c > 0) - (c < 0)


def _changes(signs: Sequence[int]) -> int:
    kept = [s for s in signs if s]
    return sum(a != b for a, b in itertools.pairwise(kept))


def half_branch_count(P: _Plane, side: int) -> int:
    """How many real half-branches P = 0 has at 0 with side x > 0; x must not divide P."""
    if not any(i == 0 for i, _ in P):
        raise ValueError("x must not divide the polynomial.")
    columns = _columns(P, side)
    if len(columns) == 1 or (0, 0) in P:
        return 0
    sequence = _sturm(columns)
    return _changes([_near(row, -1) for row in sequence]) - _changes([_near(row, 1) for row in sequence])


def _critical(h: _Plane, i: int, theta: Fraction) -> bool:
    return theta >= 1 - Fraction(1, i) or not _has_branch(h)


def _has_branch(h: _Plane) -> bool:
    if min(i for i, _ in h) > 0:
        return True
    return any(half_branch_count(h, side) > 0 for side in (1, -1))


def _real_roots(m: Any) -> int:
    """How many distinct real roots a rational polynomial has."""
    sequence = [m, m.derivative()]
    while sequence[-1].degree() > 0:
        rest = -(sequence[-2] % sequence[-1])
        if rest == 0:
            break
        sequence.append(rest)
    right = [1 if p.coeffs()[-1] > 0 else -1 for p in sequence]
    left = [s * (-1) ** int(p.degree()) for s, p in zip(right, sequence, strict=True)]
    return _changes(left) - _changes(right)


def _along(f: _Plane, branch: _Branch) -> dict[tuple[int, int], Any]:
    """f(side t^q, y_0(t) + t^E z) as {(power of t, power of z): element}."""
    flint = require("flint", "exact KL exponents")
    m, one = branch.modulus, flint.fmpq_poly([1])
    line: dict[tuple[int, int], Any] = {(e, 0): c for e, c in branch.elements if c != 0}
    line[branch.last, 1] = one
    powers = [{(0, 0): one}]
    for _ in range(max((j for _, j in f), default=0)):
        product: dict[tuple[int, int], Any] = {}
        for (a, b), c in powers[-1].items():
            for (e, k), d in line.items():
                term = (c * d) % m
                product[a + e, b + k] = product[a + e, b + k] + term if (a + e, b + k) in product else term
        powers.append({key: c for key, c in product.items() if c != 0})
    total: dict[tuple[int, int], Any] = {}
    for (i, j), number in f.items():
        factor = flint.fmpq(number.numerator, number.denominator) * branch.side**i
        for (a, b), c in powers[j].items():
            key, term = (a + i * branch.q, b), c * factor
            total[key] = total[key] + term if key in total else term
    return {key: c for key, c in total.items() if c != 0}


def _surely(c: Any, m: Any) -> bool:
    """Not 0 at any root of m."""
    return c != 0 and c.gcd(m).degree() == 0


def _ratio_holds(branch: _Branch, exact: bool, f: _Plane, g: _Plane, theta: Fraction) -> bool:
    """ord g <= 2 theta ord f along the branch, at every root of the modulus."""
    of_f, of_g = _along(f, branch), _along(g, branch)
    if exact:
        of_f, of_g = ({key: c for key, c in found.items() if key[1] == 0} for found in (of_f, of_g))
        if not of_f:
            return True  # f = 0 on it
        order = next((a for a, _ in sorted(of_g) if _surely(of_g[a, 0], branch.modulus)), None)
        return order is not None and order <= 2 * theta * min(a for a, _ in of_f)
    order = min(a for a, _ in of_g)
    known = (order, 0) in of_g and _surely(of_g[order, 0], branch.modulus)
    return known and order <= 2 * theta * min(a for a, _ in of_f)


def _exists(P: _Plane, branch: _Branch) -> tuple[bool, bool]:
    """(whether a real half-branch begins like that at every real root of m, whether it ends there)."""
    found = _along(P, branch)
    if not any(b == 0 for _, b in found):
        return True, True
    least = min(a for a, _ in found)
    linear = found.get((least, 1))
    return (least, 0) not in found and linear is not None and _surely(linear, branch.modulus), False


def _bounded(P: _Plane, f: _Plane, g: _Plane, theta: Fraction, listed: Sequence[_Branch]) -> bool:
    if min(i for i, _ in P) > 0:  # x = 0 is a branch
        of_f, of_g = ([j for i, j in poly if i == 0] for poly in (f, g))
        if of_f and not (of_g and min(of_g) <= 2 * theta * min(of_f)):
            return False
        P = _without_axis(P)
    for side in (1, -1):
        own = [branch for branch in listed if branch.side == side]
        exact = []
        for branch in own:
            exists, ends = _exists(P, branch)
            if not exists or not _ratio_holds(branch, ends, f, g, theta):
                return False
            exact.append(ends)
        if not _different(own, exact):
            return False
        if sum(_real_roots(branch.modulus) for branch in own) != half_branch_count(P, side):
            return False
    return True


def _characteristic(c: Any, m: Any) -> Any:
    """The characteristic polynomial of multiplication by c modulo m: its roots are the values at the roots of m."""
    flint = require("flint", "exact KL exponents")
    n = int(m.degree())
    rows = []
    for k in range(n):
        product = (c * flint.fmpq_poly([0] * k + [1])) % m
        rows.append([product[i] for i in range(n)])
    return flint.fmpq_mat(rows).charpoly()


def _different(branches: Sequence[_Branch], exact: Sequence[bool]) -> bool:
    """Whether all the listed half-branches of one side, at all roots of their moduli, differ."""
    flint = require("flint", "exact KL exponents")
    zero = flint.fmpq_poly([0])

    def value(branch: _Branch, powers: Sequence[Fraction], k: int) -> Any:
        own = {Fraction(e, branch.q): c for e, c in branch.elements}
        total = zero
        for i, power in enumerate(powers):
            total = total + own.get(power, zero) * k**i
        return _characteristic(total % branch.modulus, branch.modulus)

    def powers_of(*some: int) -> list[Fraction]:
        # what is known of each: its powers up to the last, or all of them
        ends = [Fraction(branches[i].last, branches[i].q) for i in some if not exact[i]]
        return sorted(
            power
            for power in {Fraction(e, branches[i].q) for i in some for e, _ in branches[i].elements}
            if not ends or power <= min(ends)
        )

    for i, branch in enumerate(branches):
        if branch.modulus.degree() > 1:
            own = powers_of(i)
            found = (value(branch, own, k) for k in _SEPARATORS)
            if not any(p.gcd(p.derivative()).degree() == 0 for p in found):
                return False
    for i, j in itertools.combinations(range(len(branches)), 2):
        both = powers_of(i, j)
        if not any(value(branches[i], both, k).gcd(value(branches[j], both, k)).degree() == 0 for k in _SEPARATORS):
            return False
    return True


def _attained(rows: Any, powers: Sequence[tuple[_Plane, int]], theta: Fraction, arc: Any) -> bool:
    """The exponent is no less: along an arc, or at the points of a critical branch."""
    if any(i >= 2 and theta == 1 - Fraction(1, i) and _has_branch(h) for h, i in powers):
        return True
    if not isinstance(arc, Mapping) or not {"theta", "terms"} <= set(arc):
        return False
    return Fraction(arc["theta"]) >= theta and _plane(arc["terms"]) == _plane(rows) and check_arc.check(arc)
