"""Desingularising functions: phi with norm(grad(phi o F)) >= 1 near a critical point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from tameopt.kl.exponent import exponent
from tameopt.picture import Picture, Series
from tameopt.problem import Problem


@dataclass(frozen=True)
class Desingularising:
    """phi: concave, increasing, phi(0) = 0, on [0, radius) of values above the limit.

    phi, derivative, inverse: functions of a number. words: phi as a formula.
    """

    phi: Callable[[float], float]
    derivative: Callable[[float], float]
    inverse: Callable[[float], float]
    words: str
    radius: float = math.inf

    def __repr__(self) -> str:
        return f"Desingularising({self.words})"


def power(theta: Fraction | float, c: float = 1.0) -> Desingularising:
    """phi(t) = t^(1-theta) / (c (1-theta)) for norm(grad F) >= c F^theta, 0 <= theta < 1, c > 0.

    Check: phi'(F) norm(grad F) = F^(-theta)/c * norm(grad F) >= 1. (Some sources print (1-theta)/c as the factor.)

    Raises ValueError for theta outside [0, 1) or c <= 0.

    >>> power(0.5, 2.0).phi(4.0)
    2.0
    """
    theta = float(theta)
    if not 0 <= theta < 1 or not c > 0:
        raise ValueError(f"a power desingularises for 0 <= theta < 1 and c > 0, got theta={theta} and c={c}.")
    s = 1 - theta
    return Desingularising(
        lambda t: t**s / (c * s),
        lambda t: t ** (-theta) / c if t > 0 or theta == 0 else math.inf,
        lambda y: (c * s * y) ** (1 / s),
        f"t^{s:.4g} / {c * s:.4g}",
    )


def polyak_lojasiewicz(mu: float) -> Desingularising:
    """phi(t) = sqrt(2 t / mu) for norm(grad F)^2 >= 2 mu F.

    Raises ValueError for mu <= 0.
    """
    if not mu > 0:
        raise ValueError(f"mu must be > 0, got {mu}.")
    return power(0.5, math.sqrt(2 * mu))


def flat() -> Desingularising:
    """phi(t) = (-ln t)^(-1/2) on (0, e^(-3/2)): it desingularises exp(-1/x^2), which no power does.

    phi o F = abs(x) for F = exp(-1/x^2); phi is concave up to t = e^(-3/2).
    """
    return Desingularising(
        lambda t: 0.0 if t <= 0 else (-math.log(t)) ** -0.5,
        lambda t: math.inf if t <= 0 else 0.5 / t * (-math.log(t)) ** -1.5,
        lambda y: 0.0 if y <= 0 else math.exp(-1 / y**2),
        "(-ln t)^(-1/2)",
        math.exp(-1.5),
    )


@dataclass(frozen=True)
class SampledCheck:
    """phi'(F - F*) norm(grad F) on samples about a point: least value, where, and how many samples counted."""

    least: float
    at: torch.Tensor
    samples: int

    @property
    def holds(self) -> bool:
        """Whether every sample has it at least 1. Samples refute, they never prove."""
        return self.least >= 1.0


def check_on_samples(
    problem: Problem,
    phi: Desingularising,
    point: torch.Tensor,
    radius: float,
    generator: torch.Generator,
    samples: int = 500,
) -> SampledCheck:
    """Evaluate phi'(F - F(point)) norm(grad F) at random points of the ball, at all scales down to radius/1000.

    point: (d,). Points with F <= F(point), or beyond phi's radius, do not count. One gradient a sample.

    Raises ValueError when no sample counted.
    """
    F_star = float(problem.value(point))
    least, where, counted = math.inf, point, 0
    for _ in range(samples):
        direction = torch.randn(point.numel(), generator=generator, dtype=torch.float64).to(point)
        scale = radius * 10 ** (-3 * float(torch.rand((), generator=generator)))
        x = point + scale * direction / direction.norm()
        value, gradient = problem.value_and_gradient(x)
        excess = float(value) - F_star
        # differences within rounding of F have no sign to trust
        if not 64 * torch.finfo(problem.dtype).eps * abs(F_star) < excess < phi.radius:
            continue
        counted += 1
        slope = phi.derivative(excess) * float(gradient.norm())
        if slope < least:
            least, where = slope, x
    if not counted:
        raise ValueError("no sample lies above F(point): choose another point, or a larger radius.")
    return SampledCheck(least, where, counted)


def of_polynomial(source: str, c: float = 1.0) -> Desingularising:
    """phi for a polynomial at the origin, with its exact exponent and a constant c of yours.

    Raises ValueError when the exponent is not known exactly.
    """
    found = exponent(source)
    if found.theta is None or found.lower < found.upper:
        raise ValueError(f"the exponent is only known to lie between {found.lower} and {found.upper}: {found.rule}.")
    return power(found.theta, c)


def picture(problem: Problem, phi: Desingularising, xs: Sequence[float], j: int = 0) -> Picture:
    """F and phi o F along the j-th axis through theta, as the lecture draws them: phi sharpens F."""
    theta = problem.theta
    values = []
    for x in xs:
        moved = theta.clone()
        moved[j] = x
        values.append(float(problem.value(moved)))
    least = min(values)
    inside = [value - least if value - least < phi.radius else math.nan for value in values]
    sharpened = [phi.phi(excess) if excess >= 0 else math.nan for excess in inside]
    return Picture(
        "kl-desingularised",
        f"F and phi o F, phi(t) = {phi.words}",
        f"theta_{j + 1}",
        "value",
        (Series.of("F", xs, values), Series.of("phi o F", xs, sharpened)),
        caption="phi o F has slope at least 1 wherever F is above its limit: reparameterised by phi, F is sharp.",
    )
