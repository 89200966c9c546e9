"""The trap certificate along a run: the first recorded step from which convergence to zero loss is certified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.kl.least_squares import least_squares
from tameopt.kl.shallow import recognise
from tameopt.kl.trap import TrapCertificate, trap_certificate
from tameopt.problem import Problem
from tameopt.run import Run


@dataclass(frozen=True)
class OnlineCertificate:
    """What the certificate says along a run.

    step: the first recorded step found from which it holds, or None; certificate: there, or at the last saved theta
    when it never holds; steps, h: (m,) where it was tried and the h found (it needs <= 1/2).
    """

    step: int | None
    certificate: TrapCertificate
    steps: tuple[int, ...]
    h: tuple[float, ...]


def seconds_of_certificate(problem: Problem) -> float:
    """A rough cost of one certificate: the kernel, its eigenvalues, and the checker doing the same again."""
    outputs = 1
    if not problem.is_function and problem.forward is None:
        outputs = int(np.prod(problem.targets().shape[1:])) if problem.targets().ndim > 1 else 1
    size = problem.n * outputs
    width = problem.dim / 8
    return 0.02 + 4e-11 * size * size * width + 1e-9 * size**3 + 4e-8 * problem.n * width


def online_certificate(problem: Problem, run: Run, *, rigorous: bool = True, tries: int = 12) -> OnlineCertificate:
    """Find where along the saved thetas the certificate begins to hold, and prove it there.

    The last theta is tried first; when the certificate holds there, bisection over the saved ones finds an earlier
    step (the first, if it holds from some step on). Each try costs one certificate in plain float64.

    Raises ValueError when the run saved no theta of this problem's size.
    """
    saved = run.vector_steps("theta")
    if not saved.size:
        raise ValueError("the run must have saved theta at some steps, it has saved none.")
    tried: dict[int, TrapCertificate] = {}

    def at(index: int) -> TrapCertificate:
        step = int(saved[index])
        if step not in tried:
            theta = run.vector(step).to(problem.dtype)
            tried[step] = trap_certificate(problem, theta, rigorous=False)
        return tried[step]

    low, high = -1, saved.size - 1
    last = at(high)
    if last.holds:
        while high - low > 1 and len(tried) < tries:
            middle = (low + high) // 2
            low, high = (low, middle) if at(middle).holds else (middle, high)
    order = sorted(tried)
    path = tuple(order), tuple(tried[step].h for step in order)
    if not last.holds:
        return OnlineCertificate(None, last, *path)
    step = int(saved[high])
    found = tried[step]
    if rigorous:
        found = trap_certificate(problem, run.vector(step).to(problem.dtype))
    return OnlineCertificate(step if found.holds else None, found, *path)


def why_not(problem: Problem) -> str:
    """Why no trap certificate can exist for this problem, or ""."""
    squares = least_squares(problem)
    if not squares.holds:
        return f"the trap certificate is for least squares: {squares.reason}"
    found = recognise(problem)
    return found if isinstance(found, str) else ""
