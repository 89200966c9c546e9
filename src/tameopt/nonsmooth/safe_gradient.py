"""A gradient that is right at kinks: one certified element of the Bouligand subdifferential for a JVP and a VJP.

Push a Gaussian direction h forward. Where an operator sits on its kink, take the side to which h leads; then one
backward pass with those sides. Almost surely in h, F is differentiable at x + e h for all small e > 0 with exactly
those sides, so the result is the limit of its gradients there: a Bouligand, hence a Clarke, subgradient. A tie that
h does not break has derivative 0 along almost every direction, and then its side does not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

from tameopt.batches import Batch, size_of
from tameopt.nonsmooth import _lemma_checker
from tameopt.nonsmooth.backprop import as_problem
from tameopt.nonsmooth.directional_sides import ROWS
from tameopt.nonsmooth.graph import Graph, Step, trace
from tameopt.nonsmooth.kinks import MAXIMA, behind_relu, form_of, without_dead
from tameopt.nonsmooth.operators import KINKS, tied_windows
from tameopt.nonsmooth.traces import certificate_steps
from tameopt.problem import Problem

_POOLS = ("aten.max_pool2d_with_indices.default",)


def _uncovered(graph: Graph) -> str:
    """ "" when every theta-dependent step is smooth or has a row here, else the first that is neither."""
    depends = {step.name for step in graph if step.depends}
    for step, written in zip(graph, certificate_steps(graph)["steps"], strict=True):
        if step.depends and step.op not in ROWS and step.op != "aten.where.self":
            reason = _lemma_checker.smooth_refusal(written, depends)
            if reason:
                return reason
    return ""


def _moves(graph: Graph) -> Any:
    """The moves by which the bias lemma makes autograd's own sides those of one limit of gradients, else None.

    Its pools are left out: one whose largest entries are zeros behind relus, which the lemma moves to their left, is
    constant there; other ties of pools are looked for.
    """
    data = certificate_steps(graph)
    pools = {step["name"] for step in data["steps"] if step["op"] in _POOLS}
    reason, moves = _lemma_checker.shifts(data, trusted=pools)
    one_sided = all(share in (0, 1) for _, need in moves for _, share in need)
    return moves if reason == "" and one_sided else None


class SafeGradient:
    """Gradients of a problem that are Bouligand subgradients at every theta, kinks included; for training loops.

    Traces the model once for each form of batch; a step without active kinks costs an ordinary gradient and a
    comparison with 0 at each kink. Where the bias lemma shows that autograd's own sides are those of one limit of
    gradients, only ties of max-pools are looked for.

    >>> F = lambda x: (torch.relu(x) - torch.relu(-x)).sum()
    >>> gradient = SafeGradient(Problem.from_function(F, torch.zeros(2)))
    >>> gradient(torch.zeros(2))
    tensor([1., 1.])
    """

    def __init__(self, problem: Problem, *, seed: int = 0) -> None:
        self.problem = problem
        self._graphs: dict[Any, Graph] = {}
        self._moves: dict[Any, Any] = {}
        self._last_tie: dict[Any, str | None] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._met_kinks = False

    def _graph(self, theta: torch.Tensor, batch: Batch) -> Graph:
        form = form_of(batch)
        if form not in self._graphs:
            graph = trace(self.problem, theta, batch)
            reason = _uncovered(graph)
            if reason:
                raise ValueError(f"a safe gradient needs operators that are smooth or kinks it knows: {reason}.")
            self._graphs[form], self._moves[form] = graph, _moves(graph)
        return self._graphs[form]

    def batch(self, theta: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of one batch as the model returns it, summed, and (d,) a Bouligand subgradient of it.

        Raises ValueError for an operator that is neither smooth nor a kink of the table, TraceError for a model
        that branches on values.
        """
        self._graph(theta, batch)
        if self._moves[form_of(batch)] is not None:
            with contextlib.suppress(_KinkFound):
                return self._plain(theta, batch, settled=True)
        return self._along(theta, batch, lambda: self._direction(theta))

    def __call__(self, theta: torch.Tensor) -> torch.Tensor:
        """(d,) a Bouligand subgradient of F at theta: (d,), over all data with one direction.

        Cost: a gradient where no kink is active or the bias lemma settles all, else a JVP and the backward pass
        through it: 2.5 to 3.2 gradients on a residual CNN without biases whose every kink is active.
        """
        ours: list[torch.Tensor] = []  # the direction, drawn when the first kink is met

        def direction() -> torch.Tensor:
            if not ours:
                ours.append(self._direction(theta))
            return ours[0]

        for batch in self._batches():
            self._graph(theta, batch)
        first, *others = self._moves.values()
        if first is not None and all(moves == first for moves in others):  # one move that serves all batches
            with contextlib.suppress(_KinkFound):
                return self._summed(theta, lambda batch: self._plain(theta, batch, settled=True)[1])
        return self._over_all_data(theta, direction)

    def along(self, theta: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """(d,) the limit of the gradients of F at theta + e h as e falls to 0, where h: (d,) breaks every tie.

        Cost: a JVP and the backward pass through it. An h that leaves a tie gets one of the sides.
        """
        self._met_kinks = True
        return self._over_all_data(theta, lambda: h)

    def _over_all_data(self, theta: torch.Tensor, direction: Callable[[], torch.Tensor]) -> torch.Tensor:
        return self._summed(theta, lambda batch: self._along(theta, batch, direction)[1])

    def _summed(self, theta: torch.Tensor, gradient: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        problem = self.problem
        total = torch.zeros_like(theta)
        for batch in self._batches():
            part = gradient(batch)
            if not problem.is_function and problem.reduction == "mean":
                part = part * size_of(batch)
            total = total + part
        return total if problem.is_function or problem.reduction == "sum" else total / problem.n

    def _batches(self) -> Any:
        return self.problem.batches if not self.problem.is_function else [()]

    def _direction(self, theta: torch.Tensor) -> torch.Tensor:
        return torch.randn(theta.numel(), dtype=torch.float64, generator=self._generator).to(theta)

    def _plain(self, theta: torch.Tensor, batch: Batch, *, settled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Autograd's own gradient. Raises _KinkFound at an active kink; settled: only at a tie of a max-pool."""
        graph, leaves = self._graph(theta, batch), self._leaves(theta)
        kinks = _POOLS if settled else KINKS

        def watch(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            if step.op in kinks and _on_kink(graph, step, args, kwargs, result):
                raise _KinkFound

        with torch.enable_grad():
            value = graph.run(leaves, batch, visit=watch).sum()
        return value.detach(), _flat_gradient(value, leaves, theta)

    def _leaves(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        return {key: part.detach().requires_grad_() for key, part in self.problem.unflatten(theta).items()}

    def _along(
        self, theta: torch.Tensor, batch: Batch, direction: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._met_kinks:
            with contextlib.suppress(_KinkFound):
                return self._plain(theta, batch, settled=False)
        graph, h = self._graph(theta, batch), direction()
        until = self._last_tie.get(form_of(batch))  # beyond the last tie no derivative along h is needed
        try:
            value, gradient, met = self._dual(graph, theta, batch, h, until)
        except _KinkFound:
            value, gradient, met = self._dual(graph, theta, batch, h, None)
        self._met_kinks = bool(met)  # where no kink was active, the next step tries the plain gradient first
        self._last_tie[form_of(batch)] = met[-1] if met else None
        return value, gradient

    def _dual(
        self, graph: Graph, theta: torch.Tensor, batch: Batch, h: torch.Tensor, until: str | None
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """One pass that carries the derivative along h up to a step, chooses the sides by it, and goes backward.

        Raises _KinkFound for a tie beyond that step.
        """
        leaves, passed = self._leaves(theta), False
        met: list[str] = []

        def decided(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal passed
            assert step.function is not None
            kink = step.op in KINKS and step.op in ROWS
            if passed:
                args, kwargs = tree_map(_primal, args), tree_map(_primal, kwargs)
            # for maxima it shows in the result whether they tie
            result = step.function(*args, **kwargs) if passed or (kink and step.op in MAXIMA) else None
            if not kink or not _tied(step, args, kwargs, result):
                return NotImplemented if result is None else result
            if passed:
                raise _KinkFound
            met.append(step.name)
            passed = step.name == until
            choose, apply = ROWS[step.op]
            with torch.no_grad():
                side = choose(*args, **kwargs)
            return apply(side, *args, **kwargs)

        parts = zip(leaves.items(), self.problem.unflatten(h).values(), strict=True)
        with torch.enable_grad(), forward_ad.dual_level():
            duals = {key: forward_ad.make_dual(leaf, along) for (key, leaf), along in parts}
            value = forward_ad.unpack_dual(graph.run(duals, batch, replace=decided).sum())[0]
        return value.detach(), _flat_gradient(value, leaves, theta), met


def _primal(leaf: Any) -> Any:
    return forward_ad.unpack_dual(leaf)[0] if isinstance(leaf, torch.Tensor) else leaf


def _flat_gradient(value: torch.Tensor, leaves: Mapping[str, torch.Tensor], theta: torch.Tensor) -> torch.Tensor:
    if not value.requires_grad:
        return torch.zeros_like(theta)
    gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in gradients])


class _KinkFound(Exception):
    """The forward pass met an active kink: the ordinary backward pass would not be certified."""


def _on_kink(graph: Graph, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether an input is on a kink, or entries tie; not zeros of relus that tie: there relu's own kink decides."""
    if step.op not in MAXIMA or not behind_relu(graph, step):
        return _tied(step, args, kwargs, result)
    with torch.no_grad():
        plain = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args]
        if step.op in _POOLS:
            return bool((tied_windows(plain[0], result[0], *plain[1:]) & (result[0] != 0)).any())
        return bool((without_dead(graph, step, KINKS[step.op].gaps(*plain, **kwargs), result) == 0).any())


def _tied(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether an input is on a kink, or entries tie."""
    with torch.no_grad():
        plain = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args]
        if step.op == "aten.relu.default":
            return int(torch.count_nonzero(plain[0])) < plain[0].numel()
        if step.op in _POOLS:
            return bool(tied_windows(plain[0], result[0].detach(), *plain[1:]).any())
        return bool((KINKS[step.op].gaps(*plain, **kwargs) == 0).any())


def safe_gradient(
    F: Problem | Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor | None = None, *, seed: int = 0
) -> torch.Tensor:
    """(d,) a Bouligand, hence Clarke, subgradient of F at x: (d,), almost surely in the direction drawn.

    Use `SafeGradient(problem)` in a loop: it keeps the trace. Cost: a trace, a gradient, and at kinks a JVP and a
    second gradient.

    >>> safe_gradient(lambda x: torch.relu(x).sum() - torch.relu(-x).sum(), torch.zeros(1))
    tensor([1.])
    """
    problem = as_problem(F, x)
    theta = problem.theta if x is None else x.detach().to(problem.device, problem.dtype)
    return SafeGradient(problem, seed=seed)(theta)


def drop_in(parameters: Mapping[str, torch.Tensor], gradient: torch.Tensor) -> None:
    """Write a flat gradient into the .grad of the parameters, in their order, for torch.optim."""
    start = 0
    for parameter in parameters.values():
        size = parameter.numel()
        parameter.grad = gradient[start : start + size].view_as(parameter).to(parameter.dtype).clone()
        start += size
