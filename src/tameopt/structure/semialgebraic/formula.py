"""First-order formulas over the reals: polynomial conditions, connectives and quantifiers; read from text.

The text is Python: `x**2 + y**2 <= 1 and x > 0`, chained comparisons, `not`, `or`, and the functions
`ForAll(y, ...)`, `Exists(z, ...)`, `Implies(p, q)`. Decimal numbers mean what they say: 0.1 is 1/10.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from tameopt.structure.semialgebraic.polynomial import Polynomial

RELATIONS = ("=", "!=", "<", "<=", ">", ">=")
_NEGATED = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_HOLDS: dict[str, Callable[[int], bool]] = {
    "=": lambda sign: sign == 0,
    "!=": lambda sign: sign != 0,
    "<": lambda sign: sign < 0,
    "<=": lambda sign: sign <= 0,
    ">": lambda sign: sign > 0,
    ">=": lambda sign: sign >= 0,
}


@dataclass(frozen=True)
class Atom:
    """polynomial `relation` 0."""

    polynomial: Polynomial
    relation: str

    def holds(self, sign: int) -> bool:
        """Whether it holds where the polynomial has that sign (-1, 0, 1)."""
        return _HOLDS[self.relation](sign)

    def __str__(self) -> str:
        return f"{self.polynomial} {self.relation} 0"


@dataclass(frozen=True)
class And:
    parts: tuple[Formula, ...]

    def __str__(self) -> str:
        return "(" + " and ".join(map(str, self.parts)) + ")" if self.parts else "true"


@dataclass(frozen=True)
class Or:
    parts: tuple[Formula, ...]

    def __str__(self) -> str:
        return "(" + " or ".join(map(str, self.parts)) + ")" if self.parts else "false"


@dataclass(frozen=True)
class Quantified:
    """For all (universal) or some real values of the variable."""

    universal: bool
    variable: str
    body: Formula

    def __str__(self) -> str:
        return f"{'ForAll' if self.universal else 'Exists'}({self.variable}, {self.body})"


Formula = Atom | And | Or | Quantified
TRUE, FALSE = And(()), Or(())


def negation(formula: Formula) -> Formula:
    """The formula that holds where this one does not."""
    if isinstance(formula, Atom):
        return Atom(formula.polynomial, _NEGATED[formula.relation])
    if isinstance(formula, And):
        return Or(tuple(negation(part) for part in formula.parts))
    if isinstance(formula, Or):
        return And(tuple(negation(part) for part in formula.parts))
    return Quantified(not formula.universal, formula.variable, negation(formula.body))


def atoms(formula: Formula) -> list[Atom]:
    """All atoms, with repetitions."""
    if isinstance(formula, Atom):
        return [formula]
    if isinstance(formula, Quantified):
        return atoms(formula.body)
    return [atom for part in formula.parts for atom in atoms(part)]


def free_variables(formula: Formula) -> set[str]:
    if isinstance(formula, Atom):
        return set(formula.polynomial.variables)
    if isinstance(formula, Quantified):
        return free_variables(formula.body) - {formula.variable}
    return set().union(*(free_variables(part) for part in formula.parts))


def is_quantifier_free(formula: Formula) -> bool:
    if isinstance(formula, Quantified):
        return False
    return isinstance(formula, Atom) or all(is_quantifier_free(part) for part in formula.parts)


def substituted(formula: Formula, values: Mapping[str, Polynomial | Fraction | int]) -> Formula:
    """With free variables replaced; the bound ones must not occur in the values (`renamed` sees to that)."""
    if isinstance(formula, Atom):
        return Atom(formula.polynomial.substitute(values), formula.relation)
    if isinstance(formula, Quantified):
        inner = {name: value for name, value in values.items() if name != formula.variable}
        return Quantified(formula.universal, formula.variable, substituted(formula.body, inner))
    return type(formula)(tuple(substituted(part, values) for part in formula.parts))


def prenex(formula: Formula) -> tuple[list[tuple[bool, str]], Formula]:
    """Quantifiers (universal, variable) in order, and the quantifier-free rest; bound variables are made distinct."""
    counter = iter(range(10**6))
    taken = free_variables(formula)

    def pull(part: Formula) -> tuple[list[tuple[bool, str]], Formula]:
        if isinstance(part, Atom):
            return [], part
        if isinstance(part, Quantified):
            name = part.variable
            while name in taken:
                name = f"{part.variable}{next(counter)}"
            taken.add(name)
            body = substituted(part.body, {part.variable: Polynomial.variable(name)})
            quantifiers, matrix = pull(body)
            return [(part.universal, name), *quantifiers], matrix
        quantifiers, parts = [], []
        for one in part.parts:
            inner, matrix = pull(one)
            quantifiers += inner
            parts.append(matrix)
        return quantifiers, type(part)(tuple(parts))

    return pull(formula)


def holds_at(formula: Formula, sign: Callable[[Polynomial], int]) -> bool:
    """Truth of a quantifier-free formula where polynomials have these signs."""
    if isinstance(formula, Atom):
        return formula.holds(sign(formula.polynomial))
    if isinstance(formula, And):
        return all(holds_at(part, sign) for part in formula.parts)
    if isinstance(formula, Or):
        return any(holds_at(part, sign) for part in formula.parts)
    raise ValueError("a quantifier-free formula is required: eliminate the quantifiers first.")


# -- reading -----------------------------------------------------------------------------------------------


def parse(text: str) -> Formula:
    """The formula that a text stands for.

    Raises ValueError naming what could not be read.

    >>> print(parse("x**2 + y**2 <= 1 and not x > 0"))
    (x^2 + y^2 - 1 <= 0 and x <= 0)
    """
    return _formula(_tree(text), text)


def parse_polynomial(text: str) -> Polynomial:
    """The polynomial that a text stands for.

    Raises ValueError naming what could not be read.

    >>> print(parse_polynomial("(x - y**2)**2 + 0.5"))
    y^4 - 2*x*y^2 + x^2 + (1/2)
    """
    return _polynomial(_tree(text), text)


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"a formula must be written as Python, {text!r} is not: {error.msg}.") from error


_COMPARISONS = {ast.Eq: "=", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


def _formula(node: ast.expr, text: str) -> Formula:
    if isinstance(node, ast.BoolOp):
        parts = tuple(_formula(value, text) for value in node.values)
        return And(parts) if isinstance(node.op, ast.And) else Or(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return negation(_formula(node.operand, text))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return TRUE if node.value else FALSE
    if isinstance(node, ast.Compare):
        sides = [_polynomial(side, text) for side in (node.left, *node.comparators)]
        found: list[Formula] = []
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            if type(operator) not in _COMPARISONS:
                raise ValueError(f"relations must be one of ==, !=, <, <=, >, >=, got something else in {text!r}.")
            found.append(Atom(left - right, _COMPARISONS[type(operator)]))
        return found[0] if len(found) == 1 else And(tuple(found))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
        first, second = node.args
        if node.func.id == "Implies":
            return Or((negation(_formula(first, text)), _formula(second, text)))
        if node.func.id in ("ForAll", "Exists") and isinstance(first, ast.Name):
            return Quantified(node.func.id == "ForAll", first.id, _formula(second, text))
    raise ValueError(
        f"{ast.unparse(node)!r} is no condition: use comparisons of polynomials, and, or, not, Implies(p, q), "
        "ForAll(y, p), Exists(y, p)."
    )


def _polynomial(node: ast.expr, text: str) -> Polynomial:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return Polynomial.constant(Fraction(repr(node.value)))
    if isinstance(node, ast.Name):
        return Polynomial.variable(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _polynomial(node.operand, text)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _polynomial(node.left, text), _polynomial(node.right, text)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        value = right.value
        if isinstance(node.op, ast.Div) and value:
            return left * Polynomial.constant(1 / value)
        if isinstance(node.op, ast.Pow) and value is not None and value.denominator == 1 and value >= 0:
            return left ** int(value)
    raise ValueError(
        f"{ast.unparse(node)!r} is no polynomial: use numbers, variables, + - *, ** with a natural exponent, and / "
        "by a number."
    )
