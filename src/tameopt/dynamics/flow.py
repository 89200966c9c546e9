"""The gradient flow theta' = -grad F(theta), with error control, for one start or many at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.func import vmap

from tameopt.batches import Batch, size_of
from tameopt.dynamics.batched_rk import Crossing, Field, Method, Watch, solve
from tameopt.problem import Problem

Function = Callable[..., torch.Tensor]

_TIMINGS = 3  # our choice: the least of three, as other work on the machine lengthens single ones


@dataclass(frozen=True)
class Event:
    """A moment of a flow: where function(theta), (d,) -> scalar, changes its sign.

    terminal: the trajectory stops there. direction: +1 counts changes from below 0 to above, -1 the converse, 0 both.
    """

    function: Function
    terminal: bool = False
    direction: Literal[-1, 0, 1] = 0


@dataclass(frozen=True)
class Flow:
    """A solved gradient flow.

    times: (k,) or (m, k); states: (k, d) or (m, k, d) float64, theta at those times, NaN past the time `stopped`.
    evaluations: gradients used, a number or (m,). stopped: how far it was solved, a number or (m,).
    tolerance: asked of the norm of each step's local error, relative to max(1, norm(theta)).
    crossings: the events met, by time: trajectory (0 for a single one), event (its number), time, state (d,).
    """

    times: torch.Tensor
    states: torch.Tensor
    evaluations: torch.Tensor
    stopped: torch.Tensor
    tolerance: float
    crossings: tuple[Crossing, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every trajectory reached its last time."""
        return bool((self.stopped >= self.times[..., -1]).all())

    def __repr__(self) -> str:
        many = f"{self.states.shape[0]} trajectories, " if self.states.ndim == 3 else ""
        end = "" if self.complete else f", stopped at t={float(self.stopped.min()):.4g}"
        return (
            f"Flow({many}{self.states.shape[-2]} times, d={self.states.shape[-1]:,}, tolerance {self.tolerance:g}, "
            f"{int(self.evaluations.sum()):,} gradients{end})"
        )


def gradient_flow(
    F: Problem | Function,
    x0: torch.Tensor,
    times: torch.Tensor,
    *,
    tolerance: float = 1e-10,
    method: Method = "dop853",
    max_evaluations: int = 100_000,
    events: Sequence[Event] = (),
) -> Flow:
    """The solution of theta' = -grad F(theta), theta(times[0]) = x0, at `times`.

    F: a Problem, or a differentiable function (d,) -> scalar. x0: (d,), or (m, d) for m starts that advance
    together, each with its own step size. times: (k,) or (m, k), increasing, the first is the start.
    tolerance: local error, relative to max(1, norm(theta)); for a smooth F over a few time constants the global
    error stays within about 10 times it. method: "dop853" (order 8) or "dopri5" (order 5: cheaper for loose
    tolerances and across kinks, where no method has an order).
    max_evaluations: gradients a trajectory may use; a stiff one stops there, and `stopped` says where.
    events: `Event`s, located between the steps to rounding; two sign changes within one step are not seen.

    Raises ValueError for shapes, orders and tolerances that make no sense.

    >>> flow = gradient_flow(lambda x: x.square().sum() / 2, torch.ones(1), torch.tensor([0.0, 1.0]))
    >>> round(flow.states[-1].item(), 9)
    0.367879441
    """
    start = torch.as_tensor(x0).detach().to(torch.float64)
    asked = torch.as_tensor(times).detach().to(torch.float64).to(start.device)
    if start.ndim not in (1, 2) or start.numel() == 0 or not bool(torch.isfinite(start).all()):
        raise ValueError(f"x0 must be (d,) or (m, d), finite and not empty, got shape {tuple(start.shape)}.")
    single = start.ndim == 1
    rows = start[None] if single else start
    if asked.ndim not in (1, 2) or asked.shape[-1] < 2 or (asked.ndim == 2 and asked.shape[0] != rows.shape[0]):
        raise ValueError(
            f"times must be (k,) or ({rows.shape[0]}, k) with k >= 2, got shape {tuple(asked.shape)}: "
            "the first is the start."
        )
    table = asked.expand(rows.shape[0], -1) if asked.ndim == 1 else asked
    if not bool(torch.isfinite(table).all()) or not bool((table.diff(dim=1) > 0).all()):
        raise ValueError("times must be finite and strictly increasing: the flow runs forward from the first.")
    if not 1e-14 <= tolerance < 1:
        raise ValueError(f"tolerance must be in [1e-14, 1), got {tolerance}: float64 resolves no less.")
    field = descent_field(F, rows.shape[1])
    solution = solve(field, rows, table.contiguous(), tolerance, method, max_evaluations, _watch(events))
    met = tuple(sorted(solution.crossings, key=lambda crossing: crossing.time))
    if single:
        return Flow(asked, solution.states[0], solution.evaluations[0], solution.stopped[0], tolerance, met)
    return Flow(asked, solution.states, solution.evaluations, solution.stopped, tolerance, met)


def _watch(events: Sequence[Event]) -> Watch | None:
    if not events:
        return None
    for event in events:
        if not isinstance(event, Event):
            raise TypeError(f"an event must be a tameopt.dynamics.flow.Event(function), got {type(event).__name__}.")

    def values(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([torch.stack([event.function(row) for event in events]) for row in rows]).to(rows)

    terminal = tuple(event.terminal for event in events)
    return Watch(values, terminal, tuple(event.direction for event in events), [])


def descent_field(F: Problem | Function, dim: int) -> Field:
    """(m, d) -> (m, d): -grad F of each row in float64, by vmap where the operators allow it, else row by row.

    A problem's data go through batch by batch, so that memory holds one batch for the rows evaluated together.
    """
    if isinstance(F, Problem):
        problem = F.to(torch.float64)
        if problem.dim != dim:
            raise ValueError(f"x0 must have d = {problem.dim} columns, the problem's, got {dim}.")
        return _field(problem.gradient, _problem_gradients(problem))
    function = F

    def one(theta: torch.Tensor) -> torch.Tensor:
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            value = function(leaf)
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
        return gradient

    def many(rows: torch.Tensor) -> torch.Tensor:
        leaf = rows.detach().requires_grad_()
        with torch.enable_grad():
            total = vmap(function)(leaf).sum()
            (gradients,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
        return gradients

    return _field(one, many)


def _problem_gradients(problem: Problem) -> Field:
    """(m, d) -> (m, d): grad F of each row; autograd of the sum over the rows, cheaper than vmap of a gradient."""
    scale = 1.0 if problem.is_function or problem.reduction == "sum" else 1.0 / problem.n
    sizes = [math.prod(shape) for shape in problem.shapes.values()]

    def batch_sum(parameters: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        output = problem.batch_output(parameters, batch)
        if problem.is_function or problem.reduction == "sum":
            return output
        return output.sum() if problem.reduction == "none" else output.reshape(()) * size_of(batch)

    def gradients(rows: torch.Tensor) -> torch.Tensor:
        # a leaf for each parameter: the gradient of a slice would fill a (m, d) of zeros each time
        named = zip(problem.shapes.items(), rows.detach().split(sizes, dim=1), strict=True)
        leaves = {key: part.reshape(-1, *shape).requires_grad_() for (key, shape), part in named}
        total = torch.zeros_like(rows)
        for batch in problem.batches:
            with torch.enable_grad():
                value = vmap(lambda parameters, batch=batch: batch_sum(parameters, batch))(leaves).sum()
                parts = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
            total += torch.cat([part.flatten(1) for part in parts], dim=1)
        return total * scale

    return gradients


def _field(one: Field, many: Field) -> Field:
    """-gradient of each row: by `many` or by `one` row after row, whichever was faster when timed at the first call.

    Rows together save the overhead of small problems; where a row fills the processor they only crowd its cache.
    """
    together: bool | None = None

    def apart(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([one(row) for row in rows])

    def field(rows: torch.Tensor) -> torch.Tensor:
        nonlocal together
        if rows.shape[0] > 1 and together is None:
            together = _is_faster(many, one, rows)
        return -(many(rows) if rows.shape[0] > 1 and together else apart(rows))

    return field


def _is_faster(many: Field, one: Field, rows: torch.Tensor) -> bool:
    """Whether `many` works on the rows and takes less time than `one` for each."""
    try:
        many(rows[:2])  # the first call pays for compilation
    except (RuntimeError, NotImplementedError):
        return False  # data-dependent control flow, or an operator without a batching rule
    one(rows[0])
    together, alone = math.inf, math.inf
    for _ in range(_TIMINGS):
        begun = time.perf_counter()
        many(rows)
        middle = time.perf_counter()
        one(rows[0])
        together, alone = min(together, middle - begun), min(alone, time.perf_counter() - middle)
        if together <= 0.7 * alone * rows.shape[0]:
            return True
    return together <= alone * rows.shape[0]
