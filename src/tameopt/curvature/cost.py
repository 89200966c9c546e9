"""What a Hessian product will cost, from one gradient of a few samples."""

from __future__ import annotations

import time

import torch

from tameopt.batches import Batch, rows, size_of
from tameopt.problem import Problem

_SAMPLES = 32  # our choice: cheap for any model
_ENOUGH = 0.02  # seconds; our choice: below, more samples are timed, since what does not grow with them may dominate
# A product costs 0.8 to 2.5 gradients with and without a kept graph (benchmarks/spectrum.py); our choice within.
_PRODUCT_IN_GRADIENTS = 2.0


def product_seconds(problem: Problem, theta: torch.Tensor) -> float:
    """Seconds that a Hessian-vector product over all data is expected to take here, to a factor of some 2.

    The gradient of 32 samples is timed at theta: (d,), the quicker of two, and of four times as many while that takes
    no time worth speaking of; nan where it does not run.
    """
    try:
        if problem.is_function:
            return _PRODUCT_IN_GRADIENTS * _gradient_seconds(problem, theta, ())
        first = next(iter(problem.batches))
        size = min(_SAMPLES, size_of(first))
        while True:
            seconds = _gradient_seconds(problem, theta, rows(first, slice(0, size)))
            if seconds > _ENOUGH or size == size_of(first):
                return _PRODUCT_IN_GRADIENTS * seconds * problem.n / size
            size = min(4 * size, size_of(first))
    except (RuntimeError, NotImplementedError):
        return float("nan")  # no price; the analysis meets the same error and names it


def _gradient_seconds(problem: Problem, theta: torch.Tensor, batch: Batch) -> float:
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        problem.batch_gradient(theta, batch)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
