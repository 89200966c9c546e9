"""As many threads as help: on a small network a second thread costs more than it does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from tameopt.batches import rows, size_of
from tameopt.problem import Problem

_WORTH = 1.15  # our choice: more threads must be this much faster, else the other cores are left to others


def useful_threads(work: Callable[[], object]) -> int:
    """1, or torch's present number of threads where that makes `work` clearly faster.

    Each way is warmed up once and timed by the best of three: what is at stake is a factor, not percents. The
    number of threads is left as it was.
    """
    present = torch.get_num_threads()
    if present == 1:
        return 1
    best = {}
    try:
        for threads in (1, present):
            torch.set_num_threads(threads)
            work()
            seconds = []
            for _ in range(3):
                begun = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - begun)
            best[threads] = min(seconds)
    finally:
        torch.set_num_threads(present)
    return present if best[1] > _WORTH * best[present] else 1


@contextlib.contextmanager
def threads_for(problem: Problem, batch_size: int | None = None) -> Iterator[int]:
    """Within the context torch uses as many threads as help a gradient over `batch_size` samples (None: a pass over
    the data as the problem cuts them). Problems on a GPU, and plain functions, change nothing.
    """
    if problem.device.type != "cpu" or problem.is_function:
        yield torch.get_num_threads()
        return
    theta, batch = problem.theta, next(iter(problem.batches))
    if batch_size is not None:
        batch = rows(batch, slice(0, min(batch_size, size_of(batch))))
    present = torch.get_num_threads()
    chosen = useful_threads(lambda: problem.batch_gradient(theta, batch))
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(present)
