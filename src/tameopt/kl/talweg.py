"""The talweg curve det(H grad f, grad f) = 0 of a function of two variables: the claim that no branch is missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tameopt.extras import require
from tameopt.kl.polynomial import Polynomial, add, multiply
from tameopt.kl.puiseux import HalfBranch

Plane = dict[tuple[int, int], Fraction]


def rows(f: Polynomial) -> list[Any]:
    """Terms as a certificate holds them."""
    return [[list(e), str(c)] for e, c in sorted(f.terms.items())]


def talweg(f: Polynomial) -> tuple[dict[Any, Fraction], dict[Any, Fraction]]:
    """det(H grad f, grad f) and norm(grad f)^2 of a function of two variables."""
    fx, fy = f.derivative(0), f.derivative(1)
    fxx, fxy, fyy = fx.derivative(0).terms, fx.derivative(1).terms, fy.derivative(1).terms
    a = add(multiply(fxx, fx.terms), multiply(fxy, fy.terms))
    b = add(multiply(fxy, fx.terms), multiply(fyy, fy.terms))
    determinant = add(multiply(a, fy.terms), multiply(b, fx.terms), -1)
    return determinant, add(multiply(fx.terms, fx.terms), multiply(fy.terms, fy.terms))


def to_flint(source: Polynomial | Mapping[Any, Fraction]) -> Any:
    """A polynomial, or terms in (x, y), in flint."""
    flint = require("flint", "exact KL exponents")
    terms = source.terms if isinstance(source, Polynomial) else source
    names = source.variables if isinstance(source, Polynomial) else ("x", "y")
    context = flint.fmpq_mpoly_ctx.get(names, flint.Ordering.lex)
    return context.from_dict({e: flint.fmpq(c.numerator, c.denominator) for e, c in terms.items()})


def from_flint(poly: Any) -> dict[Any, Fraction]:
    return {tuple(int(i) for i in e): Fraction(int(c.p), int(c.q)) for e, c in poly.to_dict().items()}


def factors(terms: Any) -> list[tuple[dict[tuple[int, int], Fraction], int]]:
    """The irreducible factors over Q with their multiplicities."""
    return [(from_flint(factor), int(power)) for factor, power in to_flint(terms).factor()[1]]


def without(terms: Any, others: Sequence[Any]) -> list[dict[tuple[int, int], Fraction]]:
    """The irreducible factors of a polynomial that divide none of the others."""
    rest = [to_flint(other) for other in others]
    return [
        from_flint(factor)
        for factor, _ in to_flint(terms).factor()[1]
        if all(other.gcd(factor).total_degree() == 0 for other in rest)
    ]


def talweg_claim(
    f: Polynomial,
    determinant: Mapping[Any, Fraction],
    squared: Mapping[Any, Fraction],
    branches: Sequence[HalfBranch],
    arc: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What `check_talweg` replays besides terms and theta.

    determinant, squared: of `talweg`, the first not 0; branches: the real half-branches of its factors that divide
    neither f nor squared; arc: a claim of `check_arc`, or None where theta is that of a critical branch.
    """
    whole, own = to_flint(determinant), {"f": to_flint(f.terms), "g": to_flint(squared)}
    content, found = whole.factor()
    curve = to_flint({(0, 0): Fraction(int(content.p), int(content.q))})
    kept = [factor for factor, _ in found if all(other.gcd(factor).total_degree() == 0 for other in own.values())]
    for factor in kept:
        curve = curve * factor
    own["P"] = curve
    others = []
    for factor, power in found:
        if factor in kept:
            whose, times = "P", int(power) - 1
        else:
            whose, times = next(name for name in "fg" if own[name].gcd(factor).total_degree() > 0), int(power)
        others += [[_plain(factor), whose, _plain(own[whose] / factor)]] * times
    content, found = own["f"].factor()
    powers = [[_plain(factor), int(power)] for factor, power in found]
    powers.append([[[[0, 0], str(Fraction(int(content.p), int(content.q)))]], 1])
    return {
        "powers": powers, "talweg": _plain(curve), "others": others,
        "branches": [_listed(branch) for branch in branches if branch.side != "x = 0"], "arc": arc,
    }  # fmt: skip


def _plain(poly: Any) -> list[Any]:
    return [[list(e), str(c)] for e, c in sorted(from_flint(poly).items())]


def _listed(branch: HalfBranch) -> dict[str, Any]:
    return {
        "side": 1 if branch.side == "x > 0" else -1, "ramification": branch.ramification,
        "modulus": [str(c) for c in branch.modulus.coeffs()],
        "elements": [[e, [str(c) for c in element.coeffs()]] for e, element in branch.elements],
    }  # fmt: skip
