"""Smooth networks of any depth, for the trap theorem: their operators, and the numbers that the checker bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from tameopt.kl.check_ball import Ball, reach_of
from tameopt.kl.check_network import NetworkBounds, network_bounds
from tameopt.kl.operators import Operators, operators_of
from tameopt.problem import Problem

_MOST_ENTRIES = 1 << 26  # of the Jacobian: 512 MiB, and as much again while its error is bounded


@dataclass(frozen=True)
class Network(Operators):
    """A smooth network as operators, with weights and data. bounds: what the checker found, once it was asked."""

    bounds: list[NetworkBounds] = field(default_factory=list, repr=False, compare=False)

    @property
    def words(self) -> str:
        """What it is, for a person."""
        layers = [op for op in self.ops if op["op"] == "linear"]
        kinds = sorted({op["name"] for op in self.ops if op["op"] == "activation"})
        widths = "-".join(str(self.weights[op["weight"]].shape[0]) for op in layers)
        places = " (convolutions among them)" if any(op["positions"] > 1 for op in layers) else ""
        return f"{len(layers)} layers of widths {widths}{places}, {', '.join(kinds) or 'linear'}"

    @property
    def symmetry(self) -> Literal["", "odd", "linear"]:
        """Whether f(-x) = -f(x), or f is linear in x, for all weights."""
        kinds = {op["name"] for op in self.ops if op["op"] == "activation"}
        if any(op.get("bias") is not None for op in self.ops) or not kinds <= {"tanh", "sin"}:
            return ""
        return "odd" if kinds else "linear"

    @property
    def count(self) -> int:
        """Number of trained parameters."""
        return sum(self.weights[name].size for name in self.trained)

    def obstacle(self, radius: float) -> str:
        """Why the module differs from the function certified somewhere in the ball of that radius, or ""."""
        if not any(op.get("name") == "softplus" for op in self.ops):
            return ""
        ball = self.bounds[0].ball if self.bounds else network_bounds(self.description(), self.arrays()).ball
        if reach_of(ball, radius, "softplus") < 20:
            return ""
        return "torch's softplus is the identity past 20, which the ball reaches"


@dataclass(frozen=True)
class NetworkNumbers:
    """`kantorovich.Numbers` of a network: the checker's own bounds, so that claims never miss by rounding."""

    s0: float
    J0: float
    u0: float
    noise: float
    ball: Ball
    bounds: NetworkBounds

    def ell(self, radius: float) -> float:
        """A Lipschitz constant of J on the ball."""
        return self.bounds.ell(radius)


def affordable(problem: Problem) -> bool:
    """Whether the Jacobian of all outputs is small enough to be held."""
    return int(problem.targets().numel()) * problem.dim <= _MOST_ENTRIES


def network_numbers(net: Network) -> NetworkNumbers | str:
    """The numbers of the trap theorem, or why they cannot be had.

    Cost: n k adjoints and the Gram matrix of the Jacobian, O(n^2 k^2 p).
    """
    rows = net.X.shape[0] * net.Y.shape[1]
    if rows * net.count > _MOST_ENTRIES:
        return (
            f"the Jacobian of {rows:,} outputs by {net.count:,} parameters has more than {_MOST_ENTRIES:,} entries: "
            "fewer samples, or a network with one hidden layer, whose kernel is streamed"
        )
    try:
        found = network_bounds(net.description(), net.arrays())
    except ValueError as error:  # sizes that its bounds do not cover
        return str(error)
    net.bounds[:] = [found]
    noise = 8 * np.finfo(np.float64).eps * math.sqrt(rows) * found.J0**2
    return NetworkNumbers(max(found.s0, 0.0), found.J0, found.u0, noise, found.ball, found)


def trace_network(problem: Problem, theta: torch.Tensor | None = None) -> Network | str:
    """The problem's smooth network at theta, or the reason why it is none that the checker knows."""
    found = operators_of(problem, theta)
    return found if isinstance(found, str) else Network(found.ops, found.weights, found.trained, found.X, found.Y)
