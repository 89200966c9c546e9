"""Functions as people type them, "abs(x) - max(y, 2*z)", as torch functions of one vector."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import torch


def _many(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    def apply(*values: Any) -> torch.Tensor:
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result

    return apply


_CALLS: dict[str, Callable[..., Any]] = {
    "abs": torch.abs, "relu": torch.relu, "max": _many(torch.maximum), "min": _many(torch.minimum),
    "sqrt": torch.sqrt, "exp": torch.exp, "log": torch.log, "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos,
}  # fmt: skip
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def parse(text: str) -> tuple[tuple[str, ...], Callable[[torch.Tensor], torch.Tensor]]:
    """The variables, sorted, and the function of them as one (d,) tensor.

    Numbers, + - * / and powers (^ or **) with whole exponents, abs, relu, max, min, sqrt, exp, log, tanh, sin, cos.
    Raises ValueError saying what is not understood.

    >>> variables, F = parse("abs(x) - abs(y)")
    >>> variables, float(F(torch.tensor([1.0, 3.0])))
    (('x', 'y'), -2.0)
    """
    try:
        tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} must be a formula such as abs(x) - abs(y): {error.msg}.") from error
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    variables = tuple(sorted(names))
    if not variables:
        raise ValueError(f"{text!r} must have a variable, it has none.")
    _evaluated(tree, dict.fromkeys(variables, torch.zeros((), dtype=torch.float64)), text)

    def F(x: torch.Tensor) -> torch.Tensor:
        value = _evaluated(tree, {name: x[j] for j, name in enumerate(variables)}, text)
        return value if isinstance(value, torch.Tensor) else torch.as_tensor(value, dtype=x.dtype) + 0 * x.sum()

    return variables, F


def _evaluated(node: ast.AST, known: dict[str, torch.Tensor], text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return torch.tensor(float(node.value), dtype=torch.float64)
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _evaluated(node.operand, known, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_evaluated(node.left, known, text), _evaluated(node.right, known, text))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        if not (isinstance(node.right, ast.Constant) and isinstance(node.right.value, int) and node.right.value > 0):
            raise ValueError(f"powers in {text!r} must be whole and > 0, got {ast.unparse(node.right)}.")
        return _evaluated(node.left, known, text) ** node.right.value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _CALLS
        and not node.keywords
    ):
        many = node.func.id in ("max", "min")
        if not node.args or (len(node.args) > 1 and not many):
            raise ValueError(f"{node.func.id} in {text!r} takes {'one or more' if many else 'one'} argument(s).")
        return _CALLS[node.func.id](*(_evaluated(arg, known, text) for arg in node.args))
    raise ValueError(
        f"{ast.unparse(node)!r} in {text!r} is not understood: numbers, variables, + - * / ^ and "
        f"{', '.join(_CALLS)} are."
    )
