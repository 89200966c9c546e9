"""Is a loss least squares? Read from its trace: which operators it runs on (output - target), and in what order.

Nothing is matched by name: `torch.nn.MSELoss()` and `lambda f, y: ((f - y) ** 2).mean()` are the same operators. A
loss with any other operator (a weight, a clamp, a branch) is not taken for least squares, whatever values it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from tameopt.structure.program import Node, Ref
from tameopt.structure.subject import new_leaf
from tameopt.structure.trace import traced

# the entries in the same (row-major) order, under another shape
_VIEWS = {"view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "clone", "alias"}


@dataclass(frozen=True)
class _Value:
    """A traced tensor: "output", "target", "difference" (c (output - target)), "square" (c of its square, entry by
    entry) or "sum" (c of sums of squares, each entry in one sum once)."""

    kind: str
    c: Fraction = Fraction(1)


def trace_loss(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], output: torch.Tensor, target: torch.Tensor
) -> Fraction | str:
    """c with sum(loss(output, target)) = c norm(output - target)^2 by its operators, or why it is not so.

    output, target: of one shape. c is exact as a rational of the floats that the loss names; for this batch.

    >>> y = torch.zeros(4, 2)
    >>> trace_loss(lambda f, y: 0.5 * (f - y).square().sum() / len(y), y + 1, y)
    Fraction(1, 8)
    """
    if output.shape != target.shape:
        return f"outputs and targets differ in shape: {tuple(output.shape)} against {tuple(target.shape)}"
    leaves = {"output": new_leaf(output), "target": new_leaf(target)}
    try:
        program, results = traced(leaves, [], {}, lambda: loss(leaves["output"], leaves["target"]))
    except (RuntimeError, ValueError, TypeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return f"the loss could not be traced: {type(error).__name__}: {first[:120]}"
    if program.obstructions:
        return f"it cannot be read from its trace: {program.obstructions[0].message}"
    if program.hooks or program.random:
        return program.hooks[0][0] if program.hooks else f"it draws random numbers ({program.random[0]})"
    if len(results) != 1 or not isinstance(program.outputs[0], Ref):
        return "it returns no tensor that depends on outputs and targets"
    values: dict[int, _Value] = {}
    for index in program.live():
        found = _value(program.nodes[index], values)
        if isinstance(found, str):
            return found
        values[index] = found
    last = values[program.outputs[0].node]
    return last.c if last.kind in ("square", "sum") else "it is not a multiple of sums of (output - target)^2"


def _value(node: Node, values: dict[int, _Value]) -> _Value | str:
    """What a traced call computes, or why it is no step of least squares.

    An operator that writes into its argument ends in "_" and is none of those.
    """
    if node.op == "theta":
        return _Value(str(node.arguments["name"]))
    other = f"the operator {node.op} in it is none of those that make up (output - target)^2"
    if node.cut:
        return f"{other}: {next(iter(node.cut.values()))}"
    if len(node.outputs) != 1 or len(set(node.dtypes)) != 1:
        return other
    given = {name: values[item.node] if isinstance(item, Ref) else item for name, item in node.arguments.items()}
    first, second = given.get("self"), given.get("target" if node.op == "mse_loss" else "other")
    if not isinstance(first, _Value):
        return f"{other}: it begins with a tensor other than output and target"
    if node.op in _VIEWS:
        return first
    if node.op in ("sub", "mse_loss"):
        kinds = first.kind, getattr(second, "kind", "")
        if sorted(kinds) != ["output", "target"] or len(set(node.shapes.values())) != 1:
            return f"{other}: it is not that of output and target in one shape"
        if node.op == "mse_loss":
            return _mean_squared(node)
        c = 1 if kinds[0] == "output" else -1
        return _Value("difference", Fraction(c)) if node.arguments["alpha"] == 1 else f"{other}: alpha is not 1"
    if first.kind in ("output", "target"):
        return f"{other}: it works on the {first.kind} alone"
    return _further(node, first, given) or other


def _mean_squared(node: Node) -> _Value:
    reduction, entries = node.arguments["reduction"], math.prod(node.shapes["self"])
    if reduction == 0:
        return _Value("square")
    return _Value("sum", Fraction(1, entries) if reduction == 1 else Fraction(1))


def _further(node: Node, value: _Value, given: dict[str, Any]) -> _Value | None:
    """One further operator on a difference, a square or a sum; None when it is none that is known."""
    factor = given.get("exponent" if node.op == "pow" else "other")
    number = Fraction(factor) if isinstance(factor, (int, float)) and math.isfinite(factor) else None
    if set(given) - {"self", "other", "exponent", "dim", "keepdim", "dtype"} or given.get("dtype") is not None:
        return None
    if node.op == "neg":
        return replace(value, c=-value.c)
    if node.op in ("mul", "div") and number:
        return replace(value, c=value.c * number if node.op == "mul" else value.c / number)
    if value.kind == "difference":
        # two differences of one shape hold their entries in the same order
        if node.op == "mul" and isinstance(factor, _Value) and factor.kind == "difference":
            same = node.shapes["self"] == node.shapes["other"]
            return _Value("square", value.c * factor.c) if same else None
        return _Value("square", value.c**2) if node.op == "square" or (node.op == "pow" and number == 2) else None
    if node.op in ("sum", "mean"):
        # each entry goes into one sum, so that the total of the sums is that of the entries
        share = Fraction(math.prod(node.outputs[0]), math.prod(node.shapes["self"]))
        return _Value("sum", value.c if node.op == "sum" else value.c * share)
    return None
