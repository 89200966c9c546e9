"""Piecewise polynomials: abs, max, min and relu of polynomials, and the rules that give their exponents."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.kl.check_pieces import germ, lasso, separate, sign, summands, variables

_CALLS = re.compile(r"\b(abs|max|min|relu)\s*\(", re.IGNORECASE)
_LASSO = "a convex quadratic with absolute values (Li and Pong 2018; Bolte, Nguyen, Peypouquet and Suter 2017)"


@dataclass(frozen=True)
class Pieces:
    """theta by a rule, with the claim for `check_pieces`; None where no rule applies, with the reason in words."""

    theta: Fraction | None
    words: str
    witness: str = ""
    claim: Mapping[str, Any] | None = None


def has_kinks(source: Any) -> bool:
    """Whether a string or sympy expression calls abs, max, min or relu."""
    written = isinstance(source, str) or type(source).__module__.startswith("sympy")
    return written and bool(_CALLS.search(str(source)))


def by_pieces(text: str, at: Sequence[Any] | None = None) -> Pieces:
    """The exponent of a piecewise polynomial at a point, by the rules of `check_pieces`.

    Raises ValueError for what is no piecewise polynomial, a constant, or a point of the wrong length.
    """
    tree = tree_of(text)
    names = sorted(variables(tree))
    if not names:
        raise ValueError(f"a polynomial must have a variable, {text!r} has none.")
    coordinates = [Fraction(0)] * len(names) if at is None else [Fraction(number) for number in at]
    if len(coordinates) != len(names):
        raise ValueError(
            f"the point must have {len(names)} coordinates ({', '.join(names)}), got {len(coordinates)}."
        )
    point = dict(zip(names, coordinates, strict=True))
    where = {name: str(value) for name, value in point.items()}
    apart = all(len(variables(part)) <= 1 for _, part in summands(tree))
    rule = "separate" if apart else "lasso"
    theta = separate(tree, point) if apart else lasso(tree, point)
    if theta is None and apart:
        raise ValueError(f"the function must not be constant near the point, {text!r} is.")
    if theta is None:
        return Pieces(
            None,
            "piecewise polynomials of several variables have a rule when they are sums of functions of one variable, "
            "or a convex quadratic plus weighted absolute values of coordinates",
        )
    words = "the orders of the pieces on either side" if apart else _LASSO
    witness = _steepest(tree, point) if apart else "a line from the minimiser along which f grows like t^2"
    if theta == 0:
        witness = "no arc: dist(0, subdifferential) stays away from 0 where f != f*"
    return Pieces(theta, words, witness, {"rule": rule, "tree": tree, "point": where, "theta": str(theta)})


def _steepest(tree: Any, point: Mapping[str, Fraction]) -> str:
    """The half line on which f - f* has the largest order, in words."""
    best, words = 0, ""
    for name in sorted(point):
        for side in (-1, 1):
            total: dict[int, Fraction] = {}
            for s, part in summands(tree):
                if name in variables(part):
                    for k, c in enumerate(germ(part, point, side)):
                        total[k] = total.get(k, Fraction(0)) + s * c
            row = [total[k] for k in sorted(total)]
            order = next((k for k, c in enumerate(row) if k and c), 0)
            if order > best and sign(row[1:]):
                best = order
                start = f"{point[name]} " if point[name] else ""
                words = (
                    f"{name} = {start}{'+' if start and side > 0 else '-' if side < 0 else ''}{' ' * bool(start)}t"
                )
                words += f", f - f* = {row[order]} t^{order} + ..."
    return words


def tree_of(text: str) -> Any:
    """A string as the tree of `check_pieces`.

    Raises ValueError for other operations than + - * / ^, abs, max, min and relu.

    >>> tree_of("abs(x) / 2")
    ['*', ['num', '1/2'], ['abs', ['var', 'x']]]
    """
    source = text.replace("^", "**").strip()
    try:
        return _tree(ast.parse(source, mode="eval").body, source)
    except SyntaxError as error:
        raise ValueError(f"a polynomial must be an expression such as 'x**2 + abs(y)', got {text!r}.") from error


def _tree(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return ["var", node.id]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return ["num", str(Fraction(ast.get_source_segment(text, node) or str(node.value)))]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _tree(node.operand, text)
        return ["-", ["num", "0"], inner] if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _tree(node.left, text), _tree(node.right, text)
        number = _number(right)
        kinds = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
        if type(node.op) in kinds:
            return [kinds[type(node.op)], left, right]
        if isinstance(node.op, ast.Div) and number:
            return ["*", ["num", str(1 / number)], left]
        if isinstance(node.op, ast.Pow) and number is not None and number.denominator == 1 and 0 <= number <= 200:
            return ["^", left, int(number)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and node.args:
        name, parts = node.func.id.lower(), [_tree(part, text) for part in node.args]
        if name == "abs" and len(parts) == 1:
            return ["abs", parts[0]]
        if name == "relu" and len(parts) == 1:
            return ["max", ["num", "0"], parts[0]]
        if name in ("max", "min"):
            return [name, *parts]
    raise ValueError(
        f"only + - * / and powers from 0 to 200 of variables and numbers, abs, max, min and relu make a piecewise "
        f"polynomial, got {text!r}."
    )


def _number(tree: Any) -> Fraction | None:
    """The value of a tree of one number, perhaps with a minus."""
    if tree[0] == "num":
        return Fraction(tree[1])
    if tree[0] == "-" and tree[1] == ["num", "0"] and tree[2][0] == "num":
        return -Fraction(tree[2][1])
    return None
