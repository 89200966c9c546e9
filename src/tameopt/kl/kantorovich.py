"""The Kantorovich trap: from four numbers about the Jacobian to a radius, a step, a rate and a number of steps.

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

import math
from dataclasses import dataclass
from typing import Any, Protocol

SLACK = 1e-7  # claims are weakened by this relatively, so that the checker's rounding bounds fit under them


class Numbers(Protocol):
    """What is known about the Jacobian at theta_0: in plain float64, no proof.

    s0, J0: its smallest and largest singular value; u0: norm(u_0); noise: what rounding can make of s0^2.
    """

    @property
    def s0(self) -> float: ...
    @property
    def J0(self) -> float: ...
    @property
    def u0(self) -> float: ...
    @property
    def noise(self) -> float: ...

    def ell(self, radius: float) -> float:
        """A Lipschitz constant of J on the ball of that radius."""
        ...


@dataclass(frozen=True)
class Trap:
    """What the theorem gives: claims for the checker, or the reason why it gives nothing.

    claims: ell, s0, J0, u0, radius, step (eta, of the theorem), q, target (a norm of u), steps. h, ell: as far as
    they were found. largest: the largest eta, when a larger one was asked for.
    """

    claims: dict[str, Any] | None
    reason: str = ""
    h: float = math.nan
    ell: float = math.nan
    largest: float = math.nan


def trap(
    numbers: Numbers,
    eta: float | None = None,
    goal: float | None = None,
    distance: float = 0.0,
    slack: float = SLACK,
) -> Trap:
    """Apply the theorem at a point within `distance` of the one where the numbers were computed.

    eta: the step to certify, the largest possible by default; goal: a norm of u whose number of steps is claimed,
    norm(u_0)/1000 by default. slack: relative weakening of the numbers.

    At theta with norm(theta - theta_0) <= d: sigma_min >= s0 - ell d, norm(J) <= J0 + ell d, norm(u) <= u0 +
    (J0 + ell d) d, and the ball about theta is inside the one of radius R + d about theta_0.
    """
    s, J, u = numbers.s0 * (1 - slack), numbers.J0 * (1 + slack), numbers.u0 * (1 + slack) + 1e-12
    radius = u / s
    for _ in range(200):
        ell = numbers.ell(radius + distance) * (1 + slack)
        s0, J0 = s - ell * distance, J + ell * distance
        u0 = (u + J0 * distance) * (1 + slack)
        h = ell * u0 / s0**2 if s0 > 0 else math.inf
        if not h <= 0.5:
            return Trap(None, *_too_large(numbers, u0, s0, distance, h, ell))
        needed = u0 / s0 if h == 0 else (u0 / s0) * (2 / (1 + math.sqrt(1 - 2 * h)))
        if needed <= radius * (1 + 1e-12):
            break
        radius = needed * (1 + 1e-9)
    else:
        return Trap(None, "the Lipschitz constant grows too fast with the radius for a ball to close", h, ell)
    radius *= 1 + slack
    ell = numbers.ell(radius + distance) * (1 + slack)
    s0, J0 = s - ell * distance, J + ell * distance
    u0 = (u + J0 * distance) * (1 + slack)
    h = ell * u0 / s0**2
    slope = s0 - ell * radius
    q = slope**2 * (1 - slack)
    if slope <= 0 or q <= 0:
        return Trap(None, "h is 1/2 within rounding: convergence without a rate", h, ell)
    largest = (1 - slack) / (J0 + ell * radius) ** 2
    step = largest if eta is None else eta
    if not 0 < step <= largest:
        return Trap(None, "the step is too large", h, ell, largest)
    aim = u0 * 1e-3 if goal is None else goal
    if not aim > 0:
        return Trap(None, f"the target must be > 0, got {aim}", h, ell)
    steps = max(0, math.ceil(math.log(u0 / aim) / -math.log1p(-step * q) * (1 + 1e-9)) + 1)
    claims = {
        "ell": ell, "s0": s0, "J0": J0, "u0": u0, "radius": radius, "step": step, "q": q, "target": aim,
        "steps": steps,
    }  # fmt: skip
    return Trap(claims, "", h, ell, largest)


def _too_large(
    numbers: Numbers, u0: float, s0: float, distance: float, h: float, ell: float
) -> tuple[str, float, float]:
    """Why no ball closes: h with the Lipschitz constant at the point itself, when that is too large already."""
    least = numbers.ell(distance)
    if s0 > 0 and least * u0 / s0**2 <= 0.5:
        return (
            (
                f"h = {h:.3g} must be at most 1/2: the Lipschitz constant of J grows too fast with the radius for a "
                f"ball to close (it is {least:.3g} at the centre)"
            ),
            h,
            ell,
        )
    h = least * u0 / s0**2 if s0 > 0 else math.inf
    return f"h = {h:.3g} must be at most 1/2 (ell {least:.3g}, norm(u) {u0:.3g}, sigma_min(J) {s0:.3g})", h, least
