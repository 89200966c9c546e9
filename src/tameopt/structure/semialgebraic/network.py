"""From a small network to its formula: F as finitely many polynomial pieces, with exact rational coefficients.

The operators of F are run on polynomials instead of numbers. Where one of them bends (relu, abs, max), the sign of a
polynomial is asked for: both answers are followed, unless the linear conditions met so far exclude one of them. A
path through these answers is a piece: its conditions and the polynomial that comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.problem import Problem
from tameopt.structure.semialgebraic.arrays import OPERATORS, Signs, as_array
from tameopt.structure.semialgebraic.formula import And, Atom, Formula
from tameopt.structure.semialgebraic.linear import feasible
from tameopt.structure.semialgebraic.polynomial import Polynomial

_ALL = frozenset((-1, 0, 1))
_RELATION = {
    frozenset((1,)): ">", frozenset((-1,)): "<", frozenset((0,)): "=",
    frozenset((0, 1)): ">=", frozenset((-1, 0)): "<=", frozenset((-1, 1)): "!=",
}  # fmt: skip


@dataclass
class Path(Signs):
    """One path through the pieces: the signs that were decided, and those that were left for later.

    decided: polynomial with coprime integer coefficients and positive leading one -> its possible signs.
    """

    decided: dict[Polynomial, frozenset[int]] = field(default_factory=dict)
    left: list[dict[Polynomial, frozenset[int]]] = field(default_factory=list)

    def positive(self, x: Polynomial) -> bool:
        value = x.value
        if value is not None:
            return value > 0
        key, sign = _canonical(x)
        allowed = self.decided.get(key, _ALL)
        yes, no = allowed & {sign}, allowed - {sign}
        if not no or not yes:
            return bool(yes)
        ways = [way for way in (yes, no) if feasible(_atoms({**self.decided, key: way}))]
        if not ways:
            # the linear conditions were feasible before, so one of the two must be
            raise AssertionError("a consistent path has no continuation.")
        if len(ways) == 2:
            self.left.append({**self.decided, key: no})
        self.decided[key] = ways[0]
        return ways[0] == yes

    @property
    def condition(self) -> Formula:
        return And(tuple(_atoms(self.decided)))


def _canonical(x: Polynomial) -> tuple[Polynomial, int]:
    whole = x.integral()
    return (-whole, -1) if whole.terms[0][1] < 0 else (whole, 1)


def _atoms(decided: Mapping[Polynomial, frozenset[int]]) -> list[Atom]:
    return [Atom(polynomial, _RELATION[signs]) for polynomial, signs in decided.items() if signs != _ALL]


@dataclass(frozen=True)
class ExactLoss:
    """F of a problem as a graph of operators that can be run on exact numbers or polynomials.

    scale: what the sum of the batches is multiplied by, exactly.
    """

    graph: torch.fx.GraphModule
    scale: Fraction

    def __call__(self, theta: Sequence[Any], signs: Signs, number: Callable[[Fraction], Any]) -> Any:
        """F(theta) for coordinates of any exact kind; number: makes a constant of that kind.

        Raises ValueError at an operator that is not piecewise polynomial, or not covered.
        """
        values: dict[torch.fx.Node, Any] = {}

        def known(argument: Any) -> Any:
            if isinstance(argument, torch.fx.Node):
                return values[argument]
            if isinstance(argument, (list, tuple)):
                return [known(item) for item in argument]
            return argument

        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = np.array(list(theta), dtype=object)
            elif node.op == "get_attr":
                values[node] = exact(getattr(self.graph, node.target), number)
            elif node.op == "output":
                return known(node.args[0]).reshape(-1)[0] * number(self.scale)
            else:
                name = node.target.__name__.split(".")[0]
                if name not in OPERATORS:
                    raise ValueError(
                        f"a piecewise polynomial F is required, of operators that have an exact form: {name} has "
                        f"none here. They are {', '.join(sorted(OPERATORS))}."
                    )
                arguments = {key: known(value) for key, value in _named(node).items()}
                values[node] = as_array(OPERATORS[name](arguments, signs, number))
        raise AssertionError("a graph ends with its output.")


def _named(node: torch.fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {a.name: a.default_value for a in schema if a.has_default_value()}
    named.update(zip((a.name for a in schema), node.args, strict=False))
    named.update(node.kwargs)
    return named


def exact(tensor: torch.Tensor, number: Callable[[Fraction], Any]) -> np.ndarray:
    """The elements of a tensor as they are: floats are rationals with a power of 2 below."""
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("constants must be finite, the problem holds NaN or inf.")
    found = np.empty(tensor.numel(), dtype=object)
    for k, value in enumerate(tensor.reshape(-1).tolist()):
        found[k] = number(Fraction(value))
    return found.reshape(tuple(tensor.shape))


def exact_loss(problem: Problem) -> ExactLoss:
    """The operators of F, all batches, as torch runs them at the problem's parameters.

    Raises ValueError when F cannot be recorded (Python decides on theta, say).
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def total(theta: torch.Tensor) -> torch.Tensor:
        parameters = problem.unflatten(theta)
        sums = [problem._batch_sum(parameters, batch) for batch in problem.batches]
        return torch.stack([one.reshape(()) for one in sums]).sum()

    function = problem.batch_output if problem.is_function else None
    run = (lambda theta: function(problem.unflatten(theta), ())) if function is not None else total
    try:
        graph = make_fx(torch.func.functionalize(run))(problem.theta.detach().clone())
    except RuntimeError as error:
        raise ValueError(f"F must be recorded as one formula, torch says: {str(error).splitlines()[0]}") from error
    scale = Fraction(1) if problem.is_function or problem.reduction == "sum" else Fraction(1, problem.n)
    return ExactLoss(graph, scale)


def coordinates(
    problem: Problem, along: Mapping[str, Sequence[Any]] | None, theta: torch.Tensor | None
) -> tuple[tuple[str, ...], list[Polynomial]]:
    """The names of the variables, and theta's coordinates as polynomials in them."""
    base = [Fraction(x) for x in (problem.theta if theta is None else theta).detach().double().tolist()]
    if along is None:
        names = tuple(f"theta{k}" for k in range(len(base)))
        return names, [Polynomial.variable(name) for name in names]
    moved = [Polynomial.constant(x) for x in base]
    for name, direction in along.items():
        entries = [Fraction(float(x)) if isinstance(x, torch.Tensor) else Fraction(x) for x in direction]
        if len(entries) != len(base):
            raise ValueError(f"a direction must have {len(base)} entries, that of {name} has {len(entries)}.")
        moved = [x + Polynomial.variable(name) * Polynomial.constant(d) for x, d in zip(moved, entries, strict=True)]
    return tuple(along), moved


def pieces(loss: ExactLoss, theta: Sequence[Polynomial], most: int) -> Iterator[tuple[Formula, Polynomial]]:
    """(condition, polynomial) of every path; a path whose conditions are not all linear may hold nowhere.

    Raises ValueError when there are more than `most`.
    """
    waiting: list[dict[Polynomial, frozenset[int]]] = [{}]
    count = 0
    while waiting:
        path = Path(dict(waiting.pop()))
        result = loss(theta, path, Polynomial.constant)
        waiting.extend(path.left)
        count += 1
        if count > most:
            raise ValueError(
                f"at most {most} pieces are listed, F has more: move fewer coordinates (along=...) or raise "
                "max_pieces."
            )
        yield path.condition, result
