"""The over-parameterised trap, computed: a certificate that gradient descent reaches zero training loss from here.

The theorem and its proof are in `kantorovich`. What is certified: networks with one hidden layer, streamed over
neurons (`shallow`), and smooth networks of any depth whose graph can be traced (`network`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tameopt.evidence import Certificate, Finding, Scope, Verdict, measured, proved, unknown
from tameopt.kl.check_file import check_file
from tameopt.kl.check_trap import FORMAT
from tameopt.kl.kantorovich import SLACK, Numbers, trap
from tameopt.kl.least_squares import least_squares
from tameopt.kl.network import Network, affordable, network_numbers, trace_network
from tameopt.kl.rank import rank_deficient, why_singular
from tameopt.kl.shallow import Shallow, recognise
from tameopt.kl.shallow_numbers import ProvedNumbers, proved_numbers, shallow_numbers
from tameopt.kl.stored import inline, write
from tameopt.problem import Problem

CHECKER = "tameopt.kl.check_trap:check"


@dataclass(frozen=True)
class TrapCertificate:
    """Whether, and how fast, gradient descent from theta provably reaches zero training loss.

    holds: the theorem's conditions. verdict: PROVED when the separate checker replayed the proof, MEASURED when the
    numbers say so in plain float64, UNKNOWN when they do not; reason: in words, with the number that fails.
    h: ell norm(u)/sigma_min^2 (needs <= 1/2); radius: no iterate is further from theta; step: the largest certified
    step size of gradient descent on F; rate: factor of F a step at most; steps: until F <= target.
    s0, J0, ell, u0: sigma_min(J) from below, norm(J), Lipschitz constant of J and norm(u) from above.
    network: what was certified, in words; n, k, p: samples, outputs, parameters. before: steps that exact gradient
    descent with this step takes from the stored weights before the theorem applies (0: it applies at once); distance:
    how far it may then be from the float64 replay (shadowing); steps counts from the stored weights,
    radius from there. dtype: of the weights; the arithmetic of the statement is exact.
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
    before: int = 0
    distance: float = 0.0
    dtype: str = "float64"
    data: dict[str, Any] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        head = f"TrapCertificate({self.verdict}, h={self.h:.4g}, {self.network}"
        if not self.holds:
            return f"{head}: {self.reason})"
        return (
            f"{head}: F shrinks by x{self.rate:.6g} a step at step {self.step:.4g}, within radius {self.radius:.4g})"
        )

    def _remedy(self) -> str:
        """What would help, with a number where one is known."""
        helps = ["fewer samples", "a later iterate (the condition is tested again there)"]
        if " targets" in self.reason:
            helps.insert(0, "one target for the samples that are named, or one sample of them")
        if math.isfinite(self.h) and self.network.startswith("1 hidden layer") and self.before == 0:
            # at the start norm(u) stays, ell ~ width^(-1/2) and sigma_min tends to a limit
            return f"about {(2 * self.h) ** 2:.2g} times the width (h falls like its root), {', '.join(helps)}"
        return f"a wider network, {', '.join(helps)}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate with its weights and data to a safetensors file that `check` replays.

        Raises ValueError when there is nothing to certify.
        """
        write(self.data, self.reason, path)

    def certificate(self) -> Certificate:
        """The proof as self-contained JSON-serialisable data.

        Raises ValueError when there is none, or when its arrays exceed 64 MiB (save it to a file instead).
        """
        return Certificate(CHECKER, inline(self.data, self.reason))

    def finding(self, step: int | None = None) -> Finding:
        """The claim trap.holds, at recorded step `step` when one is given."""
        where = "From these weights" if step is None else f"From step {step:,} on"
        if not self.holds:
            if not math.isnan(self.h):
                return unknown(
                    "trap.holds",
                    f"{where} no trap is certified: {self.reason}.",
                    missing=self.reason,
                    remedy=self._remedy(),
                    method="Kantorovich trap",
                    scope=Scope.POINT,
                )
            return unknown("trap.holds", f"{where} no trap is certified: {self.reason}.", missing=self.reason)
        statement = (
            f"{where}, gradient descent with step {self.step:.4g} reaches training loss {self.target:.3g} within "
            f"{self.steps:,} steps and goes on to 0 (h = {self.h:.3g} <= 1/2); with smaller steps it goes to 0 too."
        )
        if self.before:
            statement = (
                f"From these initial weights, exact gradient descent with step {self.step:.4g} reaches training loss "
                f"{self.target:.3g} within {self.steps:,} steps and goes on to 0: after {self.before:,} steps it is "
                f"within {self.distance:.2g} of a float64 replay, and trapped (h = {self.h:.3g} <= 1/2)."
            )
        if self.dtype != "float64":
            statement += (
                f" This is about exact arithmetic from these {self.dtype} weights: iterates rounded to {self.dtype} "
                "stop falling where rounding takes over."
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

    problem: a network with one hidden layer (`shallow.recognise`), or a smooth one made of operators that
    `network.trace_network` knows. theta: (d,), the model's parameters by default. step: the step size you want
    certified; the largest certifiable one by default. rigorous: replay the proof with the checker at once (PROVED),
    else the numbers are plain float64 (MEASURED). target: loss whose number of steps is stated, F/10^6 by default.

    Cost: one hidden layer, one pass over neurons and samples, O(n^2 k^2 m), twice when rigorous, memory
    O(n^2 k^2 + chunk); other networks, n k vector-Jacobian products and memory O(n k p).
    """
    return replace(
        _certified(problem, theta, step, rigorous, target), dtype=str(problem.dtype).removeprefix("torch.")
    )


def _certified(
    problem: Problem, theta: torch.Tensor | None, step: float | None, rigorous: bool, target: float | None
) -> TrapCertificate:
    squares = least_squares(problem)
    if not squares.holds:
        return none(f"the loss is not least squares: {squares.reason}", problem)
    found = recognise(problem, theta)
    shallow = None
    if isinstance(found, Shallow):
        if not found.trained:
            return none("none of the network's layers is trained", problem)
        shallow = certify(found, squares.scale, step, rigorous, target)
        # the bounds on a ball are sharper than the closed form when several layers move, and dearer
        if shallow.holds or not (0.5 < shallow.h < 50) or len(set(found.trained)) < 2 or not affordable(problem):
            return shallow
    traced = trace_network(problem, theta)
    if isinstance(traced, str):
        return shallow or none(traced, problem)
    deep = certify(traced, squares.scale, step, rigorous, target)
    return shallow if shallow is not None and not deep.holds else deep


def none(reason: str, problem: Problem) -> TrapCertificate:
    """No certificate, for this reason."""
    return TrapCertificate(False, Verdict.UNKNOWN, reason, n=problem.n, p=problem.dim, network=problem.name)


def certify(
    net: Shallow | Network,
    loss_scale: float,
    step: float | None = None,
    rigorous: bool = True,
    target: float | None = None,
) -> TrapCertificate:
    """The certificate of a recognised network with F = loss_scale norm(u)^2.

    A step alpha on F is eta = 2 alpha loss_scale in the theorem.
    """
    numbers = shallow_numbers(net) if isinstance(net, Shallow) else network_numbers(net)
    if isinstance(numbers, str):
        return TrapCertificate(False, Verdict.UNKNOWN, numbers, **_about(net))
    return conclude(net, numbers, loss_scale, step, rigorous, target)


def _about(net: Shallow | Network) -> dict[str, Any]:
    return {"network": net.words, "n": net.X.shape[0], "k": net.Y.shape[1], "p": net.count}


def conclude(
    net: Shallow | Network,
    numbers: Numbers,
    loss_scale: float,
    step: float | None,
    rigorous: bool,
    target: float | None,
    *,
    at: Shallow | None = None,
    distance: float = 0.0,
    before: int = 0,
) -> TrapCertificate:
    """From numbers to a certificate: the theorem, the claims, and the checker's replay.

    at: the network `before` steps later, within `distance` of which the theorem is applied (shadowing); `net` is then
    the initial one, which the certificate stores.
    """
    about = _about(net) | {"s0": numbers.s0, "J0": numbers.J0, "u0": numbers.u0}
    reason = rank_deficient(at or net, numbers, about["p"])
    if reason:
        return TrapCertificate(False, Verdict.UNKNOWN, reason, h=math.inf, **about)
    start = loss_scale * (numbers.u0 + 1e-12) ** 2
    goal = start * 1e-6 if target is None else target
    if not goal > 0:
        return TrapCertificate(False, Verdict.UNKNOWN, f"the target must be > 0, got {target}", **about)
    eta = None if step is None else 2 * loss_scale * step
    slack = SLACK if before == 0 else 1e3 * SLACK
    found = trap(numbers, eta, math.sqrt(goal / loss_scale) * (1 - 1e-12), distance, slack)
    about |= {"h": found.h, "ell": found.ell}
    if found.claims is None:
        reason = found.reason
        if reason == "the step is too large":
            largest = found.largest / (2 * loss_scale)
            reason = f"step {step} is beyond the largest certified one, {largest:.4g}"
            about["step"] = largest
        elif not found.h <= 0.5:
            pairs = why_singular(net.X, net.Y, net.symmetry, conflicting=True)
            reason = f"{reason}; {pairs}" if pairs else reason
        return TrapCertificate(False, Verdict.UNKNOWN, reason, **about)
    claims = found.claims
    obstacle = net.obstacle(claims["radius"] + distance)
    if obstacle:
        return TrapCertificate(False, Verdict.UNKNOWN, obstacle, **about)
    data = {
        "format": FORMAT, "network": net.description(), "claims": claims, "loss_scale": loss_scale,
        "arrays": net.arrays(), "before": before,
    }  # fmt: skip
    about |= {
        "radius": claims["radius"],
        "step": claims["step"] / (2 * loss_scale),
        "rate": (1 - claims["step"] * claims["q"]) ** 2,
        "target": goal,
        "steps": before + claims["steps"],
        "before": before,
        "distance": distance,
        "data": data,
    }
    if not rigorous:
        return TrapCertificate(True, Verdict.MEASURED, "h <= 1/2 in plain float64", **about)
    try:
        replayed = Certificate(CHECKER, data).replay()
    except ValueError as error:  # sizes that the checker's bounds do not cover
        return TrapCertificate(False, Verdict.UNKNOWN, str(error), **{**about, "data": None})
    if replayed:
        return TrapCertificate(True, Verdict.PROVED, "h <= 1/2, replayed by the checker", **about)
    if isinstance(net, Shallow) and at is None and not isinstance(numbers, ProvedNumbers):
        # near sigma_min = 0 or u = 0 rounding is no longer small beside the slack: the checker's own numbers then
        return conclude(net, proved_numbers(net, numbers.noise), loss_scale, step, rigorous, target)
    reason = "the numbers hold in plain float64, but not by a margin that the checker's rounding bounds allow"
    return TrapCertificate(False, Verdict.UNKNOWN, reason, **{**about, "data": None})
