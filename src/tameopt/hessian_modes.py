"""Which way to a Hessian product is faster on this problem: timed once, on its first batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tameopt.problem import Problem

MODES = ("forward over reverse", "reverse over reverse")


def faster_mode(problem: Problem, theta: torch.Tensor) -> str:
    """The faster of the two modes on this problem's first batch; one that an operator lacks is passed over.

    Each is warmed up once and timed once: a factor of two is what is at stake, not percents.

    Raises RuntimeError with both causes when neither runs.
    """
    batch = next(iter(problem.batches))
    block = torch.ones(problem.dim, 1, dtype=problem.dtype, device=problem.device)
    seconds: dict[str, float] = {}
    failures: list[str] = []
    for mode in MODES:
        try:
            with problem._exact_attention():
                for _ in range(2):
                    start = time.perf_counter()
                    problem._batch_hessian_product(theta, batch, block, mode)
                    if problem.device.type == "cuda":
                        torch.cuda.synchronize(problem.device)
                    seconds[mode] = time.perf_counter() - start
        except (RuntimeError, NotImplementedError) as error:
            seconds.pop(mode, None)
            failures.append(f"{mode}: {str(error).splitlines()[0]}")
    if not seconds:
        raise RuntimeError(f"no Hessian product of {problem.name} runs: {'; '.join(failures)}")
    return min(seconds, key=lambda mode: seconds[mode])
