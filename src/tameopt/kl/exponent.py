"""KL exponents of polynomials: the least theta with norm(grad f) >= c abs(f - f*)^theta near a point.

One variable: f = a x^l + ... gives 1 - 1/l. Two variables: where norm(grad f) is least on a level set inside a ball,
H grad f is parallel to grad f, so the minimisers lie on the talweg curve det(H grad f, grad f) = 0, or run off to a
branch of critical points. By the curve selection lemma the exponent is the largest of
ord(norm(grad f)) / ord(f) over the real half-branches of the talweg curve at the point with f != f*, and of 1 - 1/l
over the real branches of zeros of f of multiplicity l >= 2 (points of such a branch have that exponent, and lie in
every neighbourhood). More variables: calculus rules where they apply, else bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.evidence import Certificate, Verdict, combine
from tameopt.extras import require
from tameopt.kl.polynomial import Polynomial, Terms, add, multiply, polynomial
from tameopt.kl.puiseux import HalfBranch, UndecidedBranchError, half_branches, ratio_of


@dataclass(frozen=True)
class Exponent:
    """The KL exponent of a function at a point.

    theta: exact, or None when only bounds are known; lower, upper: what is certain (equal when theta is).
    verdict: PROVED when a separate checker confirmed it (one variable); MEASURED when theta was computed exactly, in
    rational and algebraic numbers, by algebra that no second program replays; UNKNOWN when only bounds are known.
    witness: the arc on which theta is attained; rule: how it was found.
    """

    theta: Fraction | None
    lower: Fraction
    upper: Fraction
    verdict: Verdict
    witness: str
    rule: str
    branches: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if self.theta is None:
            return f"Exponent(between {self.lower} and {self.upper}: {self.rule})"
        return f"Exponent({self.theta}, {self.verdict}; {self.witness})"


def bound(degree: int, variables: int, *, isolated: bool = False) -> Fraction:
    """The a-priori bound on the exponent of any polynomial of that degree.

    D'Acunto and Kurdyka 2005: theta <= 1 - 1/(d (3d-3)^(n-1)); for an isolated zero Gwozdziewicz 1999:
    theta <= 1 - 1/((d-1)^n + 1).

    Raises ValueError unless degree >= 1 and variables >= 1.

    >>> bound(4, 1), bound(4, 2), bound(4, 2, isolated=True)
    (Fraction(3, 4), Fraction(35, 36), Fraction(9, 10))
    """
    if degree < 1 or variables < 1:
        raise ValueError(f"degree and variables must be at least 1, got {degree} and {variables}.")
    if degree == 1:
        return Fraction(0)
    general = 1 - Fraction(1, degree * (3 * degree - 3) ** (variables - 1))
    if not isolated:
        return general
    return min(general, 1 - Fraction(1, (degree - 1) ** variables + 1))


def exponent(source: Any, at: Sequence[Any] | None = None) -> Exponent:
    """The KL exponent of a polynomial at a point.

    source: a string such as "(x - y**2)**2 + x**4", or a sympy expression. at: the point in the order of the sorted
    variables (integers, Fractions, strings such as "1/3"; a float counts as the rational it is); the origin by
    default.

    Raises ValueError for what is no polynomial, a constant, or a point of the wrong length.

    >>> exponent("x**4 + y**6").theta
    Fraction(5, 6)
    """
    given = polynomial(source)
    n = len(given.variables)
    point = [Fraction(0)] * n if at is None else [Fraction(number) for number in at]
    if len(point) != n:
        raise ValueError(f"the point must have {n} coordinates ({', '.join(given.variables)}), got {len(point)}.")
    f = given.shifted(point)
    zero = (0,) * n
    f = Polynomial(f.variables, {e: c for e, c in f.terms.items() if e != zero})
    if not f.terms:
        raise ValueError(f"the polynomial must not be constant, {source!r} is.")
    return _of_germ(f)


def _of_germ(f: Polynomial) -> Exponent:
    """The exponent at the origin of f with f(0) = 0."""
    multiplicity = min(sum(e) for e in f.terms)
    if multiplicity == 1:
        zero = Fraction(0)
        return Exponent(zero, zero, zero, Verdict.MEASURED, "the point is not critical", "grad f != 0")
    used = [j for j in range(len(f.variables)) if any(e[j] for e in f.terms)]
    f = Polynomial(tuple(f.variables[j] for j in used), {tuple(e[j] for j in used): c for e, c in f.terms.items()})
    n = len(f.variables)
    if n == 1:
        theta = 1 - Fraction(1, multiplicity)
        witness = f"{f.variables[0]} = t, f = t^{multiplicity} (...)"
        data = {"coefficients": {str(e[0]): str(c) for e, c in f.terms.items()}, "theta": str(theta)}
        replayed = Certificate("tameopt.kl.check_exponent:check", data).replay()
        verdict = Verdict.PROVED if replayed else Verdict.UNKNOWN
        return Exponent(theta, theta, theta, verdict, witness, "multiplicity of the zero")
    blocks = _separate(f)
    if len(blocks) > 1:
        parts = [_of_germ(block) for block in blocks]
        return _largest(parts, "a sum over separate variables has the largest exponent of its parts")
    if len(f.terms) == 1:
        ((e, _),) = f.terms.items()
        theta = 1 - Fraction(1, sum(e))
        return Exponent(theta, theta, theta, Verdict.MEASURED, f"all variables = t, f = t^{sum(e)}", "a monomial")
    if n == 2:
        return _bivariate(f)
    return _many(f, multiplicity)


def _separate(f: Polynomial) -> list[Polynomial]:
    """The parts of f in groups of variables that no term mixes."""
    groups: list[set[int]] = []
    for e in f.terms:
        together = {j for j, power in enumerate(e) if power}
        rest = []
        for group in groups:
            if group & together:
                together |= group
            else:
                rest.append(group)
        groups = [*rest, together]
    return [
        Polynomial(
            f.variables, {e: c for e, c in f.terms.items() if {j for j, power in enumerate(e) if power} <= group}
        )
        for group in groups
    ]


def _largest(parts: list[Exponent], rule: str) -> Exponent:
    lower, upper = max(part.lower for part in parts), max(part.upper for part in parts)
    best = max(parts, key=lambda part: part.lower)
    theta = lower if lower == upper else None
    verdict = Verdict.UNKNOWN if theta is None else combine([Verdict.MEASURED, *(part.verdict for part in parts)])
    return Exponent(theta, lower, upper, verdict, best.witness, rule)


def _talweg(f: Polynomial) -> tuple[dict[Any, Fraction], dict[Any, Fraction]]:
    """det(H grad f, grad f) and norm(grad f)^2 of a function of two variables."""
    fx, fy = f.derivative(0), f.derivative(1)
    fxx, fxy, fyy = fx.derivative(0).terms, fx.derivative(1).terms, fy.derivative(1).terms
    a = add(multiply(fxx, fx.terms), multiply(fxy, fy.terms))
    b = add(multiply(fxy, fx.terms), multiply(fyy, fy.terms))
    determinant = add(multiply(a, fy.terms), multiply(b, fx.terms), -1)
    return determinant, add(multiply(fx.terms, fx.terms), multiply(fy.terms, fy.terms))


def _bivariate(f: Polynomial) -> Exponent:
    determinant, squared = _talweg(f)
    lower = 1 - Fraction(1, min(sum(e) for e in f.terms))
    upper = bound(f.degree, 2)
    candidates: list[tuple[Fraction, str]] = []
    try:
        for factor, power in _factors(f.terms):
            if power >= 2 and any(half_branches(factor, ())):
                name = Polynomial(f.variables, _terms(factor))
                candidates.append(
                    (1 - Fraction(1, power), f"critical branch {name} = 0, where f vanishes {power}-fold")
                )
        if determinant:
            for factor in _without(determinant, [f.terms, squared]):
                branches = half_branches(factor, (_pairs(f.terms), squared))
                candidates += [(ratio_of(branch), _named(branch, f.variables)) for branch in branches]
        else:
            candidates += _along_lines(f, squared)
    except UndecidedBranchError as error:
        return Exponent(None, max([lower, *(c for c, _ in candidates)]), upper, Verdict.UNKNOWN, "", str(error))
    if not candidates:
        return Exponent(None, lower, upper, Verdict.UNKNOWN, "", "no real branch of the talweg curve was found")
    theta, witness = max(candidates)
    listed = tuple(f"{ratio}: {words}" for ratio, words in sorted(candidates, reverse=True))
    return Exponent(theta, theta, theta, Verdict.MEASURED, witness, "real branches of the talweg curve", listed)


def _pairs(terms: Mapping[Any, Fraction]) -> dict[tuple[int, int], Fraction]:
    return {(e[0], e[1]): c for e, c in terms.items()}


def _terms(pairs: Mapping[tuple[int, int], Fraction]) -> Terms:
    return {(i, j): c for (i, j), c in pairs.items()}


def _named(branch: HalfBranch, variables: Sequence[str]) -> str:
    x, y = variables
    return str(branch).replace("x", "\0").replace("y", y).replace("\0", x)


def _along_lines(f: Polynomial, squared: dict[Any, Fraction]) -> list[tuple[Fraction, str]]:
    """Ratios along lines, for functions whose gradient norm is a function of f itself (the talweg is the plane)."""
    found = []
    for a, b in ((1, 0), (0, 1), (1, 1), (1, 2), (2, -1)):
        orders = []
        for terms in (f.terms, squared):
            along: dict[int, Fraction] = {}
            for (i, j), c in terms.items():
                along[i + j] = along.get(i + j, Fraction(0)) + c * a**i * b**j
            orders.append(min((k for k, c in along.items() if c), default=0))
        if all(orders):
            x, y = f.variables
            found.append((Fraction(orders[1], 2 * orders[0]), f"the line ({x}, {y}) = ({a}t, {b}t)"))
    return found


def _context() -> Any:
    flint = require("flint", "exact KL exponents")
    return flint.fmpq_mpoly_ctx.get(("x", "y"), flint.Ordering.lex)


def _to_flint(terms: Any) -> Any:
    flint = require("flint", "exact KL exponents")
    return _context().from_dict({e: flint.fmpq(c.numerator, c.denominator) for e, c in terms.items()})


def _from_flint(poly: Any) -> dict[tuple[int, int], Fraction]:
    return {(int(i), int(j)): Fraction(int(c.p), int(c.q)) for (i, j), c in poly.to_dict().items()}


def _factors(terms: Any) -> list[tuple[dict[tuple[int, int], Fraction], int]]:
    """The irreducible factors over Q with their multiplicities."""
    return [(_from_flint(factor), int(power)) for factor, power in _to_flint(terms).factor()[1]]


def _without(terms: Any, others: Sequence[Any]) -> list[dict[tuple[int, int], Fraction]]:
    """The irreducible factors of a polynomial that divide none of the others."""
    rest = [_to_flint(other) for other in others]
    return [
        _from_flint(factor)
        for factor, _ in _to_flint(terms).factor()[1]
        if all(other.gcd(factor).total_degree() == 0 for other in rest)
    ]


def _many(f: Polynomial, multiplicity: int) -> Exponent:
    """Three and more variables: a nondegenerate Hessian, else what is certain."""
    n = len(f.variables)
    lower, upper = 1 - Fraction(1, multiplicity), bound(f.degree, n)
    if multiplicity == 2:
        flint = require("flint", "exact KL exponents")
        hessian = flint.fmpq_mat(n, n)
        for e, c in f.terms.items():
            if sum(e) == 2:
                i, j = [k for k, power in enumerate(e) for _ in range(power)]
                hessian[i, j] += flint.fmpq(c.numerator, c.denominator)
                hessian[j, i] += flint.fmpq(c.numerator, c.denominator)
        if hessian.det() != 0:
            half = Fraction(1, 2)
            return Exponent(half, half, half, Verdict.MEASURED, "any line", "nondegenerate Hessian (Morse lemma)")
    return Exponent(None, lower, upper, Verdict.UNKNOWN, "", "three or more variables and no rule applies")
