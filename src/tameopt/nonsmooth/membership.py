"""Proof that backprop's output is in the Clarke subdifferential: cells of the fan that combine to it, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.batches import size_of
from tameopt.evidence import Certificate
from tameopt.nonsmooth import _membership_checker
from tameopt.nonsmooth._replay import packed
from tameopt.nonsmooth.fan import TooManyKinks, fan_of
from tameopt.nonsmooth.graph import Graph
from tameopt.nonsmooth.kinks import form_of
from tameopt.nonsmooth.local_form import Local
from tameopt.nonsmooth.min_norm import min_norm
from tameopt.nonsmooth.polytope import rational_point
from tameopt.nonsmooth.traces import array_of, certificate_steps
from tameopt.problem import Problem

_MOST_CELLS = 2_000


def membership_certificate(
    problem: Problem, theta: torch.Tensor, graphs: Mapping[Any, Graph], local: Local, gradient: torch.Tensor
) -> tuple[Certificate | None, str]:
    """The certificate that `gradient` is a convex combination of Bouligand subgradients at theta, or None and why.

    Cost: the cells of the fan, one exact least-norm point, and one exact forward pass for each cell used.
    """
    if local.circuit.rounded or any(key < 0 for key in local.entry.form):
        return None, "its pieces are not rational functions"
    try:
        cells = fan_of(local.circuit, local.entry, most_cells=_MOST_CELLS)
    except TooManyKinks as error:
        return None, str(error)
    wanted = rational_point(gradient)
    directions: dict[Any, list[int]] = {}
    for cell in cells.cells:
        h = [0] * len(wanted)
        for pivot, entry in zip(cells.pivots, cell.interior, strict=True):
            h[pivot] = int(entry)
        directions.setdefault(cells.lifted(cell.u), h)
    points = list(directions)
    shifted = [[a - b for a, b in zip(point, wanted, strict=True)] for point in points]
    solution = min_norm(shifted)
    if solution.squared_distance != 0:
        return (
            None,
            f"it is {solution.distance:.1e} away from the hull in exact arithmetic (its own rounding, if small)",
        )
    used = [(directions[point], Fraction(w)) for point, w in zip(points, solution.weights, strict=True) if w]
    data = {
        "parts": _parts(problem, theta, graphs),
        "over": problem.n if not problem.is_function and problem.reduction == "mean" else 1,
        "offsets": _offsets(problem),
        "directions": [h for h, _ in used],
        "weights": [[w.numerator, w.denominator] for _, w in used],
        "gradient": packed(np.array([float(entry) for entry in wanted])),
    }
    reason = _membership_checker.refusal(data)
    if reason:
        return None, reason
    return Certificate("tameopt.nonsmooth._membership_checker:check", data), ""


def _offsets(problem: Problem) -> dict[str, int]:
    offsets, start = {}, 0
    for key, shape in problem.shapes.items():
        offsets[key] = start
        start += int(np.prod(shape, dtype=int))
    return offsets


def _parts(problem: Problem, theta: torch.Tensor, graphs: Mapping[Any, Graph]) -> list[dict[str, Any]]:
    parameters = problem.unflatten(theta)
    parts = []
    for batch in problem.batches if not problem.is_function else [()]:
        graph = graphs[form_of(batch)]
        leaves = torch.utils._pytree.tree_flatten(batch)[0]
        arrays = {
            step.name: packed(array_of(step, parameters, leaves, graph))
            for step in graph
            if step.op in ("parameter", "input", "constant")
        }
        count = size_of(batch) if not problem.is_function and problem.reduction == "mean" else 1
        parts.append({**certificate_steps(graph), "arrays": arrays, "count": count})
    return parts
