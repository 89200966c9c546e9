"""What a trap certificate does not see: the scale at which it was earned, and what Du et al. would have asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.kl.shallow import Shallow
from tameopt.kl.shallow_numbers import CONSTANTS
from tameopt.kl.trap import TrapCertificate

_QUADRATURE = 60  # Gauss-Hermite nodes: exact for polynomials of degree 119


@dataclass(frozen=True)
class HonestScale:
    """The scale behind a certificate.

    The condition h <= 1/2 sees only output scale squared times width, and input norms, gain and label size are the
    same loophole; so: output_scale over the scale at which a Gaussian network's outputs have unit size
    (alpha_ratio), the width that would do the same at that scale (effective_width), gain, h at the standard scale,
    the largest relative movement of W that is certified, largest input norm, root mean square label, and whether
    the neurons cancel in pairs.
    """

    output_scale: float
    alpha_ratio: float
    effective_width: float
    gain: float
    h_at_standard_scale: float
    relative_movement: float
    largest_input: float
    label_size: float
    antisymmetric: bool

    def lines(self) -> list[str]:
        """Sentences for a report."""
        return [
            f"output scale {self.alpha_ratio:.3g} x the standard one (unit outputs): effective width "
            f"{self.effective_width:,.0f}, h there {self.h_at_standard_scale:.3g}",
            f"gain {self.gain:g}, inputs of norm <= {self.largest_input:.3g}, labels of size {self.label_size:.3g}",
            f"certified: W moves by at most {100 * self.relative_movement:.2g}% of its norm",
            f"outputs cancel at the start: {'yes' if self.antisymmetric else 'no'}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return dict(self.__dict__)


def output_size(activation: str, spread: float) -> float:
    """Root mean square of sigma(z), z ~ N(0, spread^2), by Gauss-Hermite quadrature."""
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "softplus": lambda z: np.logaddexp(0, z),
        "gelu": lambda z: 0.5 * z * (1 + np.array([math.erf(x / math.sqrt(2)) for x in z])),
        "sin": np.sin,
        "identity": lambda z: z,
    }
    nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE)
    values = functions[activation](spread * nodes)
    return float(np.sqrt((weights * values**2).sum() / weights.sum()))


def honest_scale(net: Shallow, certificate: TrapCertificate) -> HonestScale:
    """The scale block of a certificate of this network."""
    m = net.W.shape[0]
    norms = np.linalg.norm(net.X, axis=1)
    spread = net.gain * float(np.sqrt(np.mean(net.W**2))) * float(norms.mean())
    columns = np.linalg.norm(net.C, axis=0)
    standard = 1 / (output_size(net.activation, spread) * float(np.sqrt((columns**2).sum() / net.C.shape[0])))
    ratio = net.scale / standard
    half = m // 2
    paired = (
        m % 2 == 0
        and np.array_equal(net.W[:half], net.W[half:])
        and np.array_equal(net.C[:, :half], -net.C[:, half:])
    )
    # h ~ ell norm(u)/s0^2 with ell ~ scale and s0^2 ~ scale^2: it falls like 1/scale while norm(u) stays
    return HonestScale(
        output_scale=net.scale,
        alpha_ratio=ratio,
        effective_width=m * ratio**2,
        gain=net.gain,
        h_at_standard_scale=certificate.h * ratio,
        relative_movement=certificate.radius / float(np.linalg.norm(net.W)),
        largest_input=float(norms.max()),
        label_size=float(np.sqrt(np.mean(net.Y**2))),
        antisymmetric=bool(paired),
    )


def du_width(X: np.ndarray, delta: float = 0.1) -> float:
    """The width n^6 / (lambda_0^4 delta^3) that Du, Zhai, Poczos and Singh 2019 (theorem 3.2) ask for, constant 1.

    X: (n, d), rows scaled to unit norm here. lambda_0 is the least eigenvalue of their ReLU kernel
    x_i.x_j (pi - arccos x_i.x_j)/(2 pi). Infinity when two inputs are parallel.
    """
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    G = np.clip(unit @ unit.T, -1.0, 1.0)
    kernel = G * (np.pi - np.arccos(G)) / (2 * np.pi)
    least = float(np.linalg.eigvalsh(kernel)[0])
    if least <= 1e-13 * len(X):
        return math.inf
    return float(len(X) ** 6 / (least**4 * delta**3))


def curvature_of(activation: str) -> float:
    """sup |sigma''| of a known activation."""
    return CONSTANTS[activation][1]
