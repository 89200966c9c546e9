"""The checker of trap certificates: it replays the proof from the stored weights and data alone.

It shares no code with what makes certificates (`trap.py`). Every inequality is in float64 with a-priori error bounds
(`check_arithmetic`, `check_activations`) or in exact rationals; library functions other than IEEE arithmetic, matrix
products and square roots are not trusted.

**What is proved.** f(theta) is the network's outputs on the stored inputs, y the targets, u = f - y, J = Df. If J is
ell-Lipschitz on the ball of radius R about theta_0, sigma_min(J(theta_0)) >= s0, norm(J(theta_0)) <= J0,
norm(u_0) <= u0, and

    ell R <= s0,    s0 R - ell R^2/2 >= u0,    eta (J0 + ell R)^2 <= 1,

then exact gradient descent theta <- theta - eta J^T u from theta_0 stays in the ball, and
norm(u_k) <= (1 - eta q)^k u0 with q = (s0 - ell R)^2. (Kantorovich trap: with S the path length,
norm(u_{k+1}) <= norm(u_k) - int_{S_k}^{S_{k+1}} (s0 - ell s) ds.)
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from tameopt.kl.check_activations import ACTIVATIONS
from tameopt.kl.check_arithmetic import (
    U,
    exact,
    gamma,
    lambda_max_upper,
    lambda_min_lower,
    norm_upper,
    power_at_most,
    row_norms_upper,
    up,
)

FORMAT = "tameopt trap certificate 1"
_CHUNK = 1 << 21  # numbers of (neuron, sample) at once: 16 MiB arrays
_LARGEST = 1e30  # larger weights or data could overflow in the bounds; none occur
_CLAIMS = ("ell", "s0", "J0", "u0", "radius", "step", "q")


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


def check(data: Mapping[str, Any]) -> bool:
    """Whether the certificate's every step holds.

    data: {"format", "network": {...}, "arrays": {name: {"shape", "base64"}}, "claims": {...}}; arrays are float64,
    little-endian. Returns False for a proof that fails. Raises ValueError when data is no trap certificate.
    """
    network, arrays, claims = _read(data)
    numbers = {name: exact(claims[name]) for name in _CLAIMS}
    if not _inequalities(numbers, claims):
        return False
    bounds = one_hidden_layer_bounds(network, arrays)
    return (
        math.isfinite(bounds.s0)
        and claims["s0"] <= bounds.s0
        and claims["J0"] >= bounds.J0
        and claims["u0"] >= bounds.u0
        and claims["ell"] >= bounds.ell(float(claims["radius"]))
    )


def check_file(path: str | os.PathLike[str]) -> bool:
    """Whether the certificate in a file holds; the file is a safetensors file as `TrapCertificate.save` writes it.

    Raises FileNotFoundError, or ValueError when the file is no trap certificate.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        raise FileNotFoundError(f"no certificate at {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("certificate", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} must be a trap certificate, it cannot be read: {error}.") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} must be a trap certificate, it has no certificate header.")
    return check({**header, "arrays": arrays})


def _inequalities(c: Mapping[str, Fraction], claims: Mapping[str, Any]) -> bool:
    """The theorem's conditions and conclusions, in exact rationals."""
    if min(c[name] for name in _CLAIMS) < 0 or c["s0"] <= 0 or c["step"] <= 0 or c["radius"] <= 0 or c["q"] <= 0:
        return False
    slack = c["s0"] - c["ell"] * c["radius"]
    if slack <= 0 or c["s0"] * c["radius"] - c["ell"] * c["radius"] ** 2 / 2 < c["u0"]:
        return False
    if c["step"] * (c["J0"] + c["ell"] * c["radius"]) ** 2 > 1 or c["q"] > slack**2:
        return False
    target, steps = claims.get("target"), claims.get("steps")
    if target is None and steps is None:
        return True
    if not isinstance(steps, int) or target is None or steps < 0:
        return False
    return power_at_most(1 - c["step"] * c["q"], steps, exact(float(target)) / c["u0"]) if c["u0"] else True


def _read(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, np.ndarray], Mapping[str, Any]]:
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f"a trap certificate must have format {FORMAT!r}, this has {_format_of(data)!r}.")
    network, claims = data.get("network"), data.get("claims")
    if (
        not isinstance(network, Mapping)
        or not isinstance(claims, Mapping)
        or not isinstance(data.get("arrays"), Mapping)
    ):
        raise ValueError("a trap certificate must have a network, arrays and claims; it is damaged.")
    assert isinstance(network, Mapping) and isinstance(claims, Mapping)
    for name in _CLAIMS:
        if not isinstance(claims.get(name), (int, float)) or isinstance(claims.get(name), bool):
            raise ValueError(f"a trap certificate must claim a number {name!r}, got {claims.get(name)!r}.")
    arrays = {name: _array(name, entry) for name, entry in data["arrays"].items()}
    return network, arrays, {**claims, **{name: float(claims[name]) for name in _CLAIMS}}


def _format_of(data: Any) -> Any:
    return data.get("format") if isinstance(data, Mapping) else type(data).__name__


def _array(name: str, entry: Any) -> np.ndarray:
    if isinstance(entry, np.ndarray):
        array = np.ascontiguousarray(entry, dtype=np.float64)
    else:
        try:
            raw = base64.b64decode(entry["base64"], validate=True)
            array = np.frombuffer(raw, dtype="<f8").reshape([int(side) for side in entry["shape"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"array {name!r} of the certificate is damaged: {error}.") from error
    if not np.all(np.abs(array) <= _LARGEST):
        raise ValueError(f"array {name!r} of the certificate must be finite and below {_LARGEST:g}, it is not.")
    return array


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


def one_hidden_layer_bounds(network: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Bounds:
    """Proved numbers about f(x) = scale C sigma(gain (W x + b)) + e on the stored data.

    network: {"kind": "one hidden layer", "activation", "gain", "scale", "trained": names among W, b, C, e}.
    Raises ValueError for another kind of network or an activation that is not known here.
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
    sums = _Streamed(arrays, str(network["activation"]), gain)
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

    def __init__(self, arrays: Mapping[str, np.ndarray], activation: str, gain: float) -> None:
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
            self.features += values.T @ values
            self.outputs += values.T @ C[:, part].T
            self.outputs_size += np.abs(values).T @ size[:, part].T
        for o in range(k):
            for p in range(o):
                self.slopes[o][p] = self.slopes[p][o].T
