"""What a trap certificate does not see: the scale at which it was earned, and what Du et al. would have asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.kl.check_operators import forward, read_operators
from tameopt.kl.held_out import HeldOut
from tameopt.kl.network import Network
from tameopt.kl.shallow import Shallow
from tameopt.kl.trap import TrapCertificate

_QUADRATURE = 60  # Gauss-Hermite nodes: exact for polynomials of degree 119


@dataclass(frozen=True)
class HonestScale:
    """The scale behind a certificate.

    The condition h <= 1/2 sees only output scale squared times width, and input norms, gain and label size are the
    same loophole; so: the largest relative movement of the trained weights and the largest relative change of the
    tangent kernel that the certificate admits, the size (root mean square) of outputs and labels, the norms of the
    inputs, how the data were prepared, and what the network gets wrong on held-out data, None when there were none.

    For one hidden layer besides: output_scale over the scale at which a Gaussian network's outputs have unit size
    (alpha_ratio), the width that would do the same at that scale (effective_width), gain, h at the standard scale,
    and whether the neurons cancel in pairs; None for other networks.
    """

    relative_movement: float
    kernel_drift: float
    output_size: float
    label_size: float
    smallest_input: float
    largest_input: float
    preprocessing: str = "as given"
    held_out: HeldOut | None = None
    output_scale: float | None = None
    alpha_ratio: float | None = None
    effective_width: float | None = None
    gain: float | None = None
    h_at_standard_scale: float | None = None
    antisymmetric: bool | None = None

    def lines(self) -> list[str]:
        """Sentences for a report."""
        found = []
        if self.alpha_ratio is not None:
            found.append(
                f"output scale {self.alpha_ratio:.3g} x the standard one (unit outputs): effective width "
                f"{self.effective_width:,.0f}, h there {self.h_at_standard_scale:.3g}, gain {self.gain:g}, outputs "
                f"{'cancel in pairs' if self.antisymmetric else 'do not cancel'} at the start"
            )
        return [
            *found,
            f"outputs of size {self.output_size:.3g}, labels of size {self.label_size:.3g}, inputs of norm "
            f"{self.smallest_input:.3g} to {self.largest_input:.3g} ({self.preprocessing})",
            f"certified on the way: weights move by at most {100 * self.relative_movement:.2g}% of their norm, the "
            f"tangent kernel by at most {100 * self.kernel_drift:.2g}% of its norm",
            "error on held-out data: not measured: no held-out data" if self.held_out is None else str(self.held_out),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {**self.__dict__, "held_out": None if self.held_out is None else dict(self.held_out.__dict__)}


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


def honest_scale(
    net: Shallow | Network,
    certificate: TrapCertificate,
    preprocessing: str = "as given",
    held_out: HeldOut | None = None,
) -> HonestScale:
    """The scale block of a certificate of this network.

    preprocessing: in words, as the person knows it; held_out: as `held_out.held_out` measures it.
    """
    arrays = net.arrays()
    norms = np.linalg.norm(net.X, axis=1)
    trained = math.sqrt(sum(float(np.square(arrays[name]).sum()) for name in net.trained))
    # norm(K - K_0) <= 2 norm(J_0) ell R + (ell R)^2 on the ball
    change = certificate.ell * certificate.radius / certificate.J0
    common: dict[str, Any] = {
        "relative_movement": certificate.radius / trained if trained else math.inf,
        "kernel_drift": 2 * change + change**2,
        "output_size": float(np.sqrt(np.mean(_outputs(net) ** 2))),
        "label_size": float(np.sqrt(np.mean(net.Y**2))),
        "smallest_input": float(norms.min()),
        "largest_input": float(norms.max()),
        "preprocessing": preprocessing,
        "held_out": held_out,
    }
    if not isinstance(net, Shallow):
        return HonestScale(**common)
    m = net.W.shape[0]
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
        **common,
        output_scale=net.scale,
        alpha_ratio=ratio,
        effective_width=m * ratio**2,
        gain=net.gain,
        h_at_standard_scale=certificate.h * ratio,
        antisymmetric=bool(paired),
    )


def _outputs(net: Shallow | Network) -> np.ndarray:
    if isinstance(net, Shallow):
        return net.outputs()
    ops, _, _ = read_operators(net.description(), net.arrays())
    return forward(ops, net.arrays())[0][-1]


def network_of(certificate: TrapCertificate) -> Shallow | Network | None:
    """The network that a certificate is about, from its own data; None when it holds none."""
    if certificate.data is None:
        return None
    arrays, network = certificate.data["arrays"], certificate.data["network"]
    if network["kind"] == "network":
        weights = {name: array for name, array in arrays.items() if name not in ("X", "Y")}
        return Network(tuple(network["ops"]), weights, tuple(network["trained"]), arrays["X"], arrays["Y"])
    return Shallow(
        arrays["W"], arrays["C"], arrays.get("b"), arrays.get("e"), arrays["X"], arrays["Y"], network["activation"],
        network["gain"], network["scale"], tuple(network["trained"]),
    )  # fmt: skip


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
