"""How far is 0 from the Clarke subdifferential of a network, where its cells are too many to list: an interval.

Column generation: the master problem is the least-norm point x of the Bouligand elements found so far; pricing looks
for the cell of active kinks whose gradient is smallest along x. The element of the cell into which -x points has
<g, x> = -F'(theta; -x); perturbed and random directions look into other cells. Pricing is a search, so the hull found
bounds the distance from above only. From below it is bounded by an outer set: every active kink gets a multiplier of
its own in [-1, 1], which is a zonotope that holds all cells, whether they occur or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.evidence import Verdict
from tameopt.nonsmooth.backprop import Backprop, as_problem, check_backprop
from tameopt.nonsmooth.fan import split
from tameopt.nonsmooth.germ import GermError
from tameopt.nonsmooth.graph import Graph
from tameopt.nonsmooth.kinks import graphs_of
from tameopt.nonsmooth.local_form import Local, local_form_of_problem
from tameopt.nonsmooth.min_norm import MinNorm, min_norm
from tameopt.nonsmooth.safe_gradient import SafeGradient
from tameopt.nonsmooth.zonotope import Zonotope
from tameopt.problem import Problem

_LARGEST_EXACT = 4_000  # parameters and data up to which the outer set is computed in rationals: our choice
_WIDTHS = (1e-6, None, 0.5, None, 2.0)  # of the noise around -x, in turn; None: a free direction: our choice


@dataclass(frozen=True)
class ClarkeDistance:
    """lower <= distance from 0 to the Clarke subdifferential <= upper.

    upper: the norm of `subgradient`: (d,), a convex combination of `elements` Clarke elements (almost surely in
        the directions drawn, up to the rounding of the forward pass). lower: from the outer set, 0 where
        there is none, and `outer` says which. calls: directions tried, a JVP and a gradient each.
    """

    lower: float
    upper: float
    subgradient: torch.Tensor
    elements: int
    calls: int
    outer: str

    def __repr__(self) -> str:
        return f"ClarkeDistance([{self.lower:.6g}, {self.upper:.6g}], {self.elements} elements, {self.outer})"


def clarke_distance(
    F: Problem | Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor | None = None,
    *,
    calls: int = 100,
    seed: int = 0,
    seconds: float = float("inf"),
    backprop: Backprop | None = None,
) -> ClarkeDistance:
    """An interval for the distance from 0 to the Clarke subdifferential of F at x: (d,), by column generation.

    seconds: stop after that long, with at least one direction tried. backprop: what `check_backprop` said, if known.

    Cost: at most `calls` JVPs and gradients, a least-norm point each; and for small problems one exact forward pass.
    Raises ValueError for an operator that the safe gradient does not know, TraceError for a branch on values.

    >>> found = clarke_distance(lambda x: x.abs().sum() + x[0] / 2, torch.zeros(2))
    >>> found.lower, found.upper < 1e-15
    (0.0, True)
    """
    if calls < 1:
        raise ValueError(f"calls must be >= 1, got {calls}: each one looks into one cell of the kinks.")
    problem = as_problem(F, x)
    theta = problem.theta if x is None else x.detach().to(problem.device, problem.dtype)
    begun = time.perf_counter()
    oracle, generator = SafeGradient(problem, seed=seed), torch.Generator().manual_seed(seed)
    found: list[np.ndarray] = []
    lower, outer = _lower_bound(problem, theta)
    least: MinNorm | None = None
    backprop = check_backprop(problem, theta) if backprop is None else backprop
    if backprop.verdict is Verdict.PROVED:  # then its output is one more Clarke subgradient, and a cheap one
        found.append(backprop.gradient.detach().cpu().double().numpy())
        least = min_norm(np.stack(found))
    for number in range(calls):
        noise = torch.randn(theta.numel(), dtype=torch.float64, generator=generator)
        wide = _WIDTHS[number % len(_WIDTHS)]
        size = 0.0 if least is None else least.distance / theta.numel() ** 0.5
        if least is None or wide is None or size == 0:
            h = noise
        else:  # towards -x: nearly, so that no tie is left open; then far enough to change cells
            h = wide * size * noise - torch.as_tensor(np.asarray(least.point, dtype=np.float64))
        g = oracle.along(theta, h.to(theta)).detach().cpu().double().numpy()
        reach = float(np.abs(g).max(initial=0.0))
        late = time.perf_counter() - begun > seconds
        if not late and any(float(np.abs(g - old).max()) <= 1e-12 * max(reach, 1e-300) for old in found):
            continue
        found.append(g)
        least = min_norm(np.stack(found))
        # nothing is left to find where the two bounds meet, up to rounding
        if late or least.distance <= max(lower * (1 + 1e-9), 1e-15 * reach):
            break
    assert least is not None
    subgradient = torch.as_tensor(np.asarray(least.point, dtype=np.float64))
    return ClarkeDistance(min(lower, least.distance), least.distance, subgradient, len(found), number + 1, outer)


def _lower_bound(problem: Problem, theta: torch.Tensor) -> tuple[float, str]:
    data: Any = problem.batches if not problem.is_function else []
    leaves = [leaf for batch in data for leaf in torch.utils._pytree.tree_flatten(batch)[0]]
    size = theta.numel() + sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))
    if size > _LARGEST_EXACT:
        return 0.0, f"no outer set: {size:,} numbers are more than {_LARGEST_EXACT:,}"
    graphs: Mapping[Any, Graph] = graphs_of(problem, theta)
    try:
        local = local_form_of_problem(problem, theta, graphs)
    except GermError as error:
        return 0.0, f"no outer set: {error}"
    if any(key < 0 for key in local.entry.form):
        return 0.0, "no outer set: a 2-norm at 0"
    outer = outer_zonotope(local)
    lower = outer.min_norm().lower_bound
    # the bound is a float support function: a thousand roundings of its size are taken off
    return max(0.0, lower - 1e-13 * outer.size), f"zonotope of {local.kinks} kinks"


def outer_zonotope(local: Local) -> Zonotope:
    """A zonotope that holds the gradients of all 2^m sign patterns of the kinks, nested ones too.

    F = smooth + sum c_k abs(z_k), z_k = <Z_k, h> + sum_{j<k} L_kj abs(z_j): the gradient Z_j enters with a factor of
    absolute value at most M_j = abs(c_j) + sum_{k>j} M_k abs(L_kj).
    """
    m, d = local.kinks, local.circuit.dim
    centre, weights = split(local.entry.form, d, m)
    factors = [abs(weight) for weight in weights]
    rows: list[list[Fraction]] = [[] for _ in range(m)]
    for k in reversed(range(m)):
        rows[k], nested = split(local.circuit.forms[k], d, m)
        for j in range(k):
            factors[j] += factors[k] * abs(nested[j])
    return Zonotope.of(centre, [[f * e for e in row] for f, row in zip(factors, rows, strict=True) if f])
