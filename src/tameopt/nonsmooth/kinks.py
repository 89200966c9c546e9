"""Who sits on a kink: every nonsmooth operator at theta, over all data, and how near the nearest kink is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from tameopt.nonsmooth._lemma_checker import MOVES
from tameopt.nonsmooth.graph import Graph, Step, trace
from tameopt.nonsmooth.operators import KINKS
from tameopt.problem import Problem

MAXIMA = ("aten.max_pool2d_with_indices.default", "aten.max.dim", "aten.amax.default", "aten.max.default")
_DECADES = tuple(-16.0 + 0.5 * bin for bin in range(37))  # half decades from 1e-16 to 1e2


@dataclass(frozen=True)
class Site:
    """One nonsmooth operator of the network.

    step: its name in the trace; op: the operator; kind: "kink", "tie" or "jump" (discontinuous).
    entries: scalars that pass through it over all data; active: those exactly on a kink, as the floating-point
    forward pass sees them; nearest: the least distance of an entry to its kink (inf when it has none),
    nearest_inactive the least positive one. histogram: entries by log10 of their distance, see `decades`.
    """

    step: str
    op: str
    kind: str
    entries: int
    active: int
    nearest: float
    nearest_inactive: float = math.inf
    histogram: tuple[int, ...] = (0,) * (len(_DECADES) - 1)

    @property
    def decades(self) -> tuple[float, ...]:
        """log10 of the distances at the middle of each histogram bin."""
        return tuple(low + 0.25 for low in _DECADES[:-1])


@dataclass(frozen=True)
class Census:
    """All nonsmooth operators at theta over all data.

    graphs: the traces, one for each form of batch. unread: operators with kinks that could not be measured.
    """

    sites: tuple[Site, ...]
    graphs: tuple[Graph, ...]
    unread: tuple[str, ...] = ()

    @property
    def active(self) -> int:
        """Entries exactly on a kink."""
        return sum(site.active for site in self.sites)

    @property
    def entries(self) -> int:
        """Entries that pass through a nonsmooth operator."""
        return sum(site.entries for site in self.sites)

    @property
    def nearest(self) -> float:
        """The least distance of an entry to its kink; inf without nonsmooth operators."""
        return min((site.nearest for site in self.sites), default=math.inf)

    @property
    def smooth(self) -> bool:
        """No operator with a kink reads theta."""
        return not self.sites and not self.unread

    def __repr__(self) -> str:
        if self.smooth:
            return "Census(no nonsmooth operator)"
        return f"Census({self.active:,} of {self.entries:,} entries on a kink, nearest {self.nearest:.2e})"


def form_of(batch: Any) -> tuple[Any, ...]:
    """What a trace depends on: the structure of the batch and the shapes and types of its tensors."""
    leaves, spec = tree_flatten(batch)
    return (
        str(spec),
        *((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else repr(leaf) for leaf in leaves),
    )


def behind_relu(graph: Graph, step: Step) -> bool:
    """Whether the first input of a step is the result of a relu, up to moving entries about."""
    at = graph.step(step.args[0].name)
    while at.op in MOVES:
        at = graph.step(at.args[0].name)
    return at.op == "aten.relu.default"


def without_dead(graph: Graph, step: Step, gaps: torch.Tensor, result: Any) -> torch.Tensor:
    """The distances to ties, where a maximum 0 of relu outputs is no tie.

    Each of the entries is constant 0 near theta, or sits on the kink of its relu, which is counted there.
    """
    values = result[0] if isinstance(result, tuple) else result
    if step.op not in MAXIMA or values.shape != gaps.shape or not behind_relu(graph, step):
        return gaps
    return torch.where((gaps == 0) & (values == 0), torch.inf, gaps)


def graphs_of(problem: Problem, theta: torch.Tensor) -> dict[tuple[Any, ...], Graph]:
    """The traces of a problem, one for each form of batch.

    Raises TraceError as `graph.trace` does.
    """
    found: dict[tuple[Any, ...], Graph] = {}
    for batch in problem.batches if not problem.is_function else [()]:
        form = form_of(batch)
        if form not in found:
            found[form] = trace(problem, theta, batch)
    return found


def census(
    problem: Problem, theta: torch.Tensor | None = None, graphs: Mapping[tuple[Any, ...], Graph] | None = None
) -> Census:
    """Count the entries of every nonsmooth operator that sit on a kink at theta: (d,), over all data.

    The counts are those of a floating-point forward pass. Cost: one forward pass and a trace.
    Raises TraceError when the objective cannot be traced.

    >>> from tameopt import Problem
    >>> census(Problem.from_function(lambda x: x.abs().sum(), torch.tensor([0.0, 2.0])))
    Census(1 of 2 entries on a kink, nearest 0.00e+00)
    """
    at = problem.theta if theta is None else theta
    graphs = graphs_of(problem, at) if graphs is None else graphs
    parameters = problem.unflatten(at)
    sites: dict[str, Site] = {}
    current = next(iter(graphs.values()))
    unread: set[str] = set()

    def visit(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        kink = KINKS.get(step.op)
        if kink is None:
            return
        try:
            gaps = without_dead(current, step, kink.gaps(*args, **kwargs), result)
        except (ValueError, TypeError, RuntimeError):
            unread.add(step.op)
            return
        # an operator that is smooth with these arguments (elu with alpha 1) has no entry near a kink
        if gaps.numel() == 0 or (bool(torch.isposinf(gaps).all()) and kink.kind == "kink"):
            return
        sites[step.name] = _updated(sites.get(step.name, Site(step.name, step.op, kink.kind, 0, 0, math.inf)), gaps)

    with torch.no_grad():
        for batch in problem.batches if not problem.is_function else [()]:
            current = graphs[form_of(batch)]
            current.run(parameters, batch, visit)
    return Census(tuple(sites.values()), tuple(graphs.values()), tuple(sorted(unread)))


def _updated(site: Site, gaps: torch.Tensor) -> Site:
    """The site with these distances counted in."""
    positive = gaps[gaps > 0]
    logs = positive[torch.isfinite(positive)].double().log10().clamp(_DECADES[0], _DECADES[-1]).cpu()
    counts = torch.histc(logs, len(_DECADES) - 1, _DECADES[0], _DECADES[-1])
    return replace(
        site,
        entries=site.entries + gaps.numel(),
        active=site.active + int((gaps == 0).sum()),
        nearest=min(site.nearest, float(gaps.min())),
        nearest_inactive=min(site.nearest_inactive, float(positive.min()) if positive.numel() else math.inf),
        histogram=tuple(old + int(new) for old, new in zip(site.histogram, counts.tolist(), strict=True)),
    )
