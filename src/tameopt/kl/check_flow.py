"""The checker of flow certificates: ReLU and leaky ReLU networks with one hidden layer, under gradient flow.

f(x) = scale C s(W x + b) + e on the stored data, s of slope 1 above 0 and `slope` in [0, 1] below. theta' is minus a
Clarke subgradient of norm(u)^2/2 (more generally J_g^T u with any g_ri in [slope, 1] where z_ri = w_r x_i + b_r = 0).

**What is proved.** Let tau(t) be the integral of norm(u) from 0 to t. While tau <= T:

- neuron r moves by at most omega_r <= scale c_r norm(X~) T, its outputs' weights by delta_r, with c_r = norm(C_r) +
  delta_r and delta_r <= scale T (norm(h_r) + norm(X~) omega_r); so delta_r (1 - p^2) <= scale T norm(h_r) + p^2
  norm(C_r) with p = scale T norm(X~) < 1 (delta_r = 0 when C is not trained). X~ has the rows (x_i, 1) as far as
  they are trained, h_r the values of neuron r;
- z_ri moves by at most scale c_r gamma_ri T, gamma_ri^2 = sum_j g_j^2 (x~_i x~_j)^2 with g_j = 1 where neuron r may
  become active on sample j (first bounded with all g_j = 1), `slope` elsewhere. Pairs that cannot reach 0 keep their
  slope; the others, F_r, have any g in [slope, 1];
- the part of J that belongs to W and b gives norm(J^T v)^2 >= sum_r norm(scale sum_o C_or Z_r X~^T D_r v_o)^2, where
  Z_r with norm(Z_r) <= 1 removes the rows of X~ in F_r: what they contribute is unknown, and not needed. Up to
  delta_r, this is a fixed matrix K_T, so that lambda_min(J J^T) >= lambda(T), nonincreasing in T.

As d norm(u) / d tau <= -lambda(tau), tau_1 lambda(tau_1) + (tau_2 - tau_1) lambda(tau_2) + ... >= norm(u_0) proves
that tau never passes the last tau_k, and norm(u(t)) <= exp(-q t) norm(u_0) for q <= lambda(tau_k). The chain rule
that this needs, d/dt norm(u)^2/2 = -norm(theta')^2, holds for semialgebraic functions (Davis, Drusvyatskiy, Kakade
and Lee 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tameopt.kl.check_arithmetic import exact, gamma, lambda_max_upper, lambda_min_lower, norm_upper, row_norms_upper
from tameopt.kl.check_arrays import array_of

FORMAT = "tameopt flow certificate 1"
_LARGEST = 1e30
_CHUNK = 1 << 20  # numbers of (neuron, sample) at once
_INFLATE = 1.0 + 1e-9  # covers the rounding of sums of nonnegative numbers
_TINY = 1e-290
_MOST_TIMES = 200


def check(data: Mapping[str, Any]) -> bool:
    """Whether the certificate's every step holds.

    data: {"format", "network": {"slope", "scale", "trained"}, "arrays": {W, C, X, Y, b, e}, "claims": {"taus", "q"}}.
    Returns False for a proof that fails. Raises ValueError when data is no flow certificate.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f"a flow certificate must have format {FORMAT!r}.")
    try:
        arrays = {name: array_of(name, entry) for name, entry in data["arrays"].items()}
        taus, q = [float(tau) for tau in data["claims"]["taus"]], float(data["claims"]["q"])
        network = data["network"]
        flow = Flow(network, arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a flow certificate must hold a network, arrays and claims: {error!r}.") from error
    if not 0 < len(taus) <= _MOST_TIMES or not all(math.isfinite(tau) for tau in taus) or not math.isfinite(q):
        raise ValueError("a flow certificate must claim between 1 and 200 finite times and a finite rate.")
    if not all(a < b for a, b in zip([0.0, *taus], taus, strict=False)) or not q > 0:
        return False
    total, before, least = exact(0.0), exact(0.0), 0.0
    for tau in taus:
        least = flow.kernel_low(tau)
        if not least > 0:
            return False
        total += exact(least) * (exact(tau) - before)
        before = exact(tau)
    return total >= exact(flow.u0) and q <= least


class Flow:
    """A network with one hidden layer of ReLUs on its data, with bounds of what rounding does.

    Raises ValueError when the arrays do not fit, or something is trained that is not there.
    """

    def __init__(self, network: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.W, self.C, self.X, self.Y = (arrays[name] for name in ("W", "C", "X", "Y"))
        for name in ("W", "C", "X", "Y"):
            if arrays[name].ndim != 2 or not arrays[name].size:
                raise ValueError(f"a flow certificate must hold a matrix {name!r}.")
        (self.m, self.d), (self.n, self.k) = self.W.shape, self.Y.shape
        self.b, self.e = arrays.get("b", np.zeros(self.m)), arrays.get("e", np.zeros(self.k))
        fits = self.C.shape == (self.k, self.m) and self.X.shape == (self.n, self.d)
        if not fits or self.b.shape != (self.m,) or self.e.shape != (self.k,):
            found = {name: array.shape for name, array in arrays.items()}
            raise ValueError(f"the certificate's arrays must fit one network, their shapes are {found}.")
        self.slope, self.scale = float(network["slope"]), float(network["scale"])
        self.trained = tuple(network["trained"])
        if not 0 <= self.slope <= 1 or not 0 < self.scale <= _LARGEST:
            raise ValueError(f"slope must be in [0, 1] and scale positive, got {self.slope} and {self.scale}.")
        if not set(self.trained) <= {"W", "b", "C", "e"} or any(t in "be" and t not in arrays for t in self.trained):
            raise ValueError(f"the trained parameters must be among the stored W, b, C, e, got {self.trained}.")
        if not {"W", "b"} & set(self.trained):
            raise ValueError("a flow certificate needs a trained first layer.")
        parts = [self.X] * ("W" in self.trained) + [np.ones((self.n, 1))] * ("b" in self.trained)
        self.inputs = np.hstack(parts)
        lengths = row_norms_upper(self.inputs)
        D = self.inputs.shape[1]
        gram = self.inputs @ self.inputs.T
        self.G = np.abs(gram) + gamma(D + 4) * np.outer(lengths, lengths)
        self.gram = gram
        self.frobenius = norm_upper(self.inputs)
        self.spread = math.sqrt(lambda_max_upper(gram) + gamma(D + 4) * self.frobenius**2 * _INFLATE) * _INFLATE
        longest = float(row_norms_upper(self.X).max())
        self.z_error = gamma(self.d + 6) * (row_norms_upper(self.W) * longest + np.abs(self.b)) * _INFLATE + _TINY
        self.columns = row_norms_upper(self.C.T)
        self.step = max(1, _CHUNK // self.n)
        self.u0, self.h_norms = self._residual()

    def _pre(self, part: slice) -> np.ndarray:
        z: np.ndarray = self.W[part] @ self.X.T + self.b[part, None]
        return z

    def _residual(self) -> tuple[float, np.ndarray]:
        """(an upper bound of norm(u_0), of norm(h_r) for each neuron)."""
        outputs, size, wrong = (np.zeros((self.n, self.k)) for _ in range(3))
        norms = np.zeros(self.m)
        for start in range(0, self.m, self.step):
            part = slice(start, start + self.step)
            z = self._pre(part)
            h = np.where(z > 0, z, self.slope * z)
            outputs += h.T @ self.C[:, part].T
            absolute = np.abs(self.C[:, part].T)
            size += np.abs(h).T @ absolute
            wrong += (self.z_error[part] @ absolute)[None, :]
            norms[part] = row_norms_upper(np.abs(h) + self.z_error[part, None])
        u = self.scale * outputs + self.e - self.Y
        # sums over neurons in chunks, the slope's product, the scale and two additions
        rounding = gamma(self.m + 16) * (self.scale * size + np.abs(self.e) + np.abs(self.Y))
        return norm_upper(u) + norm_upper(self.scale * wrong + rounding) * _INFLATE, norms * _INFLATE

    def kernel_low(self, tau: float) -> float:
        """lambda(tau): a lower bound of lambda_min(J J^T) while the integral of norm(u) is at most tau; 0 if none."""
        p = self.scale * tau * self.spread * _INFLATE
        if "C" in self.trained and not p < 0.5:
            return 0.0  # 1 - p^2 must not lose to rounding
        delta = np.zeros(self.m)
        if "C" in self.trained:
            delta = (self.scale * tau * self.h_norms + p * p * self.columns) / (1 - p * p) * _INFLATE
        heavy = (self.columns + delta) * _INFLATE
        n, k = self.n, self.k
        blocks = np.zeros((k, k, n, n))
        trace, wrong = 0.0, 0.0
        for start in range(0, self.m, self.step):
            part = slice(start, start + self.step)
            added, added_trace, added_wrong = self._chunk(part, tau, heavy[part])
            blocks += added
            trace, wrong = trace + added_trace, wrong + added_wrong
        kernel = np.zeros((n * k, n * k))
        for o in range(k):
            for q in range(k):
                kernel[o::k, q::k] = blocks[o, q]
        rounding = gamma(self.m * (self.inputs.shape[1] + 2) + 40) * trace * _INFLATE + _TINY
        low = lambda_min_lower(kernel) - rounding
        if not low > 0:
            return 0.0
        moved = self.scale * self.spread * norm_upper(delta)
        least = math.sqrt(low) * (1 - 1e-15) - (math.sqrt(wrong) + moved) * _INFLATE
        return least * least * (1 - 1e-15) if least > 0 else 0.0

    def _chunk(self, part: slice, tau: float, heavy: np.ndarray) -> tuple[np.ndarray, float, float]:
        """What neurons add to K_T: (blocks (k, k, n, n), their trace, the square of the error of their rows of J)."""
        z, C = self._pre(part), self.C[:, part]
        wrong_z = self.z_error[part, None]
        reach = self.scale * heavy[:, None] * tau
        squares = np.square(self.G)
        every = np.sqrt(squares.sum(axis=1))[None, :]
        may = np.where(z + reach * every * _INFLATE + wrong_z > 0, 1.0, self.slope)
        gammas = np.sqrt(np.square(may) @ squares)
        flips = np.abs(z) <= reach * gammas * _INFLATE + wrong_z
        slopes = np.where(flips, 0.0, np.where(z > 0, 1.0, self.slope))
        factor = self.scale * self.scale
        blocks = np.zeros((self.k, self.k, self.n, self.n))
        weights = np.square(heavy) * factor
        count = flips.sum(axis=1)
        still = count == 0
        weighted = [C[o, still][:, None] * slopes[still] for o in range(self.k)]
        for o in range(self.k):
            for q in range(self.k):
                blocks[o, q] = factor * self.gram * (weighted[o].T @ weighted[q])
        trace = float(weights.sum()) * self.frobenius**2
        wrong = 0.0
        D = self.inputs.shape[1]
        for f in np.unique(count[~still]):
            if f >= min(D, self.n):
                continue  # what is left of such a neuron is not counted
            chosen = np.flatnonzero(count == f)
            for begin in range(0, chosen.size, max(1, _CHUNK // (self.n * D))):
                group = chosen[begin : begin + max(1, _CHUNK // (self.n * D))]
                M, errors = self._projected(slopes[group], flips[group], int(f))
                for o in range(self.k):
                    left = (C[o, group][:, None, None] * M).transpose(1, 0, 2).reshape(self.n, -1)
                    for q in range(self.k):
                        right = (C[q, group][:, None, None] * M).transpose(1, 0, 2).reshape(self.n, -1)
                        blocks[o, q] += factor * (left @ right.T)
                wrong += float((weights[group] * np.square(errors)).sum())
        return blocks, trace, wrong

    def _projected(self, slopes: np.ndarray, flips: np.ndarray, f: int) -> tuple[np.ndarray, np.ndarray]:
        """(Z D X~ (count, n, D) with the f flipped rows removed, errors: what these may add, and rounding).

        Z = I - Q Q^T has norm at most 1 whenever norm(Q^T Q) <= 2, which holds far and wide for a computed Q.
        """
        count, D = flips.shape[0], self.inputs.shape[1]
        rows = np.nonzero(flips)[1].reshape(count, f)
        flipped = self.inputs[rows]
        Q = np.linalg.qr(np.swapaxes(flipped, 1, 2))[0]
        turned = np.swapaxes(Q, 1, 2)
        off = np.sqrt(np.square(turned @ Q - np.eye(f)).sum(axis=(1, 2)))
        left = flipped - (flipped @ Q) @ turned
        scaled = slopes[:, :, None] * self.inputs[None]
        M = scaled - (scaled @ Q) @ turned
        sizes = np.square(Q).sum(axis=(1, 2))
        rounding = 2 * gamma(D + f + 12) * self.frobenius * (1 + sizes)
        errors = (np.sqrt(np.square(left).sum(axis=(1, 2))) + rounding) * _INFLATE
        # a factor that is not nearly orthonormal proves nothing: its neuron is not counted
        bad = ~(off < 0.5)
        M[bad], errors[bad] = 0.0, 0.0
        return M, errors
