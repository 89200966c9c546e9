"""The numbers of the trap theorem for a network with one hidden layer, streamed over neurons in plain float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.kl.check_shallow import Bounds, one_hidden_layer_bounds
from tameopt.kl.shallow import Shallow

# sigma -> (sup |sigma'|, sup |sigma''|); closed forms: 4/(3 sqrt 3), 1/(6 sqrt 3), 1/4, 2/sqrt(2 pi), 1
CONSTANTS = {
    "tanh": (1.0, 4 / (3 * math.sqrt(3))),
    "sigmoid": (0.25, 1 / (6 * math.sqrt(3))),
    "softplus": (1.0, 0.25),
    "gelu": (1.128904145, 2 / math.sqrt(2 * math.pi)),
    "sin": (1.0, 1.0),
    "identity": (1.0, 0.0),
}


@dataclass(frozen=True)
class ShallowNumbers:
    """Plain float64 numbers about a network with one hidden layer, as `kantorovich.Numbers` wants them."""

    s0: float
    J0: float
    u0: float
    noise: float
    first: float
    features: float
    both: bool
    A0: float

    def ell(self, radius: float) -> float:
        """The closed-form Lipschitz constant of J on the ball."""
        if not self.both:
            return self.first * self.A0
        b = self.first * (self.A0 + radius)
        return (b + math.hypot(b, 2 * self.features)) / 2


@dataclass(frozen=True)
class ProvedNumbers:
    """The checker's own bounds, which a claim made of them never misses by rounding."""

    s0: float
    J0: float
    u0: float
    noise: float
    bounds: Bounds

    def ell(self, radius: float) -> float:
        """A Lipschitz constant of J on the ball."""
        return self.bounds.ell(radius)


def proved_numbers(net: Shallow, noise: float) -> ProvedNumbers:
    """The numbers as the checker bounds them: one more pass over neurons and samples. noise: as in ShallowNumbers."""
    found = one_hidden_layer_bounds(net.description(), net.arrays())
    return ProvedNumbers(max(found.s0, 0.0), found.J0, found.u0, noise, found)


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


def shallow_numbers(net: Shallow, chunk: int = 1 << 21) -> ShallowNumbers:
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
    return ShallowNumbers(
        s0=math.sqrt(max(float(eigenvalues[0]), 0.0)),
        J0=math.sqrt(max(float(eigenvalues[-1]), 0.0)),
        u0=float(torch.linalg.vector_norm(residual)),
        noise=8 * np.finfo(np.float64).eps * math.sqrt(m * n * k) * float(eigenvalues[-1]),
        first=net.scale * net.gain**2 * curvature * fourth_moment if first else 0.0,
        features=net.scale * net.gain * slope_bound * math.sqrt(float(torch.linalg.eigvalsh(G)[-1])),
        both=first and last,
        A0=float(torch.linalg.vector_norm(C, dim=0).max()),
    )


def value_of(activation: str) -> _Map:
    """The activation in torch."""
    return _TORCH[activation][0]


def derivative_of(activation: str) -> _Map:
    """Its derivative in torch."""
    return _TORCH[activation][1]
