"""What an analysis of curvature is about, and what is not finite where it fails."""

from __future__ import annotations

from dataclasses import replace

import torch

from tameopt.linear_operator import SymmetricOperator
from tameopt.probe import NotDeterministicError
from tameopt.problem import Problem


def operator_of(problem: Problem | SymmetricOperator, theta: torch.Tensor | None) -> SymmetricOperator:
    """The Hessian of a problem at theta, or the operator itself.

    Raises TypeError for anything else, and NotDeterministicError where F is not the same twice on all data, of which
    `Problem` has probed a few samples only. Cost: two value passes.
    """
    if isinstance(problem, SymmetricOperator):
        return problem
    if not isinstance(problem, Problem):
        raise TypeError(
            f"a tameopt.Problem or a symmetric operator is required, got {type(problem).__name__}: wrap a model as "
            "tame.Problem(model, loss, data)."
        )
    first, second = float(problem.value(theta)), float(problem.value(theta))
    # a thousand roundings of sums in another order, as a GPU may take; random numbers make more
    allowed = 1e3 * torch.finfo(problem.dtype).eps * max(abs(first), abs(second), 1e-300)
    if abs(first - second) > allowed:
        raise NotDeterministicError(
            f"F must be one number for one theta, but two passes over all data gave {first:.6g} and {second:.6g}: "
            "something in the model, the loss or the data draws random numbers or keeps a state."
        )
    return problem.hessian(theta)


def until_interrupted(operator: SymmetricOperator, stopped: list[bool]) -> SymmetricOperator:
    """The operator, of which Ctrl-C makes a product NaN, so that analyses end with what they have found so far.

    stopped: gets a True then; what is asked afterwards is NaN at once.
    """

    def product(block: torch.Tensor) -> torch.Tensor:
        try:
            return torch.full_like(block, torch.nan) if stopped else operator.product(block)
        except KeyboardInterrupt:
            stopped.append(True)
            return torch.full_like(block, torch.nan)

    return replace(operator, product=product)


def not_finite(problem: Problem, theta: torch.Tensor | None) -> str:
    """In words what is not finite at theta: a coordinate, or the loss of a batch; "" where all of that is finite."""
    at = problem.at(theta)
    bad = (~torch.isfinite(at)).nonzero()
    if bad.numel():
        return f"theta is not finite in {len(bad):,} of {at.numel():,} coordinates, first in {int(bad[0]):,}"
    if problem.is_function:
        value = float(problem.value(at))
        return "" if torch.isfinite(torch.tensor(value)) else f"F is {value:g} at theta"
    begun = 0
    parameters = problem.unflatten(at)
    with torch.no_grad():
        for number, batch in enumerate(problem.batches):
            output = problem.batch_output(parameters, batch)
            size = int(output.shape[0]) if output.ndim else 0
            wrong = (~torch.isfinite(output.reshape(-1))).nonzero()
            if wrong.numel():
                which = f"sample {begun + int(wrong[0]):,}" if size else f"batch {number:,}"
                return f"the loss of {which} is {float(output.reshape(-1)[wrong[0, 0]]):g} at theta"
            begun += size
    return ""
