"""Whether linear conditions can hold together, exactly (Fourier 1826; Motzkin 1936)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from tameopt.structure.semialgebraic.formula import Atom
from tameopt.structure.semialgebraic.polynomial import Polynomial

# an inequality sum a_i x_i + b > 0 (strict) or >= 0: ({variable: a_i}, b, strict)
_Row = tuple[dict[str, Fraction], Fraction, bool]
_MOST = 2000  # our choice: rows met in an elimination; past it the conditions count as feasible


def feasible(atoms: Sequence[Atom]) -> bool:
    """False only if the linear ones among these conditions contradict each other over the reals.

    `!=` and nonlinear conditions are left out, so True may be too much.

    >>> from tameopt.structure.semialgebraic.formula import parse
    >>> feasible(parse("x > y and y > z and z >= x").parts), feasible(parse("x > y and y > 0").parts)
    (False, True)
    """
    rows: list[_Row] = []
    for atom in atoms:
        if atom.polynomial.degree > 1 or atom.relation == "!=":
            continue
        strict = atom.relation in ("<", ">")
        if atom.relation in (">", ">=", "="):
            rows.append(_row(atom.polynomial, strict))
        if atom.relation in ("<", "<=", "="):
            rows.append(_row(-atom.polynomial, strict))
    while True:
        if any(not a and (b < 0 or (b == 0 and strict)) for a, b, strict in rows):
            return False
        names = {name for a, _, _ in rows for name in a}
        if not names or len(rows) > _MOST:
            return True
        rows = _without(rows, min(names, key=lambda name: (_products(rows, name), name)))


def _row(polynomial: Polynomial, strict: bool) -> _Row:
    entries: dict[str, Fraction] = {}
    constant = Fraction(0)
    for monomial, value in polynomial.terms:
        if monomial:
            entries[monomial[0][0]] = value
        else:
            constant = value
    return entries, constant, strict


def _products(rows: list[_Row], name: str) -> int:
    above = sum(a.get(name, 0) > 0 for a, _, _ in rows)
    below = sum(a.get(name, 0) < 0 for a, _, _ in rows)
    return above * below - above - below


def _without(rows: list[_Row], name: str) -> list[_Row]:
    """The projection that forgets a variable: every lower bound below every upper bound."""
    kept = [row for row in rows if name not in row[0]]
    lower = [row for row in rows if row[0].get(name, 0) > 0]
    upper = [row for row in rows if row[0].get(name, 0) < 0]
    for a, b, strict in lower:
        for c, d, also in upper:
            left, right = 1 / a[name], -1 / c[name]
            entries = {
                key: value
                for key in {*a, *c} - {name}
                if (value := left * a.get(key, Fraction(0)) + right * c.get(key, Fraction(0)))
            }
            kept.append((entries, left * b + right * d, strict or also))
    return kept
