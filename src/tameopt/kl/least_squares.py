"""Is the loss least squares? Read from its operators, and held against its values and gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from tameopt.batches import Batch
from tameopt.kl.check_arrays import LARGEST
from tameopt.kl.loss_trace import trace_loss
from tameopt.problem import Problem

_PROBES = 6


@dataclass(frozen=True)
class LeastSquares:
    """F(theta) = scale * norm(outputs - targets)^2, or why not.

    holds: whether the loss's operators are those of least squares and every probe agreed; scale: of the total over
    all samples (1/(n k) for torch's mean mse), rounded once; error: largest relative disagreement of the probes;
    reason: when it does not hold.
    """

    holds: bool
    scale: float = math.nan
    error: float = math.nan
    reason: str = ""


def least_squares(problem: Problem, seed: int = 0) -> LeastSquares:
    """Whether the loss is c norm(output - target)^2 by its trace (`loss_trace`), for every batch of the data.

    A value that agrees is not enough (a Huber loss with a large delta agrees wherever one looks), nor are the
    operators (a gradient of its own may hide in a torch.autograd.Function or a hook); so the values and gradients at
    twelve outputs, at scales from 1e-2 to 1e2 of the targets about them, are compared as well.
    """
    if problem.is_function or problem.forward is not None or problem.loss is None:
        return LeastSquares(False, reason="the problem has no loss(output, target) to look into")
    scale: Fraction | None = None
    seen: set[torch.Size] = set()
    for batch in problem.batches:
        if scale is not None and not problem.batches.indexable:
            break  # streamed: a look at all of it is dear, and no certificate holds there anyway
        target = batch[-1]
        if not isinstance(target, torch.Tensor) or not target.is_floating_point():
            return LeastSquares(False, reason="the targets are not floating tensors")
        if target.shape in seen:
            continue  # a trace that reads no values is that of every batch of its shape
        seen.add(target.shape)
        if not float(target.abs().max()) < LARGEST:
            return LeastSquares(False, reason=f"the targets must be below {LARGEST:g} in size to be looked into")
        found = _of_batch(problem, batch, target)
        if isinstance(found, str):
            return LeastSquares(False, reason=found)
        if scale is not None and found != scale:
            return LeastSquares(False, reason="its factor changes with the size of the batch")
        scale = found
    if scale is None:
        return LeastSquares(False, reason="there are no data")
    return _probe(problem, float(scale), seed)


def _of_batch(problem: Problem, batch: Batch, target: torch.Tensor) -> Fraction | str:
    """The factor of norm(outputs - targets)^2 in F, as this batch shows it."""
    loss = problem.loss
    assert loss is not None
    with torch.no_grad():
        output = problem.batch_output(problem.unflatten(problem.theta), batch, True)
    c = trace_loss(loss, output, target)
    if isinstance(c, str):
        return c
    if not c > 0:
        return f"its factor of (output - target)^2 is {float(c):.4g}"
    if problem.reduction == "mean":
        c *= target.shape[0]
    return c if problem.reduction == "sum" else c / problem.n_total


def _probe(problem: Problem, scale: float, seed: int) -> LeastSquares:
    """Values and gradients against the factor that the trace says, on the first samples."""
    loss = problem.loss
    assert loss is not None
    target = next(iter(problem.batches))[-1]
    count = target.shape[0]
    per_batch = scale if problem.reduction == "sum" else scale * problem.n_total
    per_batch /= count if problem.reduction == "mean" else 1
    generator = torch.Generator().manual_seed(seed)
    eps = torch.finfo(problem.dtype).eps
    worst = 0.0
    unit = 1.0 + float(target.abs().max())
    for size in (unit * torch.logspace(-2, 2, _PROBES)).tolist():
        offset = size * torch.randn(target.shape, generator=generator, dtype=torch.float64).to(target)
        # one entry alone as well: a loss that weighs its entries shows
        alone = torch.zeros_like(offset).view(-1).index_fill(0, torch.tensor([0], device=offset.device), size)
        for shift in (offset, alone.view_as(offset)):
            output = (target + shift).requires_grad_()
            with torch.enable_grad():
                value = loss(output, target).sum()
                (gradient,) = torch.autograd.grad(value, output, materialize_grads=True, allow_unused=True)
            moved = (output.detach() - target).double()
            expected = per_batch * float(moved.square().sum())
            off = float((gradient.double() - 2 * per_batch * moved).norm()) / (2 * per_batch * float(moved.norm()))
            worst = max(worst, abs(float(value.detach()) / expected - 1), off)
    # target + shift loses the shift's low bits when the target is larger: by eps |target| / |shift|, 100 eps
    tolerance = 1e4 * eps
    if not worst < tolerance:
        reason = (
            f"its values or gradients differ from those of {per_batch:.4g} norm(output - target)^2 by {worst:.2g}"
        )
        return LeastSquares(False, error=worst, reason=reason)
    return LeastSquares(True, scale, worst)
