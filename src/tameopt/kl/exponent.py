"""KL exponents of polynomials: the least theta with norm(grad f) >= c abs(f - f*)^theta near a point.

One variable: f = a x^l + ... gives 1 - 1/l. Two variables: where norm(grad f) is least on a level set inside a ball,
H grad f is parallel to grad f, so the minimisers lie on the talweg curve det(H grad f, grad f) = 0, or run off to a
branch of critical points. By the curve selection lemma the exponent is the largest of
ord(norm(grad f)) / ord(f) over the real half-branches of the talweg curve at the point with f != f*, and of 1 - 1/l
over the real branches of zeros of f of multiplicity l >= 2 (points of such a branch have that exponent, and lie in
every neighbourhood). More variables: calculus rules where they apply, else bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from tameopt.evidence import Certificate, Verdict
from tameopt.extras import require
from tameopt.kl.arcs import along_lines, arc_claim, monomial_arcs
from tameopt.kl.level_sets import LAST_LEVEL, simplest, worst_arc
from tameopt.kl.piecewise import by_pieces, has_kinks
from tameopt.kl.polynomial import Polynomial, Terms, polynomial
from tameopt.kl.puiseux import HalfBranch, UndecidedBranchError, half_branches, ratio_of
from tameopt.kl.splitting import hessian, residual, split
from tameopt.kl.talweg import factors, from_flint, rows, talweg, talweg_claim, to_flint, without

_REPLAYED = 12  # our choice: the count of half-branches takes seconds up to there, and up to minutes at 15


@dataclass(frozen=True)
class Exponent:
    """The KL exponent of a function at a point.

    theta: a rational, or None when only bounds are known; lower, upper: what is certain (equal when theta is exact).
    verdict: PROVED when a separate checker replayed the rule (`claim` is what it was given); MEASURED when theta was
    computed exactly, in rational and algebraic numbers, by algebra that no second program replays, or (lower < upper)
    from slopes in high precision; UNKNOWN when only bounds are known.
    witness: the arc on which theta is attained; rule: how it was found. lower_claim: an arc by which `check_arc` has
    replayed, in rational arithmetic, that the exponent is at least `lower`; None where nothing replays that.
    """

    theta: Fraction | None
    lower: Fraction
    upper: Fraction
    verdict: Verdict
    witness: str
    rule: str
    branches: tuple[str, ...] = ()
    claim: Mapping[str, Any] | None = field(default=None, repr=False)
    lower_claim: Mapping[str, Any] | None = field(default=None, repr=False)

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
    """The KL exponent of a polynomial, or of a piecewise polynomial, at a point.

    source: a string such as "(x - y**2)**2 + x**4" or "abs(x) + max(0, y)**2" (with the Clarke subdifferential in the
    place of the gradient), or a sympy expression. at: the point in the order of the sorted
    variables (integers, Fractions, strings such as "1/3"; a float counts as the rational it is); the origin by
    default.

    Raises ValueError for what is no polynomial, a constant, or a point of the wrong length.

    >>> exponent("x**4 + y**6").theta
    Fraction(5, 6)
    """
    if has_kinks(source):
        return _of_pieces(str(source), at)
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


def _of_pieces(text: str, at: Sequence[Any] | None) -> Exponent:
    found = by_pieces(text, at)
    if found.theta is None or found.claim is None:
        return Exponent(None, Fraction(0), Fraction(1), Verdict.UNKNOWN, "", found.words)
    proved = Certificate("tameopt.kl.check_pieces:check", found.claim).replay()
    verdict = Verdict.PROVED if proved else Verdict.MEASURED
    return Exponent(
        found.theta,
        found.theta,
        found.theta,
        verdict,
        found.witness,
        found.words,
        claim=found.claim if proved else None,
    )


def _of_germ(f: Polynomial) -> Exponent:
    """The exponent at the origin of f with f(0) = 0: the first rule that applies."""
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
        return _replayed(f, "one variable", theta, witness, "multiplicity of the zero")
    blocks = _separate(f)
    if len(blocks) > 1:
        return _largest(f, [_of_germ(block) for block in blocks])
    if len(f.terms) == 1:
        ((e, _),) = f.terms.items()
        return _replayed(f, "monomial", 1 - Fraction(1, sum(e)), f"all variables = t, f = t^{sum(e)}", "a monomial")
    powered = _as_power(f)
    if powered is not None:
        return powered
    if multiplicity == 2:
        quadratic = _quadratic(f)
        if quadratic is not None:
            return quadratic
    return _bivariate(f) if n == 2 else _many(f, multiplicity)


def _replayed(f: Polynomial, rule: str, theta: Fraction, witness: str, words: str, **data: Any) -> Exponent:
    """An exact exponent, PROVED when the checker replays its claim, MEASURED when it does not."""
    claim = {"rule": rule, "terms": rows(f), "theta": str(theta), **data}
    proved = Certificate("tameopt.kl.check_exponent:check", claim).replay()
    verdict = Verdict.PROVED if proved else Verdict.MEASURED
    return Exponent(theta, theta, theta, verdict, witness, words, claim=claim if proved else None)


def _as_power(f: Polynomial) -> Exponent | None:
    """f = unit * h^l near the point: theta = 1 - (1 - theta_h)/l. None when that says nothing new."""
    content, parts = to_flint(f).factor()
    zero = (0,) * len(f.variables)
    vanishing = [(factor, int(power)) for factor, power in parts if zero not in factor.to_dict()]
    power = math.gcd(*(m for _, m in vanishing))
    unit, h = to_flint(Polynomial(f.variables, {zero: Fraction(int(content.p), int(content.q))})), None
    for factor, m in parts:
        if zero in factor.to_dict():
            unit = unit * factor**m
    for factor, m in vanishing:
        h = factor ** (m // power) if h is None else h * factor ** (m // power)
    if h is None or (power == 1 and unit.total_degree() <= 0):
        return None
    base = Polynomial(f.variables, from_flint(h))
    inner = _of_germ(base)
    if inner.theta is None:
        low, high = (1 - (1 - bound) / power for bound in (inner.lower, inner.upper))
        return Exponent(None, low, high, Verdict.UNKNOWN, "", inner.rule)
    theta = 1 - (1 - inner.theta) / power
    words = f"the {power}th power of a function with exponent {inner.theta}, up to a factor that is not 0 there"
    regular = min(sum(e) for e in base.terms) == 1
    if inner.lower != inner.upper:
        low, high = (1 - (1 - bound) / power for bound in (inner.lower, inner.upper))
        return replace(
            inner, theta=theta, lower=low, upper=high, rule=f"{words}; {inner.rule}", claim=None, lower_claim=None
        )
    if not regular and inner.claim is None:
        return Exponent(theta, theta, theta, Verdict.MEASURED, inner.witness, words, inner.branches)
    own = {"terms": rows(base), "theta": "0"} if regular else _within(inner.claim or {}, base)
    unit_rows = rows(Polynomial(f.variables, from_flint(unit)))
    return _replayed(f, "power", theta, inner.witness, words, base=own, unit=unit_rows, power=power)


def _within(claim: Mapping[str, Any], f: Polynomial) -> Mapping[str, Any]:
    """A claim about f in the variables that f has, with their places among all of f's."""
    return {"places": [j for j in range(len(f.variables)) if any(e[j] for e in f.terms)], "claim": claim}


def _quadratic(f: Polynomial) -> Exponent | None:
    """A Hessian of full rank, or of corank 1."""
    H = hessian(f)
    flint = require("flint", "exact KL exponents")
    n = len(H)
    matrix = flint.fmpq_mat(n, n, [flint.fmpq(c.numerator, c.denominator) for row in H for c in row])
    if matrix.det() != 0:
        return _replayed(f, "nondegenerate", Fraction(1, 2), "any line", "nondegenerate Hessian (Morse lemma)")
    found = split(f)
    if found is None:
        return _of_residual(f)
    if found.order is None:
        theta, words = Fraction(1, 2), "a curve of minima or saddles, nondegenerate across it (Morse-Bott)"
        witness = "any line across the curve of critical points"
    else:
        theta = 1 - Fraction(1, found.order)
        words = "a Hessian of corank 1 (splitting lemma)"
        direction = ", ".join(str(c) for c in found.basis[0])
        witness = (
            f"the curve through 0 along ({direction}) where f is critical across it: f = c t^{found.order} + ..."
        )
    data = {
        "basis": [[str(c) for c in row] for row in found.basis],
        "series": [[str(c) for c in row] for row in found.series],
    }
    return _replayed(f, "corank one", theta, witness, words, **data)


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


def _of_residual(f: Polynomial) -> Exponent | None:
    """A Hessian of corank 2 or more, not 0: the exponent of the residual, whose terms are known up to a degree."""
    left = residual(f)
    if left is None:
        return None
    g, degree = left
    half = Fraction(1, 2)
    upper = bound(f.degree, len(f.variables))
    if not g.terms:
        words = f"nothing is left of f up to degree {degree} where its Hessian vanishes"
        return Exponent(None, half, upper, Verdict.UNKNOWN, "", words)
    inner = _of_germ(g)
    words = (
        f"in {', '.join(g.variables)}, what the nondegenerate directions leave, up to degree {degree}: {inner.rule}"
    )
    lower = max(half, 1 - Fraction(1, min(sum(e) for e in g.terms)))
    if inner.theta is None:
        return Exponent(None, lower, upper, Verdict.UNKNOWN, "", words)
    return Exponent(max(inner.theta, half), lower, upper, Verdict.MEASURED, inner.witness, words)


def _largest(f: Polynomial, parts: list[Exponent]) -> Exponent:
    rule = "a sum over separate variables has the largest exponent of its parts"
    lower, upper = max(part.lower for part in parts), max(part.upper for part in parts)
    best = max(parts, key=lambda part: part.lower if part.theta is None else part.theta)
    if any(part.theta is None for part in parts):
        return Exponent(None, lower, upper, Verdict.UNKNOWN, best.witness, rule)
    theta = max(part.theta for part in parts if part.theta is not None)
    if lower != upper or any(part.claim is None for part in parts):
        return Exponent(theta, lower, upper, Verdict.MEASURED, best.witness, rule)
    claims = [_within(part.claim or {}, block) for part, block in zip(parts, _separate(f), strict=True)]
    return _replayed(f, "sum", theta, best.witness, rule, parts=claims)


def _bivariate(f: Polynomial) -> Exponent:
    determinant, squared = talweg(f)
    lower = 1 - Fraction(1, min(sum(e) for e in f.terms))
    upper = bound(f.degree, 2)
    candidates: list[tuple[Fraction, str]] = []
    arcs: dict[str, HalfBranch] = {}
    every: list[HalfBranch] = []
    try:
        for factor, power in factors(f.terms):
            if power >= 2 and any(half_branches(factor, ())):
                name = Polynomial(f.variables, _terms(factor))
                candidates.append(
                    (1 - Fraction(1, power), f"critical branch {name} = 0, where f vanishes {power}-fold")
                )
        if determinant:
            for factor in without(determinant, [f.terms, squared]):
                branches = half_branches(factor, (_pairs(f.terms), squared))
                every += branches
                arcs |= {_named(branch, f.variables): branch for branch in branches}
                candidates += [(ratio_of(branch), _named(branch, f.variables)) for branch in branches]
        else:
            candidates += along_lines(f, squared)
    except UndecidedBranchError as error:
        return Exponent(None, max([lower, *(c for c, _ in candidates)]), upper, Verdict.UNKNOWN, "", str(error))
    if not candidates:
        return Exponent(None, lower, upper, Verdict.UNKNOWN, "", "no real branch of the talweg curve was found")
    theta, witness = max(candidates)
    listed = tuple(f"{ratio}: {words}" for ratio, words in sorted(candidates, reverse=True))
    # several branches may attain it; one that replays is enough
    claims = (
        arc_claim(rows(f), theta, arcs[words]) for ratio, words in candidates if ratio == theta and words in arcs
    )
    replayed = next((one for one in claims if Certificate("tameopt.kl.check_arc:check", one).replay()), None)
    if determinant and f.degree <= _REPLAYED:
        words = "real branches of the talweg curve, counted and replayed"
        claim = talweg_claim(f, determinant, squared, every, replayed)
        found = _replayed(f, "talweg", theta, witness, words, **claim)
        if found.claim is not None:
            return replace(found, branches=listed, lower_claim=replayed)
    rule = "real branches of the talweg curve, by exact algebra that no second program replays"
    if replayed is not None:
        rule += "; that it is no less is replayed along the witness"
    return Exponent(theta, theta, theta, Verdict.MEASURED, witness, rule, listed, lower_claim=replayed)


def _pairs(terms: Mapping[Any, Fraction]) -> dict[tuple[int, int], Fraction]:
    return {(e[0], e[1]): c for e, c in terms.items()}


def _terms(pairs: Mapping[tuple[int, int], Fraction]) -> Terms:
    return {(i, j): c for (i, j), c in pairs.items()}


def _named(branch: HalfBranch, variables: Sequence[str]) -> str:
    x, y = variables
    return str(branch).replace("x", "\0").replace("y", y).replace("\0", x)


def _many(f: Polynomial, multiplicity: int) -> Exponent:
    """Three and more variables: measured on level sets, between rigorous bounds."""
    on_arc, arc_words = monomial_arcs(f)
    lower, upper = max(1 - Fraction(1, multiplicity), on_arc), bound(f.degree, len(f.variables))
    arc, count = worst_arc(f)
    if arc is None:
        return Exponent(None, lower, upper, Verdict.UNKNOWN, arc_words, "no arc of least gradients led to the point")
    error = max(arc.error, 1e-9)
    theta = simplest(arc.slope, error)
    seen = f"largest slope of log norm(grad f) on log abs(f) of {count} arcs: {arc.slope:.9f} +- {error:.1g}"
    if arc.slope <= float(lower) + error:
        witness = arc_words if on_arc == lower else "any line on which the lowest terms do not vanish"
        return Exponent(lower, lower, upper, Verdict.MEASURED, witness, seen)
    if theta is None or theta > upper:
        return Exponent(None, lower, upper, Verdict.UNKNOWN, arc_words, f"{seen}, no simple rational")
    at = ", ".join(f"{v} = {c:.3g}" for v, c in zip(f.variables, arc.point, strict=True))
    witness = f"an arc through ({at}), f = {'-' if arc.sign < 0 else ''}2^-{LAST_LEVEL}"
    return Exponent(theta, lower, upper, Verdict.MEASURED, witness, seen)
