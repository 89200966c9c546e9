"""Cross-entropy and logistic loss: they have no zero at a finite theta, and a certificate of their own.

For a homogeneous network (bias-free, ReLU or leaky ReLU) whose total loss is below log 2, the gradient flow drives
the loss to 0 and theta to infinity in norm, and its limit directions are KKT points of the margin problem (Lyu and
Li 2020); for two classes the direction converges (Ji and Telgarsky 2020, by the KL inequality in an o-minimal
structure).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tameopt.evidence import Certificate, Finding, Scope, Verdict, proved, unknown
from tameopt.kl.check_margin import FORMAT
from tameopt.kl.shallow import has_hooks, leaf_modules
from tameopt.kl.stored import inline
from tameopt.problem import Problem

CHECKER = "tameopt.kl.check_margin:check"
_CLAIM = "trap.margin"
_MOST_BYTES = 64 << 20


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

    def certificate(self) -> Certificate:
        """The proof as self-contained JSON-serialisable data.

        Raises ValueError when there is none.
        """
        return Certificate(CHECKER, inline(self.data, self.reason))

    def finding(self) -> Finding:
        """The claim trap.margin."""
        if not self.holds:
            return unknown(
                _CLAIM,
                f"No margin certificate: {self.reason}.",
                missing=self.reason,
                remedy="train on until n F < log 2" if math.isfinite(self.ratio) else "",
                scope=Scope.POINT,
            )
        direction = "converges" if self.classes == 2 else "has only KKT points of the margin problem as limits"
        return proved(
            _CLAIM,
            f"From these weights the gradient flow drives the loss to 0 (n F = {self.ratio:.3g} log 2 < log 2, "
            f"network homogeneous of degree {self.degree}); theta grows without bound and its direction {direction}.",
            self.certificate(),
            method="total loss bounded above in error-bounded float64",
            scope=Scope.POINT,
            estimate=self.ratio,
            error_kind="bound",
            source="Lyu and Li 2020, theorem 4.1 and appendix A; Ji and Telgarsky 2020, theorem 3.1",
        )


def homogeneous_layers(problem: Problem, theta: torch.Tensor) -> tuple[list[np.ndarray], list[float]] | str:
    """(weights, slopes after each layer but the last) of a bias-free network at theta, or why it is none."""
    if problem.is_function or problem.forward is not None or not problem.batches.indexable:
        return "the network is hidden, or its data cannot be held"
    if has_hooks(problem.model):
        return "the model has forward hooks, which may change what it computes"
    weights: list[np.ndarray] = []
    slopes: list[float] = []
    parameters = problem.unflatten(theta)
    names = {id(module): name for name, module in problem.model.named_modules()}
    pending: float | None = None
    for leaf in leaf_modules(problem.model):
        if type(leaf) in (nn.Flatten, nn.Identity):
            continue
        if type(leaf) is nn.Linear:
            if leaf.bias is not None:
                return (
                    f"layer {names[id(leaf)] or 'the model'} has a bias: with biases the network is not homogeneous"
                )
            name = f"{names[id(leaf)]}.weight".lstrip(".")
            if name not in parameters:
                return f"layer {names[id(leaf)]} is frozen"
            if weights:
                slopes.append(1.0 if pending is None else pending)
            weights.append(parameters[name].detach().cpu().double().numpy().copy())
            pending = None
        elif type(leaf) in (nn.ReLU, nn.LeakyReLU) and weights and pending is None:
            pending = 0.0 if type(leaf) is nn.ReLU else float(leaf.negative_slope)  # type: ignore[arg-type]
            if not 0 <= pending <= 1:
                return f"a leaky ReLU's slope must be between 0 and 1, got {pending}"
        else:
            return f"{type(leaf).__name__} is not among bias-free Linear, ReLU and leaky ReLU"
    if not weights or pending is not None:
        return "the network must end with a bias-free Linear layer"
    if sum(W.size for W in weights) != problem.dim:
        return "the model has trained parameters besides its layers' weights, or shares weights between layers"
    return weights, slopes


def _labels(problem: Problem, outputs: torch.Tensor) -> tuple[str, np.ndarray] | str:
    """(loss, labels) for torch's cross-entropy with class numbers or its logistic loss, or why not."""
    loss, targets = problem.loss, problem.targets()
    plain = type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.label_smoothing == 0
    if (plain or loss is functional.cross_entropy) and not targets.is_floating_point() and targets.ndim == 1:
        if outputs.ndim != 2 or bool((targets < 0).any()):
            return "cross-entropy must have (n, classes) outputs and no ignored labels"
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

    problem: a Sequential of bias-free Linear, ReLU and leaky ReLU layers with torch's cross-entropy or logistic loss.
    Cost: two passes over the data and one gradient.
    """
    at = problem.theta if theta is None else theta.detach().to(problem.dtype, copy=True)
    found = homogeneous_layers(problem, at)
    if isinstance(found, str):
        return MarginCertificate(False, Verdict.UNKNOWN, found)
    weights, slopes = found
    outputs = problem.outputs(at)
    if not _agrees(problem, weights, slopes, outputs):
        return MarginCertificate(
            False, Verdict.UNKNOWN, "the model's outputs differ from those of its layers in turn"
        )
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
        "degree": len(weights),
        "margin": _margin(outputs, kind, labels) / float(at.double().norm()) ** len(weights),
        "alignment": cosine,
        "classes": 2 if kind == "logistic" else outputs.shape[1],
    }
    if not ratio < 1:
        reason = f"n F = {total:.3g} must be below log 2 = 0.693 (F below {math.log(2) / problem.n:.3g})"
        return MarginCertificate(False, Verdict.UNKNOWN, reason, **about)
    X = problem.batches.pick(torch.arange(problem.n))[0].reshape(problem.n, -1).cpu().double().numpy()
    arrays = {f"W{layer + 1}": W for layer, W in enumerate(weights)} | {"X": X, "labels": labels}
    if sum(array.nbytes for array in arrays.values()) > _MOST_BYTES:
        return MarginCertificate(False, Verdict.UNKNOWN, "weights and data exceed 64 MiB", **about)
    # the checker bounds log(1+S) by its series, up to 4% too large when one sample has it all
    claimed = min(1.05 * total + 1e-12, 0.6931471805)
    data = {"format": FORMAT, "loss": kind, "slopes": slopes, "arrays": arrays, "claims": {"total": claimed}}
    if Certificate(CHECKER, data).replay():
        return MarginCertificate(True, Verdict.PROVED, "n F < log 2, replayed by the checker", **about, data=data)
    reason = "n F < log 2 in plain float64, but not by a margin that the checker's bounds allow"
    return MarginCertificate(False, Verdict.UNKNOWN, reason, **about)


def _agrees(problem: Problem, weights: list[np.ndarray], slopes: list[float], outputs: torch.Tensor) -> bool:
    """Whether the layers run one after the other give the model's outputs, to rounding in the problem's dtype."""
    h = problem.batches.pick(torch.arange(problem.n))[0].reshape(problem.n, -1).cpu().double().numpy()
    for layer, W in enumerate(weights):
        h = h @ W.T
        if layer < len(slopes):
            h = np.where(h > 0, h, slopes[layer] * h)
    own = outputs.cpu().double().numpy()
    tolerance = 1e4 * torch.finfo(problem.dtype).eps * max(1.0, float(np.abs(h).max()))
    return own.shape == h.shape and float(np.abs(own - h).max()) <= tolerance


def _margin(outputs: torch.Tensor, kind: str, labels: np.ndarray) -> float:
    if kind == "logistic":
        return float((torch.from_numpy(labels) * outputs.reshape(-1).cpu().double()).min())
    classes = torch.from_numpy(labels).long()
    z = outputs.cpu().double()
    own = z.gather(1, classes[:, None])[:, 0]
    others = z.scatter(1, classes[:, None], -math.inf).max(dim=1).values
    return float((own - others).min())
