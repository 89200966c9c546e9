"""Proved numbers about networks with one hidden layer: what the checker of trap certificates needs of them.

f(x) = scale C sigma(gain (W x + b)) + e on the stored data: the smallest singular value, the norm and the Lipschitz
constant of its Jacobian, and the norm of the residual, streamed over neurons (memory O(n^2 k^2 + chunk)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tameopt.kl.check_activations import ACTIVATIONS
from tameopt.kl.check_arithmetic import (
    U,
    gamma,
    lambda_max_upper,
    lambda_min_lower,
    norm_upper,
    row_norms_upper,
    up,
)

_CHUNK = 1 << 21  # numbers of (neuron, sample) at once: 16 MiB arrays
_LARGEST = 1e30  # larger gains or scales could overflow in the bounds; none occur


class Bounds:
    """Proved numbers about a one-hidden-layer network: s0 (lower), J0, u0 (upper), and ell as a function of R."""

    def __init__(self, s0: float, J0: float, u0: float, first: float, features: float, both: bool, A0: float) -> None:
        self.s0, self.J0, self.u0 = s0, J0, u0
        self._first, self._features, self._both, self._A0 = first, features, both, A0

    def ell(self, radius: float) -> float:
        """An upper bound of the Lipschitz constant of J on the ball of that radius."""
        if not self._both:
            return up(self._first * self._A0)
        # the norm of [[b, L], [L, 0]]: b from moving W at output weights of at most A0 + R, L from moving both
        b = up(self._first * up(self._A0 + radius))
        return up(up(b + math.sqrt(up(up(b * b) + up(4 * up(self._features**2)))) * (1 + 4 * U)) * 0.5)


def _shapes(arrays: Mapping[str, np.ndarray]) -> tuple[int, int, int, int]:
    """(n, d, m, k), all shapes agreeing.

    Raises ValueError when they do not.
    """
    for name in ("W", "C", "X", "Y"):
        if name not in arrays or arrays[name].ndim != 2:
            raise ValueError(f"a trap certificate must hold a matrix {name!r}.")
    (m, d), (k, m2), (n, d2), (n2, k2) = (arrays[name].shape for name in ("W", "C", "X", "Y"))
    fits = m == m2 and d == d2 and n == n2 and k == k2 and min(n, d, m, k) > 0
    fits = fits and ("b" not in arrays or arrays["b"].shape == (m,))
    fits = fits and ("e" not in arrays or arrays["e"].shape == (k,))
    if not fits:
        found = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"the certificate's arrays must fit one network, their shapes are {found}.")
    return n, d, m, k


def read_shallow(
    network: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], int, int, int, float, float]:
    """(trained, n, d, k, gain, scale) of a network with one hidden layer.

    network: {"kind": "one hidden layer", "activation", "gain", "scale", "trained": names among W, b, C, e}.
    Raises ValueError for another kind of network, an activation that is not known here, or shapes that do not fit.
    """
    if network.get("kind") != "one hidden layer":
        raise ValueError(f"this checker knows networks with one hidden layer, not {network.get('kind')!r}.")
    if network.get("activation") not in ACTIVATIONS:
        raise ValueError(f"this checker knows {', '.join(ACTIVATIONS)}, not {network.get('activation')!r}.")
    trained = tuple(network.get("trained", ()))
    if not trained or not set(trained) <= {"W", "b", "C", "e"} or any(t in "be" and t not in arrays for t in trained):
        raise ValueError(f"the trained parameters must be among the stored W, b, C, e, got {trained}.")
    n, d, _, k = _shapes(arrays)
    gain, scale = float(network.get("gain", 1.0)), float(network.get("scale", 1.0))
    if not (0 < gain <= _LARGEST and 0 < scale <= _LARGEST):
        raise ValueError(f"gain and scale must be positive and at most {_LARGEST:g}, got {gain} and {scale}.")
    return trained, n, d, k, gain, scale


def one_hidden_layer_bounds(network: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Bounds:
    """Proved numbers about f(x) = scale C sigma(gain (W x + b)) + e on the stored data.

    Raises ValueError as `read_shallow` does.
    """
    trained, n, d, k, gain, scale = read_shallow(network, arrays)
    sums = _Streamed(arrays, str(network["activation"]), gain, "C" in trained)
    sigma = ACTIVATIONS[str(network["activation"])]
    X = arrays["X"]
    inputs = (
        np.hstack([X, np.ones((n, 1))]) if {"W", "b"} <= set(trained) else X if "W" in trained else np.ones((n, 1))
    )
    moves_first, moves_last = bool({"W", "b"} & set(trained)), "C" in trained
    G = inputs @ inputs.T
    kernel = np.zeros((n * k, n * k))
    factor = scale * scale
    for o in range(k):
        for p in range(k):
            block = factor * gain * gain * G * sums.slopes[o][p] if moves_first else np.zeros((n, n))
            if o == p:
                block = block + (factor * sums.features if moves_last else 0.0) + (1.0 if "e" in trained else 0.0)
            kernel[o::k, p::k] = block
    trace_part = float(np.trace(kernel)) * (1 + 1e-9)
    # entries are sums over neurons of products, G an inner product of length d+1, and a few operations more
    rounding = gamma(sums.terms + d + 40) * trace_part * (1 + 1e-9) + 1e-290
    moved = 0.0
    if moves_first:
        moved = up(moved + (scale * gain * sums.slope_error * norm_upper(inputs)) ** 2 * (1 + 1e-12))
    if moves_last:
        moved = up(moved + k * (scale * sums.feature_error) ** 2 * (1 + 1e-12))
    jacobian_error = up(math.sqrt(moved) * (1 + 1e-12))
    low, high = lambda_min_lower(kernel) - rounding, lambda_max_upper(kernel) + rounding
    s0 = math.sqrt(low) * (1 - 4 * U) - jacobian_error if low > 0 else -math.inf
    J0 = up(math.sqrt(max(high, 0.0)) * (1 + 4 * U) + jacobian_error)
    offset = arrays.get("e", np.zeros(k))
    residual = scale * sums.outputs + offset - arrays["Y"]
    size = scale * sums.outputs_size + np.abs(offset) + np.abs(arrays["Y"])
    defect = scale * sums.outputs_error + gamma(sums.terms + 8) * size
    u0 = up(norm_upper(residual) + norm_upper(defect) * (1 + 1e-6))
    first = 0.0
    if moves_first:
        lengths = row_norms_upper(inputs)
        square = np.square(np.abs(G) + gamma(d + 8) * np.outer(lengths, lengths)) * (1 + 1e-14) + 1e-290
        bounded = _perron_upper(square)
        first = up(scale * gain * gain * sigma.curvature * math.sqrt(bounded) * (1 + 1e-14))
    features = 0.0
    if moves_first and moves_last:
        spread = math.sqrt(lambda_max_upper(G) + gamma(d + 8) * float(np.trace(G)) * (1 + 1e-9))
        features = up(scale * gain * sigma.slope * spread * (1 + 1e-14))
    return Bounds(s0, J0, u0, first, features, moves_first and moves_last, sums.largest_output_weight)


def _perron_upper(A: np.ndarray) -> float:
    """An upper bound of the largest eigenvalue of a symmetric matrix with entries >= 0.

    The better of max (A v)_i / v_i, for a v > 0 near the Perron vector, and the shifted Cholesky bound.
    """
    v = np.abs(np.linalg.eigh(A)[1][:, -1]) + 1e-9
    quotients = (A @ v) / v
    collatz = up(float(quotients.max()) * (1 + 2 * gamma(A.shape[0] + 4)))
    return min(collatz, lambda_max_upper(A))


class _Streamed:
    """Sums over neurons, a chunk at a time: memory O(n^2 k^2 + chunk).

    slopes[o][p]: (n, n) sum_r C_or C_pr s_ri s_rj with s = sigma'; features: (n, n) sum_r sigma sigma;
    outputs: (n, k) sum_r C_or sigma_ri, with outputs_size the same in absolute values and outputs_error (n, k) what
    the activations' errors can add. slope_error: sqrt(sum_r norm(C_r)^2 e_r^2) with e_r the largest error of s_ri;
    feature_error: sqrt(n sum_r e'_r^2). terms: n such that gamma_n bounds the summation error of any entry.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], activation: str, gain: float, with_features: bool) -> None:
        sigma = ACTIVATIONS[activation]
        W, C, X = arrays["W"], arrays["C"], arrays["X"]
        (m, d), k, n = W.shape, C.shape[0], X.shape[0]
        b = arrays.get("b", np.zeros(m))
        longest = float(row_norms_upper(X).max())
        norms = row_norms_upper(W)
        # errors of z = gain (w.x + b): d products, d additions, gain; by Cauchy-Schwarz
        z_error = gain * gamma(d + 6) * (norms * longest + np.abs(b)) * (1 + 1e-9)
        z_size = gain * (norms * longest + np.abs(b)) * (1 + 1e-9)
        value_error = sigma.absolute + sigma.relative * z_size + sigma.slope * z_error
        slope_error = sigma.absolute + sigma.curvature * z_error
        columns = row_norms_upper(C.T)
        self.largest_output_weight = float(columns.max())
        self.slope_error = norm_upper(columns * slope_error)
        self.feature_error = norm_upper(value_error * math.sqrt(n) * (1 + 1e-12))
        step = max(1, _CHUNK // n)
        # each entry is a sum over chunks of sums over a chunk: errors of gamma_step, then of gamma_(number of chunks)
        self.terms = min(m, step) + -(-m // step) + 8
        self.slopes = [[np.zeros((n, n)) for _ in range(k)] for _ in range(k)]
        self.features = np.zeros((n, n))
        self.outputs = np.zeros((n, k))
        self.outputs_size = np.zeros((n, k))
        size = np.abs(C)
        self.outputs_error = np.tile((size @ value_error) * (1 + 2 * gamma(m + 8)), (n, 1))
        for start in range(0, m, step):
            part = slice(start, start + step)
            z = gain * (W[part] @ X.T + b[part, None])
            values, slopes = sigma.evaluate(z)
            weighted = [C[o, part][:, None] * slopes for o in range(k)]
            for o in range(k):
                for p in range(o, k):
                    self.slopes[o][p] += weighted[o].T @ weighted[p]
            if with_features:
                self.features += values.T @ values
            self.outputs += values.T @ C[:, part].T
            self.outputs_size += np.abs(values).T @ size[:, part].T
        for o in range(k):
            for p in range(o):
                self.slopes[o][p] = self.slopes[p][o].T
