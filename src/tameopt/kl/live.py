"""Which certificate of zero training loss a problem may have, for trying it again and again along a run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from tameopt.evidence import Finding, Verdict
from tameopt.kl.least_squares import least_squares
from tameopt.kl.margin import classification_loss, homogeneous, margin_certificate
from tameopt.kl.online import seconds_of_certificate, why_no_flow, why_not
from tameopt.kl.relu_flow import flow_certificate
from tameopt.kl.shallow import recognise
from tameopt.kl.trap import trap_certificate
from tameopt.problem import Problem

FILE = "certificate.safetensors"  # in the run's folder


class AnyCertificate(Protocol):
    """What the three certificates have in common."""

    @property
    def holds(self) -> bool: ...
    @property
    def verdict(self) -> Verdict: ...
    def finding(self, step: int | None = None) -> Finding: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...


@dataclass(frozen=True)
class Kind:
    """A certificate that can be tried at any theta.

    seconds: a rough cost of one try. limit: the number must be at most this. power: the number falls about like
    F^power while the Jacobian stays; known: whether it is F alone, so that no try is needed to know it.
    certify: theta -> certificate, replayed when it holds; number: of a certificate.
    """

    name: str
    seconds: float
    limit: float
    power: float
    certify: Callable[[torch.Tensor], AnyCertificate]
    number: Callable[[AnyCertificate], float]
    known: Callable[[float], float] | None = None


def kind_of(problem: Problem, trace: bool = True) -> Kind | str | None:
    """The certificate that the problem's loss and network admit, or why there is none.

    Cost: the loss at a dozen outputs, and a trace of the model on four samples (whose machinery takes seconds to
    load); without `trace` None where that is needed.
    """
    if not classification_loss(problem):
        if not trace:
            return None
        found = homogeneous(problem, samples=4)
        if isinstance(found, str):
            return f"the margin certificate needs a homogeneous network: {found}"
        count = 1 if problem.reduction == "sum" else problem.n
        return Kind(
            "margin",
            0.1 + 1e-8 * problem.n * problem.dim,
            limit=1.0,
            power=1.0,
            certify=lambda theta: margin_certificate(problem, theta),
            number=lambda one: float(getattr(one, "ratio", math.nan)),
            known=lambda value: count * value / math.log(2),
        )
    if not why_no_flow(problem):
        return Kind(
            "flow",
            20 * seconds_of_certificate(problem),
            limit=1.0,
            power=0.5,
            certify=lambda theta: flow_certificate(problem, theta),
            number=lambda one: float(getattr(one, "ratio", math.nan)),
        )
    squares = least_squares(problem)
    if not squares.holds:
        return f"the trap certificate is for least squares: {squares.reason}"
    if isinstance(recognise(problem), str):
        if not trace:
            return None
        reason = why_not(problem)
        if reason:
            return reason
    return Kind(
        "trap",
        seconds_of_certificate(problem),
        limit=0.5,
        power=0.5,
        certify=lambda theta: trap_certificate(problem, theta),
        number=lambda one: float(getattr(one, "h", math.nan)),
    )
