"""PyTorch's learning-rate schedulers as schedules: alpha_k as data, for what is decided from it.

A PyTorch scheduler with a planned end (CosineAnnealingLR, PolynomialLR, OneCycleLR) is taken to hold its last
step size after it, as training stops there; CosineAnnealingLR itself would rise again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from torch.optim import lr_scheduler

from tameopt.optim.schedule import Real, Schedule
from tameopt.optim.schedules import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Product,
    Step,
)


def from_torch(scheduler: lr_scheduler.LRScheduler, group: int = 0) -> Schedule:
    """The schedule of one parameter group of a PyTorch scheduler, from its step 0.

    scheduler: ConstantLR, LinearLR, StepLR, MultiStepLR, ExponentialLR, PolynomialLR, CosineAnnealingLR,
    CosineAnnealingWarmRestarts, OneCycleLR, SequentialLR of these, ChainedScheduler of the multiplicative ones;
    stepped once an optimizer step. Numbers agree with PyTorch's to rounding (it multiplies step by step).

    Raises ValueError for a scheduler that is no formula in k (LambdaLR, ReduceLROnPlateau, …): record its step sizes
    and give them as `schedules.Table(values, then=...)`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> str(from_torch(torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)))
    '0.1, times 0.1 every 30 steps'
    """
    kind = type(scheduler)
    if kind is lr_scheduler.SequentialLR:
        return _sequential(scheduler, group)
    if kind is lr_scheduler.ChainedScheduler:
        return _chained(scheduler, group)
    convert = _CONVERSIONS.get(kind)
    if convert is None:
        known = ", ".join(sorted(entry.__name__ for entry in (*_CONVERSIONS, *_COMPOSED)))
        raise ValueError(
            f"the scheduler must be a formula in k, got {kind.__name__}: tameopt reads {known}; for any other, "
            "record the step sizes and give them as tame.schedules.Table(values, then=...)."
        )
    return convert(scheduler, _base(scheduler, group))


_COMPOSED = (lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler)


def _base(scheduler: Any, group: int) -> Real:
    # base_lrs is what the group began with, whatever has been stepped since
    return _number(scheduler.base_lrs[group])


def _number(entry: Any) -> Real:
    return entry if isinstance(entry, (int, float)) else float(entry)


def _constant(scheduler: Any, a: Real) -> Schedule:
    if scheduler.factor == 1 or scheduler.total_iters == 0:
        return Constant(a)
    return Chain(((scheduler.total_iters, Constant(_times(a, scheduler.factor))),), Constant(a))


def _times(left: Real, right: Real) -> Real:
    """The exact product of two decimals."""
    return Fraction(repr(left)) * Fraction(repr(right))


def _linear(scheduler: Any, a: Real) -> Schedule:
    return Linear(a, scheduler.total_iters, scheduler.start_factor, scheduler.end_factor)


def _step(scheduler: Any, a: Real) -> Schedule:
    return Step(a, scheduler.step_size, scheduler.gamma)


def _multistep(scheduler: Any, a: Real) -> Schedule:
    return MultiStep(a, tuple(sorted(scheduler.milestones.elements())), scheduler.gamma)


def _exponential(scheduler: Any, a: Real) -> Schedule:
    return Exponential(a, scheduler.gamma)


def _polynomial(scheduler: Any, a: Real) -> Schedule:
    return Polynomial(a, scheduler.total_iters, scheduler.power)


def _cosine(scheduler: Any, a: Real) -> Schedule:
    return Cosine(a, scheduler.T_max, a_min=scheduler.eta_min)


def _restarts(scheduler: Any, a: Real) -> Schedule:
    return CosineRestarts(a, scheduler.T_0, scheduler.T_mult, scheduler.eta_min)


def _onecycle(scheduler: Any, a: Real) -> Schedule:
    phases = scheduler._schedule_phases
    group = scheduler.optimizer.param_groups[0]
    if scheduler._anneal_func_type != "cos" or len(phases) != 2:
        raise ValueError(
            "OneCycleLR must anneal by a cosine in two phases, got "
            f"anneal_strategy={scheduler._anneal_func_type!r} in {len(phases)} phases: give its "
            "step sizes as tame.schedules.Table(values, then=...)."
        )
    top, first, last = group["max_lr"], group["initial_lr"], group["min_lr"]
    rise = (Fraction(repr(phases[0]["end_step"])) + 1) / scheduler.total_steps
    return OneCycle(top, scheduler.total_steps, rise, _ratio(top, first), _ratio(first, last))


def _ratio(left: float, right: float) -> Fraction:
    # lr / divisor was rounded when PyTorch divided: the divisor people wrote is the short fraction beside it
    return Fraction(left / right).limit_denominator(10**6)


_CONVERSIONS: dict[type, Callable[[Any, Real], Schedule]] = {
    lr_scheduler.ConstantLR: _constant,
    lr_scheduler.LinearLR: _linear,
    lr_scheduler.StepLR: _step,
    lr_scheduler.MultiStepLR: _multistep,
    lr_scheduler.ExponentialLR: _exponential,
    lr_scheduler.PolynomialLR: _polynomial,
    lr_scheduler.CosineAnnealingLR: _cosine,
    lr_scheduler.CosineAnnealingWarmRestarts: _restarts,
    lr_scheduler.OneCycleLR: _onecycle,
}
_MULTIPLICATIVE = (
    lr_scheduler.ConstantLR,
    lr_scheduler.LinearLR,
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
)


def _sequential(scheduler: Any, group: int) -> Schedule:
    parts = [from_torch(part, group) for part in scheduler._schedulers]
    edges = [0, *scheduler._milestones]
    lengths = [after - before for before, after in itertools.pairwise(edges)]
    return Chain(tuple(zip(lengths, parts[:-1], strict=True)), parts[-1])


def _chained(scheduler: Any, group: int) -> Schedule:
    """Schedulers that each multiply the step size: the product of their factors."""
    parts = scheduler._schedulers
    for part in parts:
        if type(part) not in _MULTIPLICATIVE:
            raise ValueError(
                f"a ChainedScheduler must be of schedulers that multiply, got {type(part).__name__}: give its step "
                "sizes as tame.schedules.Table(values, then=...)."
            )
    found = from_torch(parts[0], group)
    for part in parts[1:]:
        found = Product(found, _CONVERSIONS[type(part)](part, 1.0))
    return found
