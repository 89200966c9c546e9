"""Certificates along a run: the first recorded step from which convergence to zero loss is certified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from tameopt.kl.least_squares import least_squares
from tameopt.kl.network import affordable
from tameopt.kl.operators import operators_of
from tameopt.kl.relu_flow import FlowCertificate, flow_certificate, recognise_relu
from tameopt.kl.shallow import recognise
from tameopt.kl.trap import TrapCertificate, trap_certificate
from tameopt.problem import Problem
from tameopt.run import Run


class _Certificate(Protocol):
    @property
    def holds(self) -> bool: ...


C = TypeVar("C", bound=_Certificate)


@dataclass(frozen=True)
class OnlineCertificate(Generic[C]):
    """What a certificate says along a run.

    step: the first recorded step found from which it holds, or None; certificate: there, or at the saved theta of
    least F when it never holds; steps, numbers: (m,) where it was tried and the number found there (it needs <= 1/2
    for the trap, <= 1 for the flow).
    """

    step: int | None
    certificate: C
    steps: tuple[int, ...]
    numbers: tuple[float, ...]


def seconds_of_certificate(problem: Problem) -> float:
    """A rough cost of one certificate: the kernel, its eigenvalues, and the checker doing the same again."""
    outputs = 1
    if not problem.is_function and problem.forward is None:
        outputs = int(np.prod(problem.targets().shape[1:])) if problem.targets().ndim > 1 else 1
    size = problem.n * outputs
    width = problem.dim / 8
    return 0.02 + 4e-11 * size * size * width + 1e-9 * size**3 + 4e-8 * problem.n * width


def along(
    problem: Problem, run: Run, certify: Callable[[torch.Tensor], C], number: Callable[[C], float], tries: int = 12
) -> OnlineCertificate[C]:
    """Find where along the saved thetas a certificate begins to hold.

    The theta of least F is tried first; when the certificate holds there, bisection over those saved before finds an
    earlier step (the first, if it holds from some step on). Costs besides one evaluation of F a saved theta.

    Raises ValueError when the run saved no theta.
    """
    saved = run.vector_steps("theta")
    if not saved.size:
        raise ValueError("the run must have saved theta at some steps, it has saved none.")
    tried: dict[int, C] = {}

    def at(index: int) -> C:
        step = int(saved[index])
        if step not in tried:
            tried[step] = certify(run.vector(step).to(problem.dtype))
        return tried[step]

    values = [float(problem.value(run.vector(int(step)).to(problem.dtype))) for step in saved]
    # of equal values the later
    low, high = -1, min(range(saved.size), key=lambda index: (values[index], -index))
    last = at(high)
    if last.holds:
        while high - low > 1 and len(tried) < tries:
            middle = (low + high) // 2
            low, high = (low, middle) if at(middle).holds else (middle, high)
    order = sorted(tried)
    path = tuple(order), tuple(number(tried[step]) for step in order)
    if not last.holds:
        return OnlineCertificate(None, last, *path)
    step = int(saved[high])
    return OnlineCertificate(step, tried[step], *path)


def online_certificate(
    problem: Problem, run: Run, *, rigorous: bool = True, tries: int = 12
) -> OnlineCertificate[TrapCertificate]:
    """Where along the saved thetas the trap certificate begins to hold, proved there.

    Each try costs one certificate in plain float64, the step found one more with the checker's replay.

    Raises ValueError when the run saved no theta of this problem's size.
    """
    found = along(
        problem, run, lambda theta: trap_certificate(problem, theta, rigorous=False), lambda one: one.h, tries
    )
    if found.step is None or not rigorous:
        return found
    proved = trap_certificate(problem, run.vector(found.step).to(problem.dtype))
    return OnlineCertificate(found.step if proved.holds else None, proved, found.steps, found.numbers)


def online_flow(problem: Problem, run: Run, *, tries: int = 8) -> OnlineCertificate[FlowCertificate]:
    """Where along the saved thetas the flow certificate of a ReLU network begins to hold.

    Raises ValueError when the run saved no theta of this problem's size.
    """
    return along(problem, run, lambda theta: flow_certificate(problem, theta), lambda one: one.ratio, tries)


def why_not(problem: Problem) -> str:
    """Why no trap certificate can exist for this problem, or ""."""
    squares = least_squares(problem)
    if not squares.holds:
        return f"the trap certificate is for least squares: {squares.reason}"
    found = recognise(problem)
    if not isinstance(found, str):
        return ""
    if not affordable(problem):
        return f"the Jacobian of all outputs is too large to be held, and {found}"
    traced = operators_of(problem, samples=4)
    return traced if isinstance(traced, str) else ""


def why_no_flow(problem: Problem) -> str:
    """Why no flow certificate can exist for this problem, or ""."""
    squares = least_squares(problem)
    if not squares.holds:
        return f"the flow certificate is for least squares: {squares.reason}"
    found = recognise_relu(problem)
    return f"the flow certificate is for ReLU networks: {found}" if isinstance(found, str) else ""
