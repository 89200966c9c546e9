"""Every fifth sample is kept from training, and how many of those are classified rightly."""

from __future__ import annotations

import math

import torch

from tameopt.problem import Problem

_EVERY = 5  # our choice: the usual fifth, spread over the data's order


def split(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the samples to train on, and of those held out.

    Raises ValueError for a problem without samples that can be picked by number.
    """
    if problem.is_function or not problem.batches.indexable:
        raise ValueError(f"training here needs mini-batches: {problem.name} has no samples to pick by number.")
    everyone = torch.arange(problem.n)
    held = everyone % _EVERY == _EVERY - 1
    return everyone[~held], everyone[held]


def accuracy(problem: Problem, theta: torch.Tensor, samples: torch.Tensor) -> float:
    """The share of the samples whose class has the largest output; NaN where the problem is no classification."""
    batch = problem.batches.pick(samples) if len(samples) else None
    target = batch[-1] if isinstance(batch, (tuple, list)) and problem.forward is None else None
    if not isinstance(target, torch.Tensor) or target.is_floating_point() or target.ndim != 1:
        return math.nan
    with torch.no_grad():
        output = problem.batch_output(problem.unflatten(theta), batch, True)
    return float((output.argmax(1) == target).double().mean()) if output.ndim == 2 else math.nan
