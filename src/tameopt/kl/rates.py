"""How fast a method converges when norm(grad F) >= c (F - F*)^theta: predicted curves and orders."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tameopt.kl.gradient_law import GradientLaw
from tameopt.kl.series import LossSeries

Method = Literal["gradient descent", "gradient flow", "proximal point", "stochastic gradient"]
METHODS: tuple[Method, ...] = ("gradient descent", "gradient flow", "proximal point", "stochastic gradient")


@dataclass(frozen=True)
class Rate:
    """The decay of F - F* under a KL inequality.

    kind: "finite", "linear" or "sublinear". factor: of F - F* a step; power, distance_power: of 1/k, for F - F* and
    for the distance to the limit. values: (m,) upper bounds of F - F* at `times`.
    """

    method: Method
    kind: Literal["finite", "linear", "sublinear"]
    times: np.ndarray
    values: np.ndarray
    factor: float = math.nan
    power: float = math.nan
    distance_power: float = math.nan
    source: str = ""

    def __repr__(self) -> str:
        words = {
            "finite": "reaches the limit in finite time",
            "linear": f"x{self.factor:.6g} a step",
            "sublinear": f"k^-{self.power:.4g}, distance k^-{self.distance_power:.4g}",
        }[self.kind]
        return f"Rate({self.method}: {words})"


def rates(
    theta: float,
    *,
    c: float = 1.0,
    F0: float = 1.0,
    L: float | None = None,
    alpha: float | None = None,
    steps: int = 1000,
    method: Method = "gradient descent",
) -> Rate:
    """The guaranteed decay of r_k = F(theta_k) - F* from r_0 = F0 when norm(grad F) >= c r^theta all along.

    - gradient flow: r' <= -c^2 r^(2 theta), integrated exactly.
    - gradient descent with alpha <= 1/L: r_{k+1} <= r_k - (alpha - L alpha^2/2) c^2 r_k^(2 theta) (descent lemma).
    - proximal point with parameter alpha: r_k >= r_{k+1} + (alpha/2) c^2 r_{k+1}^(2 theta), an implicit step. (With
      x_{k+1} = argmin F + norm(x - x_k)^2/(2 alpha), grad F(x_{k+1}) = (x_k - x_{k+1})/alpha.)
    - stochastic gradient, alpha_k ~ 1/k: the order k^(-min(1, 1/(2 theta - 1))) for theta in (1/2, 1) and k^-1 at 1/2
      with alpha_k = a/k, a large; an order, not a bound: its constants depend on the noise.

    theta: in [0, 1). L: Lipschitz constant of grad F (gradient descent). alpha: step, 1/L by default; for the flow
    the times are k alpha. Below 1/2 gradient descent has no such minimum: an L-smooth F has norm(grad F)^2 <= 2 L r.

    Raises ValueError for arguments outside their ranges.

    >>> rates(0.5, c=1.0, L=1.0).factor
    0.5
    """
    _check(theta, c, F0, steps, method)
    if method in ("gradient descent", "stochastic gradient") and theta < 0.5:
        raise ValueError(
            f"theta must be at least 1/2 for {method}, got {theta}: at a minimum of an L-smooth function the "
            "exponent is."
        )
    if method == "gradient descent" and L is None:
        raise ValueError("gradient descent needs L, the Lipschitz constant of the gradient.")
    step = alpha if alpha is not None else (1.0 / L if L is not None else 1.0)
    if not step > 0 or (method == "gradient descent" and L is not None and step * L > 1 + 1e-12):
        raise ValueError(f"alpha must be in (0, 1/L], got {step} with L = {L}.")
    times = np.arange(steps + 1, dtype=np.float64)
    if method == "gradient flow":
        return _flow(theta, c, F0, times * step, step)
    if method == "stochastic gradient":
        order = 1.0 if theta == 0.5 else min(1.0, 1 / (2 * theta - 1))
        values = F0 / (1 + times) ** order
        return Rate(method, "sublinear", times, values, power=order, distance_power=math.nan, source="order only")
    if method == "gradient descent":
        assert L is not None
        gain = (step - L * step**2 / 2) * c * c
        values = _explicit(F0, gain, 2 * theta, steps)
        factor = 1 - gain
    else:
        gain = step / 2 * c * c
        values = _implicit(F0, gain, 2 * theta, steps)
        factor = 1 / (1 + gain)
    if theta < 0.5:
        return Rate(method, "finite", times, values, source="Attouch and Bolte 2009, theorem 2")
    if theta == 0.5:
        return Rate(method, "linear", times, values, factor=factor, source="Polyak 1963; Lojasiewicz 1963")
    return Rate(
        method, "sublinear", times, values,
        power=1 / (2 * theta - 1), distance_power=(1 - theta) / (2 * theta - 1), source="Attouch and Bolte 2009",
    )  # fmt: skip


def _check(theta: float, c: float, F0: float, steps: int, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if not 0 <= theta < 1:
        raise ValueError(f"theta must be in [0, 1), got {theta}: with theta = 1 there is no rate.")
    if not (c > 0 and F0 > 0 and steps >= 1):
        raise ValueError(f"c, F0 and steps must be positive, got {c}, {F0} and {steps}.")


def _flow(theta: float, c: float, F0: float, times: np.ndarray, step: float) -> Rate:
    if theta == 0.5:
        values = F0 * np.exp(-c * c * times)
        factor = math.exp(-c * c * step)
        return Rate("gradient flow", "linear", times, values, factor=factor, source="Lojasiewicz 1963")
    s = 2 * theta - 1
    inside = F0 ** (-s) + s * c * c * times
    if theta < 0.5:
        values = np.maximum(inside, 0.0) ** (1 / -s)
        return Rate("gradient flow", "finite", times, values, source="Lojasiewicz 1963")
    values = inside ** (-1 / s)
    return Rate(
        "gradient flow", "sublinear", times, values,
        power=1 / s, distance_power=(1 - theta) / s, source="Lojasiewicz 1963",
    )  # fmt: skip


def _explicit(F0: float, gain: float, p: float, steps: int) -> np.ndarray:
    """r - gain r^p, iterated on the largest r allowed: the map is used where it increases."""
    values = [F0]
    # r -> r - gain r^p increases up to this r; above it the bound is the map's largest value below
    log_top = math.inf if p == 1 else -math.log(gain * p) / (p - 1)
    # beyond float's range when theta is close to 1/2
    top = math.exp(log_top) if log_top < 700 else math.inf
    for _ in range(steps):
        r = min(values[-1], top)
        values.append(max(r - gain * r**p, 0.0))
    return np.array(values)


def _implicit(F0: float, gain: float, p: float, steps: int) -> np.ndarray:
    """The r with r + gain r^p = previous, by bisection to rounding."""
    values = [F0]
    for _ in range(steps):
        low, high = 0.0, values[-1]
        if p == 0:
            values.append(max(values[-1] - gain, 0.0))
            continue
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if middle + gain * middle**p > values[-1] else (middle, high)
        values.append(high)
    return np.array(values)


def predicted(series: LossSeries, law: GradientLaw, alpha: float) -> Rate | None:
    """What norm(grad F) >= c (F - F*)^theta predicts from the series' first usable point on, for steps alpha <= 1/L.

    theta: the law's, 1/2 when its interval holds it (or lies below: no L-smooth F has less); c: the least ratio
    norm(grad F)/(F - F*)^theta over the record. The curve is the descent lemma's, which loses a factor of up to 2
    in the exponential. times: steps of the record. None when theta is not below 1.
    """
    theta = 0.5 if law.theta_interval[0] <= 0.5 else law.theta
    if not theta < 1:
        return None
    steps, excess = series.steps[law.mask], series.values[law.mask] - law.F_star
    use = excess > 0
    if int(use.sum()) < 2:
        return None
    steps, excess = steps[use], excess[use]
    c = float((series.gradient_norms[law.mask][use] / excess**theta).min())
    count = min(int(steps[-1] - steps[0]), 200_000)
    found = rates(theta, c=c, F0=float(excess[0]), L=1 / alpha, alpha=alpha, steps=max(count, 1))
    return replace(found, times=found.times + float(steps[0]))


def best_pl_factor(mu: float, L: float) -> float:
    """The best known factor a step of gradient descent, step 1/L, under norm(grad F)^2 >= 2 mu (F - F*), F L-smooth.

    (1 - q)/(1 + q/2) with q = mu/L, against the descent lemma's 1 - mu/L: Abbaszadehpeivasti, de Klerk and Zamani
    (2023) give (2L - 2 mu)/(2L + mu).

    Raises ValueError unless 0 < mu <= L.

    >>> best_pl_factor(0.5, 1.0)
    0.4
    """
    if not 0 < mu <= L:
        raise ValueError(f"0 < mu <= L is required (an L-smooth function has mu <= L), got mu={mu}, L={L}.")
    return (2 * L - 2 * mu) / (2 * L + mu)
