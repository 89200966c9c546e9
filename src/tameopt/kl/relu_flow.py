"""ReLU networks: a certificate that the gradient flow reaches zero training loss from here.

The Jacobian of a ReLU network jumps, so the trap theorem for gradient descent does not apply (and gradient descent
ends on kinks); the flow can be certified by counting the pairs of neuron and sample that can flip. The derivation is
in `check_flow`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tameopt.evidence import Certificate, Finding, Scope, Verdict, proved, unknown
from tameopt.kl.check_flow import FORMAT, Flow
from tameopt.kl.least_squares import least_squares
from tameopt.kl.rank import why_singular
from tameopt.kl.shallow import altered, beyond, copied, leaf_modules, sequential_parts
from tameopt.kl.stored import inline, write
from tameopt.problem import Problem

CHECKER = "tameopt.kl.check_flow:check"
_TIMES = 8  # our choice: points of the clock at which the kernel is bounded


@dataclass(frozen=True)
class FlowCertificate:
    """Whether the gradient flow of F from theta provably reaches zero training loss.

    ratio: norm(u) over the decrease that is certain (needs <= 1). rate: F <= exp(-rate t) F_0 along theta' = -grad F.
    flips: the part of the pairs of neuron and sample that may flip. reason: in words.
    """

    holds: bool
    verdict: Verdict
    reason: str
    ratio: float = math.nan
    rate: float = math.nan
    flips: float = math.nan
    network: str = ""
    n: int = 0
    data: dict[str, Any] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        what = f"F <= exp(-{self.rate:.4g} t) F_0" if self.holds else self.reason
        return f"FlowCertificate({self.verdict}, ratio={self.ratio:.4g}, {self.network}: {what})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to a safetensors file that `tameopt certify --check` replays.

        Raises ValueError when there is none.
        """
        write(self.data, self.reason, path)

    def certificate(self) -> Certificate:
        """The proof as self-contained JSON-serialisable data.

        Raises ValueError when there is none, or its arrays exceed 64 MiB.
        """
        return Certificate(CHECKER, inline(self.data, self.reason))

    def finding(self, step: int | None = None) -> Finding:
        """The claim trap.flow, at recorded step `step` when one is given."""
        where = "From these weights" if step is None else f"From step {step:,} on"
        if not self.holds:
            return unknown(
                "trap.flow",
                f"{where} the gradient flow is not certified to reach zero loss: {self.reason}.",
                missing=self.reason,
                remedy="a wider network, fewer samples, or a later iterate" if math.isfinite(self.ratio) else "",
                scope=Scope.POINT,
            )
        return proved(
            "trap.flow",
            f"{where} the gradient flow drives the training loss to 0, F <= exp(-{self.rate:.3g} t) F_0: too few "
            f"ReLUs can flip on the way ({100 * self.flips:.2g}% of the pairs of neuron and sample). Gradient "
            "descent on a ReLU network ends on kinks and is not covered.",
            self.certificate(),
            method="kernel of the pairs that cannot flip, bounded below along the flow",
            scope=Scope.POINT,
            estimate=self.ratio,
            error_kind="bound",
            source="the line of Du et al. 2019, with computed constants",
        )


def flow_certificate(problem: Problem, theta: torch.Tensor | None = None) -> FlowCertificate:
    """Certify that the gradient flow of a least-squares loss from theta reaches zero training loss.

    problem: Sequential(Linear, ReLU or LeakyReLU, Linear). theta: (d,), the model's parameters by default. The
    statement holds for every Clarke selection at kinks. Cost: about eight passes over neurons and samples, twice;
    memory O(n^2 k^2 + chunk).
    """
    squares = least_squares(problem)
    if not squares.holds:
        return _none(f"the loss is not least squares: {squares.reason}", problem)
    found = recognise_relu(problem, theta)
    if isinstance(found, str):
        return _none(found, problem)
    network, arrays = found
    flow = Flow(network, arrays)
    kind = "ReLU" if network["slope"] == 0 else f"leaky ReLU ({network['slope']:g})"
    about: dict[str, Any] = {
        "network": f"1 hidden layer, m={flow.m:,}, {kind}, trained {'+'.join(flow.trained)}", "n": flow.n,
    }  # fmt: skip
    least = flow.kernel_low(1e-9 * max(flow.u0, 1e-300))
    if not least > 0:
        reason = "lambda_min(J J^T) of the pairs away from kinks is 0 as far as rounding lets see"
        free = not {"b", "e"} & set(arrays)
        pairs = why_singular(arrays["X"], arrays["Y"], "homogeneous" if free else "")
        reason = f"{reason}: {pairs}" if pairs else reason
        return FlowCertificate(False, Verdict.UNKNOWN, reason, math.inf, **about)
    taus, certain, q = _clock(flow, least)
    ratio = flow.u0 / certain if certain > 0 else math.inf
    flips = _flips(flow, taus[-1]) if taus else math.nan
    if ratio > 1:
        reason = (
            f"the decrease of norm(u) that is certain, {certain:.3g}, must be at least norm(u) = {flow.u0:.3g} "
            f"(lambda_min is {least:.3g} here, and flips eat it up)"
        )
        return FlowCertificate(False, Verdict.UNKNOWN, reason, ratio, flips=flips, **about)
    data = {"format": FORMAT, "network": network, "arrays": arrays, "claims": {"taus": taus, "q": q * (1 - 1e-9)}}
    # F = c norm(u)^2 makes the flow of F run 2c times as fast as that of norm(u)^2/2
    about |= {"ratio": ratio, "rate": 4 * squares.scale * q * (1 - 1e-9), "flips": flips}
    if Certificate(CHECKER, data).replay():
        return FlowCertificate(True, Verdict.PROVED, "replayed by the checker", data=data, **about)
    return FlowCertificate(False, Verdict.UNKNOWN, "the numbers hold, but the checker could not replay them", **about)


def _none(reason: str, problem: Problem) -> FlowCertificate:
    return FlowCertificate(False, Verdict.UNKNOWN, reason, network=problem.name, n=problem.n)


def _clock(flow: Flow, least: float) -> tuple[list[float], float, float]:
    """(clock times, the decrease of norm(u) that is certain by the last, lambda there); stops when it suffices."""
    taus: list[float] = []
    certain, q, now, step = 0.0, least, 0.0, flow.u0 / least / _TIMES
    for _ in range(4 * _TIMES):
        # a last step that just suffices
        needed = (flow.u0 - certain) / q * (1 + 1e-6)
        now += min(step, needed) if needed > 0 else step
        q = flow.kernel_low(now)
        if not q > 0:
            break
        certain += q * (now - (taus[-1] if taus else 0.0)) * (1 - 1e-12)
        taus.append(now)
        if certain >= flow.u0:
            break
    return taus, certain, q


def _flips(flow: Flow, tau: float) -> float:
    """The part of all pairs that may flip, roughly (with every sample counted as active)."""
    z = flow.W @ flow.X.T + flow.b[:, None]
    reach = flow.scale * flow.columns[:, None] * np.sqrt(np.square(flow.G).sum(axis=1))[None, :] * tau
    return float(np.mean(np.abs(z) <= reach))


def recognise_relu(
    problem: Problem, theta: torch.Tensor | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | str:
    """(network, arrays) for the checker, or why the problem is no ReLU network with one hidden layer."""
    if problem.is_function or problem.forward is not None or not problem.batches.indexable:
        return "the network is hidden, or its data cannot be held"
    changed = altered(problem.model)
    if changed:
        return changed
    batch = problem.batches.whole
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return "the data must be (input, target)"
    leaves = [leaf for leaf in leaf_modules(problem.model) if type(leaf) not in (nn.Flatten, nn.Identity)]
    kinds = [type(leaf) for leaf in leaves]
    if len(kinds) != 3 or kinds[0] is not nn.Linear or kinds[2] is not nn.Linear:
        return f"the network must be Linear, ReLU, Linear; it is {', '.join(kind.__name__ for kind in kinds[:6])}"
    middle = leaves[1]
    if type(middle) is nn.ReLU:
        slope = 0.0
    elif type(middle) is nn.LeakyReLU:
        slope = float(middle.negative_slope)
    else:
        return f"the activation must be ReLU or leaky ReLU, it is {type(middle).__name__}"
    if not 0 <= slope <= 1:
        return f"a leaky ReLU's slope must be between 0 and 1, got {slope}"
    flat = problem.theta if theta is None else theta.detach().to(problem.dtype, copy=True)
    parts = sequential_parts(problem.model, leaves[0], leaves[2], problem.unflatten(flat))
    if isinstance(parts, str):
        return parts
    weights, trained = parts
    if not {"W", "b"} & set(trained):
        return "the first layer is not trained"
    inputs, targets = batch
    n = inputs.shape[0]
    arrays = {**weights, "X": copied(inputs.reshape(n, -1)), "Y": copied(targets.reshape(n, -1))}
    if sum(weights[name].size for name in trained) != problem.dim:
        return "the model has trained parameters besides its layers' own, or shares some between layers"
    if arrays["X"].shape[1] != arrays["W"].shape[1] or arrays["Y"].shape[1] != arrays["C"].shape[0]:
        return f"inputs {arrays['X'].shape} and targets {arrays['Y'].shape} do not fit the layers"
    sizes_fit = beyond({"the inputs": arrays["X"], "the targets": arrays["Y"], **weights})
    if sizes_fit:
        return sizes_fit
    z = arrays["X"] @ arrays["W"].T + arrays.get("b", 0.0)
    own = np.where(z > 0, z, slope * z) @ arrays["C"].T + arrays.get("e", 0.0)
    with torch.no_grad():
        outputs = copied(problem.to(torch.float64).outputs(flat.double())).reshape(n, -1)
    tolerance = 1e4 * np.finfo(np.float64).eps * max(1.0, float(np.abs(own).max()))
    if outputs.shape != own.shape or not float(np.abs(outputs - own).max()) <= tolerance:
        return "the model's own outputs differ from those of its layers run one after the other"
    return {"slope": slope, "scale": 1.0, "trained": list(trained)}, arrays
