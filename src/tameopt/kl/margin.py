"""Cross-entropy and logistic loss: they have no zero at a finite theta, and a certificate of their own.

For a homogeneous network (ReLU, leaky ReLU, max-pooling, convolutions, no biases after the first layer) whose
total loss is below log 2, the gradient flow drives the loss to 0 and theta to infinity in norm, and its limit
directions are KKT points of the margin problem (Lyu and Li 2020); for two classes the direction converges (Ji and
Telgarsky 2020, by the KL inequality in an o-minimal structure).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tameopt.evidence import Certificate, Finding, Scope, Verdict, proved, unknown
from tameopt.kl.check_margin import FORMAT, degree_of
from tameopt.kl.check_operators import read_operators
from tameopt.kl.operators import Operators, operators_of
from tameopt.kl.shallow import altered
from tameopt.kl.stored import MOST_INLINE_BYTES, inline, write
from tameopt.problem import Problem

CHECKER = "tameopt.kl.check_margin:check"
_CLAIM = "trap.margin"


@dataclass(frozen=True)
class MarginCertificate:
    """Whether gradient flow from theta provably drives the loss of a homogeneous network to 0.

    ratio: n F / log 2 (needs < 1). degree: L, of homogeneity. margin: min_i (own output - largest other) /
    norm(theta)^L. alignment: cosine between -grad F and theta, towards 1 as theta approaches a KKT
    direction. classes: 2 for one output. reason: in words.
    """

    holds: bool
    verdict: Verdict
    reason: str
    ratio: float = math.nan
    degree: int = 0
    margin: float = math.nan
    alignment: float = math.nan
    classes: int = 0
    data: dict[str, Any] | None = field(default=None, repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to a safetensors file that `tameopt certify --check` replays.

        Raises ValueError when there is none.
        """
        write(self.data, self.reason, path)

    def certificate(self) -> Certificate:
        """The proof as self-contained JSON-serialisable data.

        Raises ValueError when there is none.
        """
        return Certificate(CHECKER, inline(self.data, self.reason))

    def _remedy(self) -> str:
        if "is added to something of degree" in self.reason:
            return "bias=False in the layers after the first"
        return "train on until n F < log 2" if math.isfinite(self.ratio) else ""

    def finding(self, step: int | None = None) -> Finding:
        """The claim trap.margin, at recorded step `step` when one is given."""
        where = "From these weights" if step is None else f"From step {step:,} on"
        if not self.holds:
            return unknown(
                _CLAIM,
                f"No margin certificate: {self.reason}.",
                missing=self.reason,
                remedy=self._remedy(),
                scope=Scope.POINT,
            )
        direction = "converges" if self.classes == 2 else "has only KKT points of the margin problem as limits"
        return proved(
            _CLAIM,
            f"{where} the gradient flow drives the loss to 0 (n F = {self.ratio:.3g} log 2 < log 2, "
            f"network homogeneous of degree {self.degree}); theta grows without bound and its direction {direction}.",
            self.certificate(),
            method="total loss bounded above in error-bounded float64",
            scope=Scope.POINT,
            estimate=self.ratio,
            error_kind="bound",
            source="Lyu and Li 2020, theorem 4.1 and appendix A; Ji and Telgarsky 2020, theorem 3.1",
        )


def homogeneous(problem: Problem, theta: torch.Tensor | None = None, samples: int | None = None) -> Homogeneous | str:
    """The problem's network as operators with its degree of homogeneity in theta, or why it has none.

    samples: look at the first so many only, which is enough to know the degree.
    """
    found = operators_of(problem, theta, kinks=True, samples=samples)
    if isinstance(found, str):
        return found
    ops, trained, _ = read_operators(found.description(), found.arrays(), kinks=True)
    degree = degree_of(ops, trained)
    if isinstance(degree, str):
        return degree
    if degree < 1:
        return "the outputs do not depend on the trained weights"
    return Homogeneous(found, degree)


@dataclass(frozen=True)
class Homogeneous:
    """A network positively homogeneous of this degree in its trained weights."""

    network: Operators
    degree: int


def classification_loss(problem: Problem) -> str:
    """Why the loss is none that the theorem is about, or "" when it may be."""
    loss = problem.loss
    modules = (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.SoftMarginLoss)
    functions = (
        functional.cross_entropy, functional.binary_cross_entropy_with_logits, functional.soft_margin_loss,
    )  # fmt: skip
    if problem.is_function or problem.forward is not None or not problem.batches.indexable:
        return "the network is hidden, or its data cannot be held"
    if isinstance(loss, nn.Module) and altered(loss):
        return f"the loss may be another than its class says: {altered(loss)}"
    if isinstance(loss, modules) or any(loss is function for function in functions):
        return ""
    return "the loss must be torch's cross-entropy with class numbers, or its logistic loss with hard labels"


def direction_drift(before: torch.Tensor, after: torch.Tensor) -> float:
    """Degrees between the directions of two thetas; nan when one is 0."""
    before, after = before.double(), after.double()
    size = float(before.norm() * after.norm())
    if not size > 0:
        return math.nan
    return math.degrees(math.acos(max(-1.0, min(1.0, float(before @ after) / size))))


def _labels(problem: Problem, outputs: torch.Tensor) -> tuple[str, np.ndarray] | str:
    """(loss, labels) for torch's cross-entropy with class numbers or its logistic loss, or why not."""
    loss, targets = problem.loss, problem.targets()
    plain = type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.label_smoothing == 0
    if (plain or loss is functional.cross_entropy) and not targets.is_floating_point() and targets.ndim == 1:
        if outputs.ndim != 2 or bool((targets < 0).any()):
            return "cross-entropy must have (n, classes) outputs and no ignored labels"
        if outputs.shape[1] < 2:
            return "cross-entropy of one output is 0 whatever the weights: there is nothing to separate"
        if isinstance(loss, nn.CrossEntropyLoss) and bool((targets == loss.ignore_index).any()):
            return f"cross-entropy must ignore no label, it ignores {loss.ignore_index}"
        return "cross-entropy", targets.cpu().double().numpy()
    logistic = type(loss) is nn.BCEWithLogitsLoss and loss.weight is None and loss.pos_weight is None
    if logistic or loss is functional.binary_cross_entropy_with_logits:
        flat = targets.reshape(-1).cpu().double().numpy()
        if flat.size == outputs.numel() == problem.n and set(np.unique(flat)) <= {0.0, 1.0}:
            return "logistic", 2 * flat - 1
    if type(loss) is nn.SoftMarginLoss or loss is functional.soft_margin_loss:
        flat = targets.reshape(-1).cpu().double().numpy()
        if flat.size == outputs.numel() == problem.n and set(np.unique(flat)) <= {-1.0, 1.0}:
            return "logistic", flat
    return "the loss must be torch's cross-entropy with class numbers, or its logistic loss with hard labels"


def margin_certificate(problem: Problem, theta: torch.Tensor | None = None) -> MarginCertificate:
    """Certify that gradient flow from theta drives a classification loss to 0.

    problem: a network whose trace is homogeneous in theta (bias-free after the first layer; ReLU, leaky ReLU, max-
    and average-pooling, convolutions, sums) with torch's cross-entropy or logistic loss.
    Cost: two passes over the data and one gradient.
    """
    reason = classification_loss(problem)
    if reason:
        return MarginCertificate(False, Verdict.UNKNOWN, reason)
    at = problem.theta if theta is None else theta.detach().to(problem.dtype, copy=True)
    small = homogeneous(problem, at, samples=4)
    if isinstance(small, str):
        return MarginCertificate(False, Verdict.UNKNOWN, small)
    outputs = problem.outputs(at)
    labelled = _labels(problem, outputs)
    if isinstance(labelled, str):
        return MarginCertificate(False, Verdict.UNKNOWN, labelled)
    kind, labels = labelled
    value, gradient = problem.value_and_gradient(at)
    count = 1 if problem.reduction == "sum" else problem.n
    total = float(value) * count
    ratio = total / math.log(2)
    cosine = float(-(gradient @ at) / (gradient.norm() * at.norm())) if float(gradient.norm()) else math.nan
    about: dict[str, Any] = {
        "ratio": ratio,
        "degree": small.degree,
        "margin": _margin(outputs, kind, labels) / float(at.double().norm()) ** small.degree,
        "alignment": cosine,
        "classes": 2 if kind == "logistic" else outputs.shape[1],
    }
    if not ratio < 1:
        reason = f"n F = {total:.3g} must be below log 2 = 0.693 (F below {math.log(2) / problem.n:.3g})"
        return MarginCertificate(False, Verdict.UNKNOWN, reason, **about)
    found = homogeneous(problem, at)
    if isinstance(found, str):
        return MarginCertificate(False, Verdict.UNKNOWN, found, **about)
    network = found.network
    arrays = {**network.weights, "X": network.X, "labels": labels}
    if sum(array.nbytes for array in arrays.values()) > MOST_INLINE_BYTES:
        return MarginCertificate(False, Verdict.UNKNOWN, "weights and data exceed 64 MiB", **about)
    # the checker bounds log(1+S) by its series, up to 4% too large when one sample has it all
    claimed = min(1.05 * total + 1e-12, 0.6931471805)
    data = {
        "format": FORMAT, "loss": kind, "network": network.description(), "arrays": arrays,
        "claims": {"total": claimed},
    }  # fmt: skip
    if Certificate(CHECKER, data).replay():
        return MarginCertificate(True, Verdict.PROVED, "n F < log 2, replayed by the checker", **about, data=data)
    reason = "n F < log 2 in plain float64, but not by a margin that the checker's bounds allow"
    return MarginCertificate(False, Verdict.UNKNOWN, reason, **about)


def _margin(outputs: torch.Tensor, kind: str, labels: np.ndarray) -> float:
    if kind == "logistic":
        return float((torch.from_numpy(labels) * outputs.reshape(-1).cpu().double()).min())
    classes = torch.from_numpy(labels).long()
    z = outputs.cpu().double()
    own = z.gather(1, classes[:, None])[:, 0]
    others = z.scatter(1, classes[:, None], -math.inf).max(dim=1).values
    return float((own - others).min())
