"""The over-parameterised trap, computed: a certificate that gradient descent reaches zero training loss from here.

Theorem (Kantorovich trap for gradient descent; it sharpens Oymak and Soltanolkotabi 2019 and Liu, Zhu and Belkin
2020). u = f(theta) - y, J = Df, theta_{k+1} = theta_k - eta J^T u. Let J be ell-Lipschitz on the ball of radius s*
about theta_0, s0 = sigma_min(J(theta_0)) > 0 and h = ell norm(u_0)/s0^2 <= 1/2, s* = (s0/ell)(1 - sqrt(1 - 2h)). For
eta <= 1/(norm(J(theta_0)) + ell s*)^2 the path is no longer than s*, and
norm(u_k) <= (1 - eta s0^2 (1 - 2h))^k norm(u_0).

Proof. (i) If the spectrum of K = J J^T lies in [s^2, 1/eta] then norm((I - eta K)u) <= norm(u) - eta s norm(J^T u):
with norm(u) = 1, a = eta s^2 and the first two moments m1, m2 of u's spectral measure in eta K, m2 <= (1+a) m1 - a
by convexity, so norm((I - eta K)u)^2 <= (1-a)(1-m1), and sqrt((1-a)(1-m1)) + sqrt(a m1) <= 1 by Cauchy-Schwarz.
(ii) f(theta_{k+1}) - f(theta_k) differs from J Delta by at most ell norm(Delta)^2/2, hence with S_k the path length
norm(u_{k+1}) <= norm(u_k) - int_{S_k}^{S_{k+1}} (s0 - ell s) ds. (iii) No overshoot: norm(Delta) <= norm(u_k)/(s0 -
ell S_k) <= s* - S_k. (iv) norm(Delta) >= eta (s0 - ell S_k) norm(u_k) gives the rate.

The lecture's rectangle argument needs h < 1/8 instead of 1/2: sixteen times the width.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tameopt.evidence import Certificate, Finding, Scope, Verdict, measured, proved, unknown
from tameopt.kl.check_trap import FORMAT, check_file
from tameopt.kl.least_squares import least_squares
from tameopt.kl.shallow import Shallow, recognise
from tameopt.problem import Problem

CHECKER = "tameopt.kl.check_trap:check"
# sigma -> (sup |sigma'|, sup |sigma''|); closed forms: 4/(3 sqrt 3), 1/(6 sqrt 3), 1/4, 2/sqrt(2 pi), 1
CONSTANTS = {
    "tanh": (1.0, 4 / (3 * math.sqrt(3))),
    "sigmoid": (0.25, 1 / (6 * math.sqrt(3))),
    "softplus": (1.0, 0.25),
    "gelu": (1.128904145, 2 / math.sqrt(2 * math.pi)),
    "sin": (1.0, 1.0),
    "identity": (1.0, 0.0),
}
_SLACK = 1e-7  # claims are weakened by this relatively, so that the checker's rounding bounds fit under them
_MOST_INLINE_BYTES = 64 << 20  # our choice: larger certificates live in files alone


@dataclass(frozen=True)
class TrapCertificate:
    """Whether, and how fast, gradient descent from theta provably reaches zero training loss.

    holds: the theorem's conditions. verdict: PROVED when the separate checker replayed the proof, MEASURED when the
    numbers say so in plain float64, UNKNOWN when they do not; reason: in words, with the number that fails.
    h: ell norm(u)/sigma_min^2 (needs <= 1/2); radius: no iterate is further from theta; step: the largest certified
    step size of gradient descent on F; rate: factor of F a step at most; steps: until F <= target.
    s0, J0, ell, u0: sigma_min(J) from below, norm(J), Lipschitz constant of J and norm(u) from above.
    network: what was certified, in words; n, k, p: samples, outputs, parameters.
    """

    holds: bool
    verdict: Verdict
    reason: str
    h: float = math.nan
    radius: float = math.nan
    step: float = math.nan
    rate: float = math.nan
    target: float = math.nan
    steps: int | None = None
    s0: float = math.nan
    J0: float = math.nan
    ell: float = math.nan
    u0: float = math.nan
    network: str = ""
    n: int = 0
    k: int = 0
    p: int = 0
    data: dict[str, Any] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        head = f"TrapCertificate({self.verdict}, h={self.h:.4g}, {self.network}"
        if not self.holds:
            return f"{head}: {self.reason})"
        return (
            f"{head}: F shrinks by x{self.rate:.6g} a step at step {self.step:.4g}, within radius {self.radius:.4g})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate with its weights and data to a safetensors file that `check` replays.

        Raises ValueError when there is nothing to certify.
        """
        from safetensors.numpy import save_file

        if self.data is None:
            raise ValueError(f"there is no certificate to save: {self.reason}.")
        header = {key: entry for key, entry in self.data.items() if key != "arrays"}
        save_file(dict(self.data["arrays"]), os.fspath(path), metadata={"certificate": json.dumps(header)})

    def certificate(self) -> Certificate:
        """The proof as self-contained JSON-serialisable data.

        Raises ValueError when there is none, or when its arrays exceed 64 MiB (save it to a file instead).
        """
        if self.data is None:
            raise ValueError(f"there is no certificate: {self.reason}.")
        size = sum(array.nbytes for array in self.data["arrays"].values())
        if size > _MOST_INLINE_BYTES:
            raise ValueError(f"the certificate holds {size >> 20} MiB of weights and data: use save(path).")
        encoded = {
            name: {"shape": list(array.shape), "base64": base64.b64encode(array.astype("<f8").tobytes()).decode()}
            for name, array in self.data["arrays"].items()
        }
        return Certificate(CHECKER, {**self.data, "arrays": encoded})

    def finding(self, step: int | None = None) -> Finding:
        """The claim trap.holds, at recorded step `step` when one is given."""
        where = "From these weights" if step is None else f"From step {step:,} on"
        if not self.holds:
            if math.isfinite(self.h):
                return unknown(
                    "trap.holds",
                    f"{where} no trap is certified: {self.reason}.",
                    missing=self.reason,
                    remedy="a wider network, fewer samples, or a later iterate (the condition is tested again there)",
                    method="Kantorovich trap",
                    scope=Scope.POINT,
                )
            return unknown("trap.holds", f"{where} no trap is certified: {self.reason}.", missing=self.reason)
        statement = (
            f"{where}, gradient descent with step <= {self.step:.4g} reaches training loss {self.target:.3g} within "
            f"{self.steps:,} steps and goes on to 0 (h = {self.h:.4f} <= 1/2)."
        )
        method = "Kantorovich trap: sigma_min(J), norm(J), norm(u), Lipschitz constant of J"
        if self.verdict is Verdict.PROVED:
            return proved(
                "trap.holds",
                statement,
                self.certificate(),
                method=method,
                scope=Scope.POINT,
                estimate=self.h,
                error_kind="bound",
                source="Oymak and Soltanolkotabi 2019, sharpened",
                witness={"largest_step": self.step},
            )
        return measured(
            "trap.holds",
            statement,
            self.h,
            method=method,
            error_kind="float64 rounding, not bounded",
            scope=Scope.POINT,
            witness={"largest_step": self.step},
        )


def check(path: str | os.PathLike[str]) -> bool:
    """Replay a saved certificate from its weights and data alone; True only when every step of the proof holds.

    Raises FileNotFoundError, or ValueError when the file is no trap certificate.
    """
    return check_file(path)


def trap_certificate(
    problem: Problem,
    theta: torch.Tensor | None = None,
    step: float | None = None,
    rigorous: bool = True,
    target: float | None = None,
) -> TrapCertificate:
    """Certify that gradient descent on F from theta reaches zero training loss, for least-squares losses.

    problem: a network with one hidden layer (`shallow.recognise`). theta: (d,), the model's parameters by default.
    step: the step size you want certified; the largest certifiable one by default. rigorous: replay the proof with
    the checker at once (PROVED), else the numbers are plain float64 (MEASURED). target: loss whose number of steps
    is stated, F/10^6 by default.

    Cost: one pass over neurons and samples, O(n^2 k^2 m), twice when rigorous; memory O(n^2 k^2 + chunk).
    """
    squares = least_squares(problem)
    if not squares.holds:
        return _none(f"the loss is not least squares: {squares.reason}", problem)
    found = recognise(problem, theta)
    if isinstance(found, str):
        return _none(found, problem)
    if not {"W", "b"} & set(found.trained) and not {"C", "e"} & set(found.trained):
        return _none("none of the network's layers is trained", problem)
    return certify_shallow(found, squares.scale, step, rigorous, target)


def _none(reason: str, problem: Problem) -> TrapCertificate:
    return TrapCertificate(False, Verdict.UNKNOWN, reason, n=problem.n, p=problem.dim, network=problem.name)


@dataclass(frozen=True)
class _Estimates:
    """Plain float64 numbers about a shallow network: what the certificate will claim, before its slack."""

    s0: float
    J0: float
    u0: float
    noise: float
    first: float
    features: float
    both: bool
    A0: float

    def ell(self, radius: float) -> float:
        if not self.both:
            return self.first * self.A0
        b = self.first * (self.A0 + radius)
        return (b + math.hypot(b, 2 * self.features)) / 2


_Map = Callable[[torch.Tensor], torch.Tensor]
_TORCH: dict[str, tuple[_Map, _Map]] = {
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    "softplus": (torch.nn.functional.softplus, torch.sigmoid),
    "gelu": (
        torch.nn.functional.gelu,
        lambda z: torch.special.ndtr(z) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
    "sin": (torch.sin, torch.cos),
    "identity": (lambda z: z, torch.ones_like),
}


def _estimate(net: Shallow, chunk: int = 1 << 21) -> _Estimates:
    """sigma_min, norms and the parts of ell, streamed over neurons."""
    W, C, X = (torch.from_numpy(array) for array in (net.W, net.C, net.X))
    (m, _), (k, _), n = W.shape, C.shape, X.shape[0]
    value, slope = _TORCH[net.activation]
    slopes = torch.zeros(k, k, n, n, dtype=torch.float64)
    features = torch.zeros(n, n, dtype=torch.float64)
    outputs = torch.zeros(n, k, dtype=torch.float64)
    rows = max(1, chunk // n)
    for start in range(0, m, rows):
        part = slice(start, start + rows)
        z = W[part] @ X.T
        if net.b is not None:
            z += torch.from_numpy(net.b[part])[:, None]
        z *= net.gain
        s, v = slope(z), value(z)
        weighted = [C[o, part, None] * s for o in range(k)]
        for o in range(k):
            for p in range(o, k):
                slopes[o, p] += weighted[o].T @ weighted[p]
        if "C" in net.trained:
            features += v.T @ v
        outputs += v.T @ C[:, part].T
    first, last = bool({"W", "b"} & set(net.trained)), "C" in net.trained
    ones = torch.ones(n, 1, dtype=torch.float64)
    inputs = torch.cat([X] * ("W" in net.trained) + [ones] * ("b" in net.trained) or [ones], dim=1)
    G = inputs @ inputs.T
    kernel = torch.zeros(n, k, n, k, dtype=torch.float64)
    constant = (net.scale**2 * features if last else 0.0) + (1.0 if "e" in net.trained else 0.0)
    for o in range(k):
        for p in range(k):
            if first:
                both = slopes[o, p] if o <= p else slopes[p, o].T
                kernel[:, o, :, p] += (net.scale * net.gain) ** 2 * G * both
            if o == p:
                kernel[:, o, :, p] += constant
    eigenvalues = torch.linalg.eigvalsh(kernel.reshape(n * k, n * k))
    residual = net.scale * outputs + (0.0 if net.e is None else torch.from_numpy(net.e)) - torch.from_numpy(net.Y)
    slope_bound, curvature = CONSTANTS[net.activation]
    fourth_moment = math.sqrt(float(torch.linalg.eigvalsh(G * G)[-1]))
    return _Estimates(
        s0=math.sqrt(max(float(eigenvalues[0]), 0.0)),
        J0=math.sqrt(max(float(eigenvalues[-1]), 0.0)),
        u0=float(torch.linalg.vector_norm(residual)),
        noise=8 * np.finfo(np.float64).eps * math.sqrt(m * n * k) * float(eigenvalues[-1]),
        first=net.scale * net.gain**2 * curvature * fourth_moment if first else 0.0,
        features=net.scale * net.gain * slope_bound * math.sqrt(float(torch.linalg.eigvalsh(G)[-1])),
        both=first and last,
        A0=float(torch.linalg.vector_norm(C, dim=0).max()),
    )


def certify_shallow(
    net: Shallow, loss_scale: float, step: float | None = None, rigorous: bool = True, target: float | None = None
) -> TrapCertificate:
    """The certificate of a shallow network with F = loss_scale norm(u)^2.

    A step alpha on F is eta = 2 alpha loss_scale in the theorem.
    """
    (n, _), k = net.X.shape, net.C.shape[0]
    sizes = {"W": net.W.size, "b": net.W.shape[0], "C": net.C.size, "e": k}
    p = sum(sizes[name] for name in net.trained)
    words = f"1 hidden layer, m={net.W.shape[0]:,}, {net.activation}, trained {'+'.join(net.trained)}"
    about: dict[str, Any] = {"network": words, "n": n, "k": k, "p": p}
    numbers = _estimate(net)
    about |= {"s0": numbers.s0, "J0": numbers.J0, "u0": numbers.u0}
    twins = conflicting_twins(net.X, net.Y)
    if n * k > p or numbers.s0**2 <= numbers.noise:
        reason = f"sigma_min(J) is {numbers.s0:.2g}, 0 within rounding"
        if n * k > p:
            reason = f"J is {n * k} x {p}: more outputs than trained parameters, so sigma_min(J) = 0"
        elif twins:
            i, j = twins
            reason += f": samples {i} and {j} have the same input and different targets"
        elif len(np.unique(net.X, axis=0)) < n:
            reason += ": an input occurs more than once"
        return TrapCertificate(False, Verdict.UNKNOWN, reason, h=math.inf, **about)
    s0, J0, u0 = numbers.s0 * (1 - _SLACK), numbers.J0 * (1 + _SLACK), numbers.u0 * (1 + _SLACK) + 1e-12
    radius = _least_radius(numbers, s0, u0)
    if radius is None:
        ell = numbers.ell(0.0)
        h = ell * u0 / s0**2
        reason = f"h = {h:.3g} must be at most 1/2 (ell {ell:.3g}, norm(u) {u0:.3g}, sigma_min(J) {s0:.3g})"
        if h <= 0.5:
            reason = "the Lipschitz constant grows too fast with the radius for a ball to close"
        return TrapCertificate(False, Verdict.UNKNOWN, reason, h=h, ell=ell, **about)
    radius *= 1 + _SLACK
    ell = numbers.ell(radius) * (1 + _SLACK)
    h = ell * u0 / s0**2
    about |= {"ell": ell, "radius": radius, "h": h}
    largest = (1 - _SLACK) / (J0 + ell * radius) ** 2
    eta = largest if step is None else 2 * loss_scale * step
    if not 0 < eta <= largest:
        reason = f"step {step} is beyond the largest certified one, {largest / (2 * loss_scale):.4g}"
        return TrapCertificate(False, Verdict.UNKNOWN, reason, step=largest / (2 * loss_scale), **about)
    q = (s0 - ell * radius) ** 2 * (1 - _SLACK)
    start = loss_scale * u0**2
    goal = start * 1e-6 if target is None else target
    residual_goal = math.sqrt(goal / loss_scale) * (1 - 1e-12) if goal > 0 else math.nan
    if q <= 0 or not residual_goal > 0:
        reason = (
            "h is 1/2 within rounding: convergence without a rate" if q <= 0 else f"target must be > 0, got {target}"
        )
        return TrapCertificate(False, Verdict.UNKNOWN, reason, **about)
    steps = max(0, math.ceil(math.log(u0 / residual_goal) / -math.log1p(-eta * q) * (1 + 1e-9)) + 1)
    if net.activation == "softplus" and float(net.pre_activations().max()) + _reach(net, radius) >= 20:
        return TrapCertificate(
            False, Verdict.UNKNOWN, "torch's softplus is the identity past 20, which the ball reaches", **about
        )
    claims: dict[str, Any] = {
        "ell": ell, "s0": s0, "J0": J0, "u0": u0, "radius": radius, "step": eta, "q": q,
        "target": residual_goal, "steps": steps,
    }  # fmt: skip
    arrays = {"W": net.W, "C": net.C, "X": net.X, "Y": net.Y}
    arrays |= {name: array for name, array in (("b", net.b), ("e", net.e)) if array is not None}
    network = {
        "kind": "one hidden layer", "activation": net.activation, "gain": net.gain, "scale": net.scale,
        "trained": list(net.trained),
    }  # fmt: skip
    data = {"format": FORMAT, "network": network, "claims": claims, "loss_scale": loss_scale, "arrays": arrays}
    about |= {
        "step": eta / (2 * loss_scale),
        "rate": (1 - eta * q) ** 2,
        "target": goal,
        "steps": steps,
        "data": data,
    }
    if not rigorous:
        return TrapCertificate(True, Verdict.MEASURED, "h <= 1/2 in plain float64", **about)
    return _replayed(data, about)


def _replayed(data: dict[str, Any], about: dict[str, Any]) -> TrapCertificate:
    if Certificate(CHECKER, data).replay():
        return TrapCertificate(True, Verdict.PROVED, "h <= 1/2, replayed by the checker", **about)
    reason = "the numbers hold in plain float64, but not by a margin that the checker's rounding bounds allow"
    return TrapCertificate(False, Verdict.UNKNOWN, reason, **{**about, "data": None})


def _reach(net: Shallow, radius: float) -> float:
    """How far pre-activations can move in the ball."""
    longest = float(np.linalg.norm(net.X, axis=1).max())
    return net.gain * radius * math.hypot(longest, 1.0 if "b" in net.trained else 0.0)


def _least_radius(numbers: _Estimates, s0: float, u0: float) -> float | None:
    """The least R with s0 R - ell(R) R^2/2 >= u0 and ell(R) R < s0, or None.

    With ell constant that is s*; when ell grows with R, s*(ell(R)) <= R is iterated upwards from the least value it
    can have, so the first fixed point found is the least.
    """
    radius = u0 / s0
    for _ in range(200):
        ell = numbers.ell(radius) * (1 + 2 * _SLACK)
        h = ell * u0 / s0**2
        if h > 0.5:
            return None
        needed = u0 / s0 if ell == 0 else (s0 / ell) * (2 * h / (1 + math.sqrt(1 - 2 * h)))
        if needed <= radius * (1 + 1e-12):
            return radius if not numbers.both else radius * (1 + 1e-9)
        radius = needed
    return None


def conflicting_twins(X: np.ndarray, Y: np.ndarray) -> tuple[int, int] | None:
    """Two samples with the same input and different targets, or None."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(np.ascontiguousarray(X + 0.0)):
        j = seen.setdefault(row.tobytes(), i)
        if j != i and not np.array_equal(Y[i], Y[j]):
            return j, i
    return None
