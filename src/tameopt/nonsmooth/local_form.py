"""F near a point to first order: its exact germ, with what the four subdifferentials need to know of its kinks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

from tameopt.batches import size_of
from tameopt.nonsmooth.fan import split
from tameopt.nonsmooth.germ import Circuit, Entry
from tameopt.nonsmooth.germ_operators import germ
from tameopt.nonsmooth.graph import Graph, trace_function
from tameopt.nonsmooth.kinks import form_of
from tameopt.nonsmooth.polytope import Point, rational_point
from tameopt.problem import Problem

_SECOND_ORDER = 12  # dimensions up to which kinks are followed to second order: our choice, it squares the work


@dataclass(frozen=True)
class Local:
    """F near x to first order: its germ, and the fan once it is asked for."""

    circuit: Circuit
    entry: Entry
    x: Point

    @property
    def kinks(self) -> int:
        """The number of active kinks."""
        return len(self.circuit.forms)

    @property
    def exact_kinks(self) -> bool:
        """Every kink is exactly piecewise linear near x, so that the cells of the first-order form are F's own."""
        return not any(self.circuit.curved)

    @property
    def piecewise_linear(self) -> bool:
        """F itself is exactly piecewise linear near x."""
        return self.exact_kinks and not self.entry.curved and not self.circuit.norms

    @property
    def flat(self) -> bool:
        """No kink lies inside another."""
        m = self.kinks
        return not any(any(split(form, self.circuit.dim, m)[1]) for form in self.circuit.forms)

    @property
    def weights(self) -> list[Fraction]:
        """The coefficients of abs(z_k) in F."""
        return split(self.entry.form, self.circuit.dim, self.kinks)[1]

    @property
    def regular(self) -> int:
        """+1 when F is smooth + sum c_k abs(z_k) with all c_k >= 0 (Clarke regular), -1 when -F is, else 0."""
        if not self.flat:
            return 0
        return 1 if all(c >= 0 for c in self.weights) else -1 if all(c <= 0 for c in self.weights) else 0


def local_form(F: Callable[[torch.Tensor], torch.Tensor], x: Any) -> Local:
    """The exact first-order form of F: (d,) tensor -> scalar at x: (d,), numbers, Fractions or a tensor.

    Raises TraceError when F branches on values, GermError for an operator or a point outside the calculus.
    """
    point = rational_point(x)
    if not point:
        raise ValueError("x must have at least one entry, got none.")
    sample = torch.tensor([float(entry) for entry in point], dtype=torch.float64)
    return local_form_of_graph(trace_function(F, sample), point)


def local_form_of_graph(
    graph: Graph,
    point: Point,
    *,
    tolerance: Fraction = Fraction(0),
    toward: Sequence[Fraction] | None = None,
    second_order: bool | None = None,
) -> Local:
    """As `local_form`, of a traced function. tolerance, toward: as a `Circuit` has them."""
    second = len(point) <= _SECOND_ORDER if second_order is None else second_order
    circuit = Circuit(len(point), second_order=second, tolerance=tolerance, toward=toward)
    theta = np.empty(len(point), dtype=object)
    theta[:] = [circuit.variable(j, value) for j, value in enumerate(point)]
    return Local(circuit, germ(graph, {"theta": theta}, [], circuit), point)


def local_form_of_problem(problem: Problem, theta: torch.Tensor, graphs: Mapping[Any, Graph]) -> Local:
    """The exact first-order form of F = scale * sum over batches at theta: (d,); for small problems.

    Cost: one exact forward pass, some microseconds for each multiplication. Raises GermError as `local_form`.
    """
    point = rational_point(theta)
    circuit = Circuit(len(point))
    flat = np.empty(len(point), dtype=object)
    flat[:] = [circuit.variable(j, value) for j, value in enumerate(point)]
    parameters, start = {}, 0
    for key, shape in problem.shapes.items():
        size = math.prod(shape)
        parameters[key] = flat[start : start + size].reshape(shape)
        start += size
    total = circuit.constant(0)
    for batch in problem.batches if not problem.is_function else [()]:
        leaves = tree_flatten(batch)[0]
        loss = germ(graphs[form_of(batch)], parameters, leaves, circuit)
        count = 1 if problem.is_function or problem.reduction == "sum" else size_of(batch)
        total = total + loss.scaled(Fraction(count))
    return Local(circuit, total.scaled(1 / Fraction(1 if problem.reduction == "sum" else problem.n)), point)
