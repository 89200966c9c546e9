"""From the initial point: a certificate about exact gradient descent from this seed, not about rounded iterates.

Gradient descent is run in float64 until the trap theorem applies; the checker replays the run with a bound of the
distance to the exact iterate (`check_shadowing`), and the theorem is applied at the exact iterate, which that bound
encloses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tameopt.evidence import Verdict
from tameopt.kl.check_shadowing import shadow
from tameopt.kl.least_squares import least_squares
from tameopt.kl.shallow import Shallow, recognise
from tameopt.kl.shallow_numbers import derivative_of, shallow_numbers, value_of
from tameopt.kl.trap import TrapCertificate, conclude, none
from tameopt.problem import Problem

_FIRST_STEP = 0.6  # our choice: eta norm(J)^2 at the start; norm(J) may grow by a quarter before eta is too large
_TRIES = 40  # how many iterates are tested, at least, between the start and the last step


def shadow_certificate(
    problem: Problem,
    theta: torch.Tensor | None = None,
    step: float | None = None,
    most: int = 20_000,
    target: float | None = None,
) -> TrapCertificate:
    """Certify that exact gradient descent from theta, the initial weights, reaches zero training loss.

    problem: least squares on a network with one hidden layer. step: of gradient descent on F, 0.6/norm(J)^2 in the
    theorem's scale by default. most: steps of the float64 run before it is given up. target: as in
    `trap_certificate`, F/10^6 at the iterate where the theorem applies by default.

    Cost: the run, some forty certificates in plain float64, and twice the checker's replay: a few evaluations a
    step, and the eigenvalues of one small matrix a neuron whenever they have moved.
    """
    squares = least_squares(problem)
    if not squares.holds:
        return none(f"the loss is not least squares: {squares.reason}", problem)
    net = recognise(problem, theta)
    if isinstance(net, str):
        return none(f"shadowing is known for one hidden layer: {net}", problem)
    if not net.trained:
        return none("none of the network's layers is trained", problem)
    first = shallow_numbers(net)
    eta = _FIRST_STEP / first.J0**2 if step is None else 2 * squares.scale * step
    alpha = eta / (2 * squares.scale)
    every = max(1, most // _TRIES)
    last = conclude(net, first, squares.scale, alpha, False, target)
    for done, later in _descent(net, eta, most):
        # the theorem needs a small residual; testing more often than the loss halves finds the step closely enough
        if done % every:
            continue
        numbers = shallow_numbers(later)
        last = conclude(net, numbers, squares.scale, alpha, False, target, at=later, before=done)
        if not last.holds:
            continue
        found = shadow(net.description(), net.arrays(), eta, done)
        if not math.isfinite(found.distance):
            reason = (
                f"after {found.steps:,} steps rounding may have grown to more than the trap's size "
                f"(by e^{found.exponent:.1f}): more digits than float64 would be needed"
            )
            return replace(last, holds=False, verdict=Verdict.UNKNOWN, reason=reason, data=None)
        there = _at(net, found.arrays)
        numbers = shallow_numbers(there)
        certificate = conclude(
            net, numbers, squares.scale, alpha, True, target, at=there, distance=found.distance * (1 + 1e-3),
            before=done,
        )  # fmt: skip
        if certificate.holds:
            return certificate
        last = certificate
    reason = f"the theorem did not apply within {most:,} steps: {last.reason}"
    return replace(last, holds=False, verdict=Verdict.UNKNOWN, reason=reason, data=None)


def _at(net: Shallow, weights: dict[str, np.ndarray]) -> Shallow:
    return replace(net, W=weights["W"], C=weights["C"], b=weights.get("b"), e=weights.get("e"))


def _descent(net: Shallow, eta: float, most: int) -> Iterator[tuple[int, Shallow]]:
    """Gradient descent on norm(u)^2/2 in plain float64: (steps done, the network there)."""
    value, slope = value_of(net.activation), derivative_of(net.activation)
    X, Y = torch.from_numpy(net.X), torch.from_numpy(net.Y)
    now: dict[str, Any] = {name: torch.from_numpy(array.copy()) for name, array in net.arrays().items()}
    scale, gain = net.scale, net.gain
    for done in range(most + 1):
        yield done, _at(net, {name: tensor.numpy() for name, tensor in now.items()})
        z = now["W"] @ X.T
        if "b" in now:
            z = z + now["b"][:, None]
        z = gain * z
        v = value(z)
        u = scale * (v.T @ now["C"].T) + now.get("e", 0.0) - Y
        Q = scale * gain * ((now["C"].T @ u.T) * slope(z))
        moves = {"W": Q @ X, "b": Q.sum(1), "C": scale * (u.T @ v.T), "e": u.sum(0)}
        for name in net.trained:
            now[name] = now[name] - eta * moves[name]
