"""What a Hessian product will cost, from one gradient of a few samples."""

from __future__ import annotations

import time

import torch

from tameopt.batches import rows, size_of
from tameopt.problem import Problem

_SAMPLES = 32  # our choice: enough that a batch's cost is in its samples, cheap for any model
# A product costs 0.8 to 2.5 gradients with and without a kept graph (benchmarks/spectrum.py); our choice within.
_PRODUCT_IN_GRADIENTS = 2.0


def product_seconds(problem: Problem, theta: torch.Tensor) -> float:
    """Seconds that a Hessian-vector product over all data is expected to take here, to a factor of some 2.

    The gradient of up to 32 samples is timed at theta: (d,), the quicker of two; nan where it does not run.
    """
    try:
        if problem.is_function:
            batch, share = (), 1.0
        else:
            first = next(iter(problem.batches))
            batch = rows(first, slice(0, min(_SAMPLES, size_of(first))))
            share = problem.n / size_of(batch)
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            problem.batch_gradient(theta, batch)
            seconds.append(time.perf_counter() - begun)
    except (RuntimeError, NotImplementedError):
        return float("nan")
    return _PRODUCT_IN_GRADIENTS * min(seconds) * share
