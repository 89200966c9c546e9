"""Which step sizes suit this point: from curvature, from gradient noise, as a whole and group by group.

Everything here is local: it is true of the quadratic model of F at one theta, and curvature moves as training goes
on. The statements say so, and nothing here proves anything about later steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tameopt.curvature import spectrum, stability_limit
from tameopt.evidence import Cost
from tameopt.linear_operator import SymmetricOperator
from tameopt.noise.covariance import batch_factor
from tameopt.problem import Problem

_SAMPLES = 48  # our choice: the standard error of tr(H Sigma) is then about a tenth of it on the digits network
_SAMPLES_AT_ONCE = 16
_ENOUGH = 0.05  # our choice: no more samples are drawn once the best step is known to 5%
_GROUP_RESIDUAL = 1e-2  # our choice: a Ritz value's error is quadratic in its residual, so some four digits
_MOST_GROUPS = 8  # our choice: each costs a Lanczos run; the largest groups are measured, the others named


@dataclass(frozen=True)
class GroupSteps:
    """The steps that one group of parameters bears when the others stand still.

    name, size: of the group. lambda_max: largest eigenvalue of its diagonal block of the Hessian, lower bound up to
    rounding; lambda_upper: not exceeded except with probability 1% (inf when unknown).
    descent: 1/lambda_max; limit: (low, high), where the stability limit lies, inf when it curves nowhere up.
    """

    name: str
    size: int
    lambda_max: float
    lambda_upper: float
    descent: float
    limit: tuple[float, float]


@dataclass(frozen=True)
class BestStep:
    """The step that lowers the expected quadratic model most, along the mini-batch gradient.

    alpha*: norm(g)^2 / (g.H g + tr(H Sigma_b)); interval: 95%, from the error of the sampled trace; alpha is NaN
    when the model has no minimum along the gradient. without_noise: the same with Sigma = 0.
    """

    alpha: float
    interval: tuple[float, float]
    without_noise: float
    batch_size: int
    samples: int
    reason: str = ""


@dataclass(frozen=True)
class StepInterval:
    """What is known about the step at theta.

    method: whose stability limit this is; factor: alpha lambda_max must stay below it, None when the method has no
    such limit (reason says why). whole: all parameters as one group; groups: the largest of them.
    left_out: names of groups that were not measured.
    """

    method: str
    factor: float | None
    reason: str
    whole: GroupSteps
    groups: tuple[GroupSteps, ...]
    left_out: tuple[str, ...]
    best: BestStep | None
    gradient_norm: float
    cost: Cost

    def sentences(self) -> tuple[str, ...]:
        """The answer in words, most useful first."""
        low, high = self.whole.limit
        said = []
        if self.factor is None:
            said.append(f"No stability limit of {self.method.partition(',')[0]} is given: {self.reason}.")
        elif math.isinf(high):
            said.append("The loss curves up in no direction found: curvature sets no limit here.")
        else:
            said.append(
                f"A step above {high:.3g} is unstable here: {self.method} needs "
                f"alpha lambda_max < {self.factor:.4g}, and lambda_max is at least {self.whole.lambda_max:.4g}."
            )
            if low > 0:
                said.append(f"A step below {low:.3g} is stable on the local quadratic (99%).")
        if not math.isinf(self.whole.descent):
            below = f"{self.whole.descent:.3g}"
            said.append(f"Below 1/lambda_max = {below} each full-batch gradient step lowers the local quadratic.")
        if self.best is not None:
            said.append(self._about_noise(self.best))
        return tuple(said)

    def _about_noise(self, best: BestStep) -> str:
        if not math.isfinite(best.alpha):
            return f"No best step along the gradient is given: {best.reason}."
        low, high = best.interval
        noise = ""
        if best.samples and best.without_noise > 0 and math.isfinite(best.without_noise):
            noise = f"; without noise it would be {best.without_noise:.3g}"
        once = " (once: repeated, it would be unstable)" if best.alpha > self.whole.limit[1] else ""
        batches = f"With batches of {best.batch_size:,} the" if best.samples else "The"
        span = f" [{low:.3g}, {high:.3g}]" if best.samples else ""
        return (
            f"{batches} single step that lowers the local quadratic most in expectation is "
            f"{best.alpha:.3g}{span}{noise}{once}."
        )


def step_interval(
    problem: Problem,
    theta: torch.Tensor | None = None,
    *,
    optimizer: str = "SGD",
    arguments: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    replacement: bool = True,
    seed: int = 0,
) -> StepInterval:
    """The steps that suit theta: (d,), by default the model's parameters now.

    optimizer, arguments: whose stability limit is wanted, with PyTorch's argument names. batch_size: None is the full
    batch; replacement: how batches are drawn. Costs some tens of Hessian products a group and for the noise.

    Raises ValueError for a theta at which F, its gradient or its curvature is not finite.

    >>> problem = Problem.from_function(lambda t: 5 * t[0] ** 2 + t[1] ** 2, torch.ones(2).double())
    >>> found = step_interval(problem)
    >>> round(found.whole.descent, 6), round(found.whole.limit[1], 6)
    (0.1, 0.2)
    """
    begun = time.perf_counter()
    at = problem.theta if theta is None else theta
    value, gradient = problem.value_and_gradient(at)
    if not (bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())):
        raise ValueError(f"F and its gradient must be finite at theta, F is {float(value):.4g}: no step can be told.")
    limit = stability_limit(optimizer, arguments)
    factor, reason = limit.limit, limit.reason
    if limit.preconditioner:
        factor, reason = (
            None,
            f"it depends on the state of {optimizer} ({limit.preconditioner}); audit a recorded run",
        )
    hessian = problem.hessian(at)
    generator = torch.Generator().manual_seed(seed)
    whole, products = _group("all parameters", hessian, factor, limit.decay, generator, None)
    groups, left_out = _groups(problem)
    parts = []
    for name, chosen in groups:
        part, used = _group(name, hessian.restrict(chosen), factor, limit.decay, generator, _GROUP_RESIDUAL)
        parts.append(part)
        products += used
    best = None
    # with momentum or a preconditioner the update is not along the mini-batch gradient
    if limit.method == "gradient descent":
        best = _best(problem, at, gradient, hessian, batch_size, replacement, generator)
        products += 0 if best is None else 1 + best.samples
    cost = Cost(1.0, float(products), time.perf_counter() - begun)
    return StepInterval(
        limit.method, factor, reason, whole, tuple(parts), left_out, best, float(gradient.norm()), cost
    )


def _group(
    name: str,
    operator: SymmetricOperator,
    factor: float | None,
    decay: float,
    generator: torch.Generator,
    tolerance: float | None,
) -> tuple[GroupSteps, int]:
    """The steps of one group, and the Hessian products used."""
    found = spectrum(operator, k=1, which="largest", dense_below=16, tolerance=tolerance, generator=generator)
    if not math.isfinite(found.lambda_max):
        raise ValueError(f"the curvature of {name} is not finite at theta ({found.failure}): no step can be told.")
    top = found.lambda_max + decay
    upper = top + found.missed + float(found.noise)
    descent = 1.0 / top if top > 0 else math.inf
    limits = (0.0, math.inf)
    if factor is not None:
        limits = (factor / upper if 0 < upper < math.inf else 0.0, factor / top if top > 0 else math.inf)
    return GroupSteps(name, operator.dim, found.lambda_max, upper - decay, descent, limits), found.products


def _groups(problem: Problem) -> tuple[list[tuple[str, torch.Tensor]], tuple[str, ...]]:
    """The coordinates of each module's own parameters, the largest modules; and the names of the others."""
    members: dict[str, list[torch.Tensor]] = {}
    start = 0
    for key, shape in problem.shapes.items():
        size = math.prod(shape)
        module = key.rpartition(".")[0] or key
        members.setdefault(module, []).append(torch.arange(start, start + size))
        start += size
    if len(members) < 2:
        return [], ()
    joined = {name: torch.cat(parts) for name, parts in members.items()}
    ranked = sorted(joined, key=lambda name: -joined[name].numel())
    kept = set(ranked[:_MOST_GROUPS])
    return [(name, joined[name]) for name in joined if name in kept], tuple(ranked[_MOST_GROUPS:])


def _best(
    problem: Problem,
    theta: torch.Tensor,
    gradient: torch.Tensor,
    hessian: SymmetricOperator,
    batch_size: int | None,
    replacement: bool,
    generator: torch.Generator,
) -> BestStep | None:
    """minimise over alpha: -alpha norm(g)^2 + alpha^2/2 (g.H g + tr(H Sigma_b)), S. McCandlish et al. (2018), 2.2."""
    g = gradient.to(problem.dtype)
    square, curved = float(g @ g), float(g @ (hessian @ g))
    if square == 0:
        return BestStep(math.nan, (math.nan, math.nan), math.nan, 0, 0, "the gradient is 0")
    plain = square / curved if curved > 0 else math.inf
    full = problem.is_function or batch_size is None or batch_size >= problem.n
    if full:
        reason = "" if curved > 0 else "F curves down along the gradient: the quadratic model has no lowest point"
        alpha = plain if curved > 0 else math.nan
        return BestStep(alpha, (alpha, alpha), plain, problem.n, 0, reason)
    if problem.reduction == "sum":
        return None
    assert batch_size is not None
    scale = batch_factor(problem.n, batch_size, replacement)
    order = torch.randperm(problem.n, generator=generator)[:_SAMPLES]
    forms = torch.empty(0, dtype=torch.float64)
    trace, error = 0.0, math.inf
    for chosen in order.split(_SAMPLES_AT_ONCE):
        deviations = problem.sample_gradients(theta, chosen).to(g.dtype) - g
        forms = torch.cat([forms, (deviations * (hessian @ deviations.T).T).sum(1).double().cpu()])
        trace = scale * float(forms.mean())
        error = 1.96 * scale * float(forms.std()) / math.sqrt(len(forms)) if len(forms) > 1 else math.inf
        if error < _ENOUGH * (curved + trace):
            break
    m = len(forms)
    if curved + trace <= 0:
        why = "the expected quadratic model has no lowest point along the gradient"
        return BestStep(math.nan, (math.nan, math.nan), plain, batch_size, m, why)
    least = curved + trace - error
    interval = (square / (curved + trace + error), square / least if least > 0 else math.inf)
    return BestStep(square / (curved + trace), interval, plain, batch_size, m)
