"""Lower bounds of an exponent from arcs: along x = gamma(t), theta >= ord(grad f)/ord(f), in exact arithmetic."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

from tameopt.kl.polynomial import Polynomial
from tameopt.kl.puiseux import HalfBranch, root_between

_MOST_ARCS = 4000  # our choice: a second or so


def _order(f: Polynomial, coefficients: tuple[int, ...], weights: tuple[int, ...]) -> int | None:
    """The order of f(c_1 t^w_1, ...) in t; None when it vanishes."""
    sums: dict[int, Fraction] = {}
    for e, c in f.terms.items():
        factor, power = c, 0
        for a, w, k in zip(coefficients, weights, e, strict=True):
            if k:
                if not a:
                    factor = Fraction(0)
                    break
                factor, power = factor * a**k, power + w * k
        if factor:
            sums[power] = sums.get(power, Fraction(0)) + factor
    return min((power for power, total in sums.items() if total), default=None)


def monomial_arcs(f: Polynomial) -> tuple[Fraction, str]:
    """The best ord(grad f)/ord(f) over arcs (c_1 t^w_1, ..., c_n t^w_n), c_i in {0, 1, -1}, w_i in {1, 2, 3}, and
    the arc.

    A lower bound of the exponent by an exact witness; 0 and "" when every arc is critical or f vanishes on it.
    """
    n = len(f.variables)
    slopes = [f.derivative(j) for j in range(n)]
    best, words = Fraction(0), ""
    every = itertools.product(itertools.product((0, 1, -1), repeat=n), itertools.product((1, 2, 3), repeat=n))
    for coefficients, weights in itertools.islice(every, _MOST_ARCS):
        if not any(coefficients) or any(w > 1 and not a for a, w in zip(coefficients, weights, strict=True)):
            continue
        order = _order(f, coefficients, weights)
        if order is None:
            continue
        found = [o for o in (_order(g, coefficients, weights) for g in slopes) if o is not None]
        if found and Fraction(min(found), order) > best:
            best = Fraction(min(found), order)
            words = ", ".join(
                f"{v} = {'-' if a < 0 else ''}t^{w}" if a else f"{v} = 0"
                for v, a, w in zip(f.variables, coefficients, weights, strict=True)
            )
    return best, words


def arc_claim(rows: list[Any], theta: Fraction, branch: HalfBranch) -> dict[str, Any]:
    """What `check_arc` replays: the exponent is at least theta, along this branch of a function of two variables.

    rows: its terms as certificates hold them.
    """
    one = ["1"]
    if branch.side == "x = 0":
        arc: list[Any] = [[], [[1, one]]]
        modulus, between = ["0", "1"], []
    else:
        arc = [
            [[branch.ramification, one if branch.side == "x > 0" else ["-1"]]],
            [[e, [str(c) for c in element.coeffs()]] for e, element in branch.elements],
        ]
        modulus, between = [str(c) for c in branch.modulus.coeffs()], root_between(branch.modulus)
    return {
        "terms": rows, "theta": str(theta), "modulus": modulus, "arc": arc,
        "between": [str(end) for end in between],
    }  # fmt: skip


def along_lines(f: Polynomial, squared: dict[Any, Fraction]) -> list[tuple[Fraction, str]]:
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
