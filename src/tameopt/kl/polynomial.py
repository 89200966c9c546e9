"""Polynomials with rational coefficients, read from a string or a sympy expression."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Exponents = tuple[int, ...]
Terms = dict[Exponents, Fraction]
_LARGEST_DEGREE = 200


@dataclass(frozen=True)
class Polynomial:
    """sum of terms[e] * prod variables^e, coefficients exact; variables sorted by name."""

    variables: tuple[str, ...]
    terms: Mapping[Exponents, Fraction]

    @property
    def degree(self) -> int:
        """Total degree, -1 for 0."""
        return max((sum(e) for e in self.terms), default=-1)

    def __repr__(self) -> str:
        parts = []
        for e, c in sorted(self.terms.items(), reverse=True):
            powers = "*".join(f"{v}**{k}" if k > 1 else v for v, k in zip(self.variables, e, strict=True) if k)
            parts.append(f"{c}" if not powers else powers if c == 1 else f"{c}*{powers}")
        return " + ".join(parts) or "0"

    def derivative(self, j: int) -> Polynomial:
        """The derivative in the j-th variable."""
        return Polynomial(
            self.variables,
            {(*e[:j], e[j] - 1, *e[j + 1 :]): c * e[j] for e, c in self.terms.items() if e[j]},
        )

    def __call__(self, point: Sequence[Any]) -> Any:
        """The value at a point of numbers that multiply with Fractions (Fractions, floats, mpmath)."""
        total: Any = 0
        for e, c in self.terms.items():
            term: Any = c
            for number, power in zip(point, e, strict=True):
                term = term * number**power
            total = total + term
        return total

    def shifted(self, point: Sequence[Fraction]) -> Polynomial:
        """The polynomial in the displacement from a point."""
        result: Terms = {}
        for e, c in self.terms.items():
            product: Terms = {(0,) * len(e): c}
            for j, (power, a) in enumerate(zip(e, point, strict=True)):
                unit = tuple(int(i == j) for i in range(len(e)))
                linear = {unit: Fraction(1), (0,) * len(e): a} if a else {unit: Fraction(1)}
                for _ in range(power):
                    product = multiply(product, linear)
            result = add(result, product)
        return Polynomial(self.variables, result)


def add(left: Mapping[Exponents, Fraction], right: Mapping[Exponents, Fraction], factor: int = 1) -> Terms:
    """left + factor * right, without zeros."""
    result = dict(left)
    for e, c in right.items():
        total = result.get(e, Fraction(0)) + factor * c
        if total:
            result[e] = total
        else:
            result.pop(e, None)
    return result


def multiply(left: Mapping[Exponents, Fraction], right: Mapping[Exponents, Fraction]) -> Terms:
    """The product, without zeros."""
    result: Terms = {}
    for e, c in left.items():
        for f, d in right.items():
            key = tuple(a + b for a, b in zip(e, f, strict=True))
            result[key] = result.get(key, Fraction(0)) + c * d
    return {e: c for e, c in result.items() if c}


def polynomial(source: Any) -> Polynomial:
    """Read a polynomial: a string such as "(x - y**2)**2 + x**4" (also with ^), or a sympy expression.

    Decimal numbers in a string are taken exactly (0.1 is 1/10).

    Raises ValueError saying what is no polynomial, TypeError for other objects.

    >>> polynomial("(x - y)^2")
    x**2 + -2*x*y + y**2
    """
    if isinstance(source, Polynomial):
        return source
    if isinstance(source, str):
        return _from_string(source)
    if type(source).__module__.startswith("sympy"):
        return _from_sympy(source)
    raise TypeError(f"a polynomial must be a string or a sympy expression, got {type(source).__name__}.")


def _from_sympy(expression: Any) -> Polynomial:
    import sympy

    symbols = sorted(expression.free_symbols, key=lambda symbol: symbol.name)
    if not symbols:
        raise ValueError(f"a polynomial must have a variable, {expression} has none.")
    try:
        poly = sympy.Poly(sympy.nsimplify(expression, rational=True), *symbols, domain="QQ")
    except (sympy.PolynomialError, sympy.CoercionFailed) as error:
        raise ValueError(f"{expression} must be a polynomial with rational coefficients: {error}.") from error
    terms = {tuple(e): Fraction(int(c.p), int(c.q)) for e, c in poly.terms() if c != 0}
    return Polynomial(tuple(symbol.name for symbol in symbols), terms)


def _from_string(text: str) -> Polynomial:
    try:
        tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"a polynomial must be an expression such as 'x**2 + y**4', got {text!r}.") from error
    names = tuple(sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}))
    if not names:
        raise ValueError(f"a polynomial must have a variable, {text!r} has none.")
    return Polynomial(names, _read(tree, names, text))


def _read(node: ast.expr, names: tuple[str, ...], text: str) -> Terms:
    zero = (0,) * len(names)
    if isinstance(node, ast.Name):
        return {tuple(int(name == node.id) for name in names): Fraction(1)}
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        number = Fraction(ast.get_source_segment(text.replace("^", "**").strip(), node) or str(node.value))
        return {zero: number} if number else {}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _read(node.operand, names, text)
        return {e: -c for e, c in inner.items()} if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _read(node.left, names, text), _read(node.right, names, text)
        if isinstance(node.op, ast.Add):
            return add(left, right)
        if isinstance(node.op, ast.Sub):
            return add(left, right, -1)
        if isinstance(node.op, ast.Mult):
            return multiply(left, right)
        if isinstance(node.op, ast.Div) and set(right) == {zero}:
            return {e: c / right[zero] for e, c in left.items()}
        if isinstance(node.op, ast.Pow) and (not right or set(right) == {zero}):
            power = right.get(zero, Fraction(0))
            if power.denominator != 1 or not 0 <= power <= _LARGEST_DEGREE:
                raise ValueError(f"powers must be integers from 0 to {_LARGEST_DEGREE}, got {power} in {text!r}.")
            result: Terms = {zero: Fraction(1)}
            for _ in range(int(power)):
                result = multiply(result, left)
            return result
    raise ValueError(f"only + - * / and powers of variables and numbers make a polynomial, got {text!r}.")
