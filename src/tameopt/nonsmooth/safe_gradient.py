"""A gradient that is right at kinks: one certified element of the Bouligand subdifferential for a JVP and a VJP.

Push a Gaussian direction h forward. Where an operator sits on its kink, take the side to which h leads; then one
backward pass with those sides. Almost surely in h, F is differentiable at x + e h for all small e > 0 with exactly
those sides, so the result is the limit of its gradients there: a Bouligand, hence a Clarke, subgradient. A tie that
h does not break has derivative 0 along almost every direction, and then its side does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad

from tameopt.batches import Batch
from tameopt.nonsmooth import _lemma_checker
from tameopt.nonsmooth.backprop import as_problem
from tameopt.nonsmooth.graph import Graph, Step, trace
from tameopt.nonsmooth.kinks import behind_relu, form_of, without_dead
from tameopt.nonsmooth.operators import KINKS, max_pool_windows, tied_windows
from tameopt.nonsmooth.traces import certificate_steps
from tameopt.problem import Problem

Apply = Callable[[], Any]
Tangent = Callable[[Any], torch.Tensor]


def _tangent(x: Any) -> torch.Tensor:
    """The derivative of a dual tensor along h, 0 for what does not depend on theta."""
    primal, tangent = forward_ad.unpack_dual(x)
    return torch.zeros_like(primal) if tangent is None else tangent.detach()


def _value(x: Any) -> torch.Tensor:
    return forward_ad.unpack_dual(x)[0].detach()


def _above(x: torch.Tensor, point: Any = 0.0) -> torch.Tensor:
    """Whether x + e h > point for small e > 0."""
    value = _value(x)
    at = _value(point) if isinstance(point, torch.Tensor) else point
    side, tied = value > at, value == at
    if not bool(tied.any()):
        return side
    slope = _tangent(x) - _tangent(point) if isinstance(point, torch.Tensor) else _tangent(x)
    return side | (tied & (slope > 0))


def _decided(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A nonsmooth operator on dual tensors, on the side to which their derivatives lead."""
    row = _ROWS.get(step.op)
    if row is None:
        return NotImplemented
    choose, apply = row
    with torch.no_grad():
        side = choose(*args, **kwargs)
    return apply(side, *args, **kwargs)


def _positive(x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
    return _above(x)


def _relu(side: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(side, x, 0.0)


def _abs(side: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(side, x, -x)


def _leaky(side: torch.Tensor, x: torch.Tensor, slope: Any = 0.01) -> torch.Tensor:
    return torch.where(side, x, slope * x)


def _elu(side: torch.Tensor, x: torch.Tensor, alpha: Any = 1, scale: Any = 1, inner: Any = 1) -> torch.Tensor:
    return torch.where(side, scale * x, scale * alpha * torch.expm1(inner * torch.where(side, 0.0, x)))


def _clamp_sides(x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    """-1 at the lower bound, +1 at the upper one, 0 between: a kink at a bound goes where h leads."""
    side = torch.zeros(_value(x).shape, dtype=torch.int8, device=x.device)
    if low is not None:
        side = torch.where(_above(x, low), side, -1)
    if high is not None:
        side = torch.where(_above(x, high), 1, side)
    return side


def _clamp(side: torch.Tensor, x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    result = x if low is None else torch.where(side == -1, low, x)
    return result if high is None else torch.where(side == 1, high, result)


def _hardtanh_sides(x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return _clamp_sides(x, low, high)


def _hardtanh(side: torch.Tensor, x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return _clamp(side, x, low, high)


def _larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _above(a, b)


def _best(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The index of the largest entry along a dimension, the fastest growing among equals; keeps the dimension."""
    value, slope = _value(x), _tangent(x)
    top = value.amax(dim=dim, keepdim=True)
    return torch.where(value == top, slope, -torch.inf).argmax(dim=dim, keepdim=True)


def _reduce(sign: int) -> tuple[Any, Any]:
    def flat(x: torch.Tensor, dims: Any) -> tuple[torch.Tensor, list[int]]:
        axes = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
        axes = [axis % max(x.ndim, 1) for axis in axes]
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        return x.permute(*kept, *axes).flatten(len(kept)) if x.ndim else x.reshape(1), axes

    def choose(x: torch.Tensor, dims: Any = None, keepdim: bool = False) -> torch.Tensor:
        return _best(sign * flat(x, dims)[0], -1)

    def apply(index: torch.Tensor, x: torch.Tensor, dims: Any = None, keepdim: bool = False) -> torch.Tensor:
        rows, axes = flat(x, dims)
        result = rows.gather(-1, index).squeeze(-1)
        for axis in sorted(axes) if keepdim else []:
            result = result.unsqueeze(axis)
        return result

    return choose, apply


def _with_index(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """For operators that return (values, indices)."""

    def apply(index: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return pair[1](index, *args, **kwargs), index.squeeze(-1)

    return pair[0], apply


def _order(x: torch.Tensor, dim: int, descending: bool) -> torch.Tensor:
    """The order along a dimension, ties by their derivative along h."""
    sign = -1 if descending else 1
    first = (sign * _tangent(x)).argsort(dim=dim, stable=True)
    second = (sign * _value(x)).gather(dim, first).argsort(dim=dim, stable=True)
    return first.gather(dim, second)


def _sort_order(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _order(x, *_sort_arguments(*args, **kwargs))


def _sort_arguments(*args: Any, dim: int = -1, descending: bool = False, stable: Any = None) -> tuple[int, bool]:
    for arg in args:
        if isinstance(arg, bool):
            descending = arg
        elif isinstance(arg, int):
            dim = arg
    return dim, descending


def _sort(order: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x.gather(_sort_arguments(*args, **kwargs)[0], order), order


def _topk_order(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> torch.Tensor:
    return _order(x, dim, largest).narrow(dim, 0, k)


def _topk(order: torch.Tensor, x: torch.Tensor, k: int, dim: int = -1, *rest: Any) -> tuple[Any, Any]:
    return x.gather(dim, order), order


def _pool_choice(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """The place in the image of the entry that wins each window: the fastest growing among equals."""
    value, slope = _value(x), _tangent(x)
    best, first = torch.ops.aten.max_pool2d_with_indices(value, *args)
    if not bool(tied_windows(value, best, *args).any()):
        return first
    height, width = value.shape[-2:]
    places = torch.arange(height * width, dtype=torch.float64, device=x.device).view(1, 1, height, width)
    windows = max_pool_windows(value, *args)
    rate = torch.where(windows == windows.amax(-1, keepdim=True), max_pool_windows(slope, *args), -torch.inf)
    choice = rate.argmax(-1, keepdim=True)
    where = max_pool_windows(places, *args).expand(*choice.shape[:-1], -1).gather(-1, choice)
    return where.squeeze(-1).long()


def _pool(places: torch.Tensor, x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = x.flatten(-2).gather(-1, places.flatten(-2)).view(places.shape)
    return chosen, places


def _compare(sign: int) -> tuple[Any, Any]:
    def choose(a: torch.Tensor, b: Any) -> torch.Tensor:
        if sign > 0:
            return _above(a, b)
        return ~_above(a, b)

    return choose, lambda side, a, b: side


_ROWS: dict[str, tuple[Any, Any]] = {
    "aten.relu.default": (_positive, _relu),
    "aten.abs.default": (_positive, _abs),
    "aten.leaky_relu.default": (_positive, _leaky),
    "aten._prelu_kernel.default": (_positive, lambda side, x, weight: torch.where(side, x, weight * x)),
    "aten.elu.default": (_positive, _elu),
    "aten.clamp.default": (_clamp_sides, _clamp),
    "aten.clamp.Tensor": (_clamp_sides, _clamp),
    "aten.clamp_min.default": (_clamp_sides, _clamp),
    "aten.clamp_min.Tensor": (_clamp_sides, _clamp),
    "aten.clamp_max.default": (
        lambda x, high: _clamp_sides(x, None, high),
        lambda s, x, high: _clamp(s, x, None, high),
    ),
    "aten.hardtanh.default": (_hardtanh_sides, _hardtanh),
    "aten.maximum.default": (_larger, torch.where),
    "aten.fmax.default": (_larger, torch.where),
    "aten.minimum.default": (lambda a, b: _above(b, a), torch.where),
    "aten.fmin.default": (lambda a, b: _above(b, a), torch.where),
    "aten.max.default": _reduce(1),
    "aten.min.default": _reduce(-1),
    "aten.amax.default": _reduce(1),
    "aten.amin.default": _reduce(-1),
    "aten.max.dim": _with_index(_reduce(1)),
    "aten.min.dim": _with_index(_reduce(-1)),
    "aten.sort.default": (_sort_order, _sort),
    "aten.sort.stable": (_sort_order, _sort),
    "aten.topk.default": (_topk_order, _topk),
    "aten.max_pool2d_with_indices.default": (_pool_choice, _pool),
    "aten.gt.Scalar": _compare(1),
    "aten.gt.Tensor": _compare(1),
    "aten.ge.Scalar": _compare(1),
    "aten.ge.Tensor": _compare(1),
    "aten.lt.Scalar": _compare(-1),
    "aten.lt.Tensor": _compare(-1),
    "aten.le.Scalar": _compare(-1),
    "aten.le.Tensor": _compare(-1),
    # a branch chosen by a comparison is differentiated exactly once the comparison is decided
}


def _uncovered(graph: Graph) -> str:
    """ "" when every theta-dependent step is smooth or has a row here, else the first that is neither."""
    depends = {step.name for step in graph if step.depends}
    for step, written in zip(graph, certificate_steps(graph)["steps"], strict=True):
        if step.depends and step.op not in _ROWS and step.op != "aten.where.self":
            reason = _lemma_checker.smooth_refusal(written, depends)
            if reason:
                return reason
    return ""


class SafeGradient:
    """Gradients of a problem that are Bouligand subgradients at every theta, kinks included; for training loops.

    Traces the model once for each form of batch; a step without active kinks costs an ordinary gradient and a
    comparison with 0 at each kink.

    >>> F = lambda x: (torch.relu(x) - torch.relu(-x)).sum()
    >>> gradient = SafeGradient(Problem.from_function(F, torch.zeros(2)))
    >>> gradient(torch.zeros(2))
    tensor([1., 1.])
    """

    def __init__(self, problem: Problem, *, seed: int = 0) -> None:
        self.problem = problem
        self._graphs: dict[Any, Graph] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._met_kinks = False

    def _graph(self, theta: torch.Tensor, batch: Batch) -> Graph:
        form = form_of(batch)
        if form not in self._graphs:
            graph = trace(self.problem, theta, batch)
            reason = _uncovered(graph)
            if reason:
                raise ValueError(f"a safe gradient needs operators that are smooth or kinks it knows: {reason}.")
            self._graphs[form] = graph
        return self._graphs[form]

    def batch(self, theta: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of one batch as the model returns it, summed, and (d,) a Bouligand subgradient of it.

        Raises ValueError for an operator that is neither smooth nor a kink of the table, TraceError for a model
        that branches on values.
        """
        return self._along(theta, batch, lambda: self._direction(theta))

    def __call__(self, theta: torch.Tensor) -> torch.Tensor:
        """(d,) a Bouligand subgradient of F at theta: (d,), over all data with one direction.

        Cost: a gradient where no kink is active, else a JVP and the backward pass through it.
        """
        ours: list[torch.Tensor] = []  # the direction, drawn when the first kink is met

        def direction() -> torch.Tensor:
            if not ours:
                ours.append(self._direction(theta))
            return ours[0]

        return self._over_all_data(theta, direction)

    def along(self, theta: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """(d,) the limit of the gradients of F at theta + e h as e falls to 0, where h: (d,) breaks every tie.

        Cost: a JVP and the backward pass through it. An h that leaves a tie gets one of the sides.
        """
        self._met_kinks = True
        return self._over_all_data(theta, lambda: h)

    def _over_all_data(self, theta: torch.Tensor, direction: Callable[[], torch.Tensor]) -> torch.Tensor:
        problem = self.problem
        total = torch.zeros_like(theta)
        for batch in problem.batches if not problem.is_function else [()]:
            part = self._along(theta, batch, direction)[1]
            if not problem.is_function and problem.reduction == "mean":
                from tameopt.batches import size_of

                part = part * size_of(batch)
            total = total + part
        return total if problem.is_function or problem.reduction == "sum" else total / problem.n

    def _direction(self, theta: torch.Tensor) -> torch.Tensor:
        return torch.randn(theta.numel(), dtype=torch.float64, generator=self._generator).to(theta)

    def _along(
        self, theta: torch.Tensor, batch: Batch, direction: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        graph = self._graph(theta, batch)

        def watch(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            if step.op in KINKS and _on_kink(graph, step, args, kwargs, result):
                raise _KinkFound

        leaves = {key: part.detach().requires_grad_() for key, part in self.problem.unflatten(theta).items()}
        if not self._met_kinks:
            try:
                with torch.enable_grad():
                    value = graph.run(leaves, batch, visit=watch).sum()
                return value.detach(), _flat_gradient(value, leaves, theta)
            except _KinkFound:
                self._met_kinks = True
        met: list[str] = []

        def look(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            if not met and step.op in KINKS and _on_kink(graph, step, args, kwargs, result):
                met.append(step.name)

        parts = zip(leaves.items(), self.problem.unflatten(direction()).values(), strict=True)
        # one pass carries the derivative along h, chooses the sides by it, and is differentiated backward
        with torch.enable_grad(), forward_ad.dual_level():
            duals = {key: forward_ad.make_dual(leaf, along) for (key, leaf), along in parts}
            value = forward_ad.unpack_dual(graph.run(duals, batch, visit=look, replace=_decided).sum())[0]
        self._met_kinks = bool(met)  # where no kink was active, the next step tries the plain gradient first
        return value.detach(), _flat_gradient(value, leaves, theta)


def _flat_gradient(value: torch.Tensor, leaves: Mapping[str, torch.Tensor], theta: torch.Tensor) -> torch.Tensor:
    if not value.requires_grad:
        return torch.zeros_like(theta)
    gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in gradients])


class _KinkFound(Exception):
    """The forward pass met an active kink: the ordinary backward pass would not be certified."""


def _on_kink(graph: Graph, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    with torch.no_grad():
        plain = [arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in args]
        if step.op == "aten.relu.default":
            return bool((plain[0] == 0).any())
        if step.op == "aten.max_pool2d_with_indices.default":
            tied = tied_windows(plain[0], result[0], *plain[1:])
            return bool((tied & (result[0] != 0)).any() if behind_relu(graph, step) else tied.any())
        gaps = without_dead(graph, step, KINKS[step.op].gaps(*plain, **kwargs), result)
        return bool((gaps == 0).any())


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
