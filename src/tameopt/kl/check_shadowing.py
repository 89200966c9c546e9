"""Shadowing (checker code): a float64 replay of gradient descent stays provably close to the exact one.

theta_{k+1} = T(theta_k) = theta_k - eta grad Phi(theta_k), Phi = norm(u)^2/2, is exact gradient descent from the
stored weights; the replay computes theta^_{k+1} = T(theta^_k) + a defect of norm at most e_k. With
d_k >= norm(theta_k - theta^_k), d_0 = 0, and B the ball of radius d_k about theta^_k, which holds the segment
between the two,

    norm(T(theta) - T(theta^)) <= sup_B norm(I - eta Hess Phi) d_k,   Hess Phi = J^T J + S,   S = sum u_io Hess f_io,
    norm(I - eta Hess Phi) <= max(1 + eta lambda_max(-S)_+, eta (norm(J)^2 + lambda_max(S)_+) - 1) =: 1 + eta kappa_k,
    d_{k+1} = (1 + eta kappa_k) d_k + e_k.

For one hidden layer S is block diagonal, a block per neuron, in (w_r, b_r; c_r):

    [[ scale gain^2 sum_i P_ri sigma''(z_ri) x_i x_i^T,  scale gain sum_i sigma'(z_ri) x_i u_i^T ], [ transposed, 0 ]]

with P = C^T u^T and x_i extended by 1 for the bias, restricted to what is trained; the output bias e has none. Its
extreme eigenvalues at theta^_k are bounded by Cholesky factors with residuals, what moves on B by norms. Blocks are
factored again only when they have drifted: between, the change of their coefficients bounds the change of norm.

Every bound is a sum or product of nonnegative numbers, so their own rounding is covered by factors 1 + 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.kl.check_activations import ACTIVATIONS
from tameopt.kl.check_arithmetic import (
    U,
    gamma,
    lambda_max_upper,
    largest_of_blocks_upper,
    norm_upper,
    row_norms_upper,
)
from tameopt.kl.check_shallow import read_shallow

_INFLATE = 1.0 + 1e-9
_DRIFT = 0.05  # our choice: blocks are factored again when their coefficients moved by this part of their size
_NEGLIGIBLE = 1e-6  # our choice: drift that adds no more than this to a step's growth never matters
_BLOCKS = 256  # blocks factored at once
_MOST_STEPS = 10_000_000
_FARTHEST = 1e-2  # our choice: past this distance shadowing is given up


@dataclass(frozen=True)
class Shadow:
    """Where exact gradient descent is after `steps` steps: within `distance` of the arrays' weights.

    exponent: sum of log(1 + eta kappa_k), the growth of early errors. distance: infinity when it was lost.
    """

    arrays: dict[str, np.ndarray]
    distance: float
    exponent: float
    steps: int


def shadow(network: Mapping[str, Any], arrays: Mapping[str, np.ndarray], eta: float, steps: int) -> Shadow:
    """Replay `steps` steps of theta - eta grad Phi from the stored weights, with the bound of the distance.

    Raises ValueError when steps is no count or the network is not one hidden layer known here.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or not 0 <= steps <= _MOST_STEPS:
        raise ValueError(f"the steps before the certificate must be between 0 and {_MOST_STEPS:,}, got {steps!r}.")
    replay = _Replay(network, arrays, eta)
    distance, exponent = 0.0, 0.0
    for done in range(steps):
        growth, defect = replay.step(distance)
        distance = (growth * distance + defect) * (1 + 8 * U)
        exponent += math.log(growth)
        if not distance <= _FARTHEST:
            return Shadow(replay.weights(), math.inf, exponent, done + 1)
    return Shadow(replay.weights(), distance, exponent, steps)


class _Replay:
    """The weights theta^_k, and one step of theirs at a time."""

    def __init__(self, network: Mapping[str, Any], arrays: Mapping[str, np.ndarray], eta: float) -> None:
        trained, _, _, _, self.gain, self.scale = read_shallow(network, arrays)
        self.sigma = ACTIVATIONS[str(network["activation"])]
        self.eta, self.trained = eta, set(trained)
        self.X, self.Y = arrays["X"], arrays["Y"]
        (self.m, self.d), self.k, self.n = arrays["W"].shape, arrays["C"].shape[0], self.X.shape[0]
        self.now = {name: np.array(arrays[name]) for name in "WCbe" if name in arrays}
        parts = [self.X] * ("W" in self.trained) + [np.ones((self.n, 1))] * ("b" in self.trained)
        self.inputs = np.hstack(parts) if parts else np.zeros((self.n, 0))
        self.lengths = row_norms_upper(self.inputs)
        self.longest = float(row_norms_upper(self.X).max())
        gram = self.inputs.T @ self.inputs
        error = gamma(self.n + 4) * float(np.square(self.lengths).sum()) * _INFLATE
        self.spread = (lambda_max_upper(gram) + error) * _INFLATE if parts else 0.0  # norm(inputs)^2
        self.reference: _Reference | None = None

    def weights(self) -> dict[str, np.ndarray]:
        """The stored arrays with the weights as they are now."""
        return {**self.now, "X": self.X, "Y": self.Y}

    def step(self, distance: float) -> tuple[float, float]:
        """Move by one step; (1 + eta kappa, bound of the step's defect)."""
        sigma, gain, scale, eta, n, k, m, d = (
            self.sigma, self.gain, self.scale, self.eta, self.n, self.k, self.m, self.d,
        )  # fmt: skip
        W, C = self.now["W"], self.now["C"]
        b, e = self.now.get("b", np.zeros(m)), self.now.get("e", np.zeros(k))
        z = gain * (W @ self.X.T + b[:, None])
        v, s = sigma.evaluate(z)
        u = scale * (v.T @ C.T) + e - self.Y
        P = C.T @ u.T
        Q = scale * gain * (P * s)
        # errors of z, sigma, sigma' by neuron; of u by sample (its Frobenius norm); of P and Q
        W_norms, C_norms, u_norms = row_norms_upper(W), row_norms_upper(C.T), row_norms_upper(u)
        size = gain * (W_norms * self.longest + np.abs(b)) * _INFLATE
        z_error = gamma(d + 6) * size * _INFLATE
        v_error = sigma.absolute + sigma.relative * size + sigma.slope * z_error
        s_error = sigma.absolute + sigma.curvature * z_error
        largest_v = np.abs(v).max(axis=1)
        part = np.abs(C) @ (v_error + gamma(m + 8) * largest_v) * scale
        u_error = norm_upper(part + gamma(8) * (np.abs(e) + np.abs(self.Y).max(axis=0))) * _INFLATE  # a sample's
        u_norm = norm_upper(u)
        all_u_error = u_error * math.sqrt(n) * _INFLATE
        P_error = u_error + gamma(k + 4) * u_norms  # |P^ - P|_ri <= norm(C_r) P_error_i
        Q_norm = norm_upper(Q)
        slopes_up = sigma.slope + 2 * s_error
        Q_error = (
            scale
            * gain
            * (norm_upper(C_norms * slopes_up) * norm_upper(P_error) + norm_upper(C_norms * s_error) * u_norm)
            * _INFLATE
            + 8 * U * Q_norm
        )
        gradient: dict[str, np.ndarray] = {}
        squares = 0.0
        if "W" in self.trained:
            gradient["W"] = Q @ self.X
        if "b" in self.trained:
            gradient["b"] = Q.sum(axis=1)
        if self.inputs.shape[1]:
            rounding = gamma(n + 4) * Q_norm * norm_upper(self.inputs)
            squares += (Q_error * math.sqrt(self.spread) + rounding) ** 2
        v_norm = norm_upper(v) + norm_upper(v_error) * math.sqrt(n)
        if "C" in self.trained:
            gradient["C"] = scale * (u.T @ v.T)
            wrong = all_u_error * v_norm + u_norm * math.sqrt(n) * norm_upper(v_error)
            squares += (scale * (wrong + gamma(n + 6) * u_norm * v_norm)) ** 2
        if "e" in self.trained:
            gradient["e"] = u.sum(axis=0)
            squares += (math.sqrt(n) * (all_u_error + gamma(n + 4) * u_norm)) ** 2
        # the ball about theta^_k: what may move there, and by how much
        here = _Here(z, v, s, u, P, z_error, v_error, s_error, all_u_error, C_norms, u_norms)
        growth = 1.0 + eta * self._kappa(distance, here)
        moved = 0.0
        for name, direction in gradient.items():
            self.now[name] = self.now[name] - eta * direction
            moved += (2 * eta * norm_upper(direction) + norm_upper(self.now[name])) ** 2
        defect = (eta * math.sqrt(squares) + 2 * U * math.sqrt(moved)) * _INFLATE + 1e-280
        return growth * (1 + 4 * U), defect

    def _kappa(self, distance: float, here: _Here) -> float:
        """max(lambda_max(-S)_+, norm(J)^2 + lambda_max(S)_+ - 2/eta) on the ball of radius `distance`."""
        sigma, gain, scale = self.sigma, self.gain, self.scale
        first, last = bool(self.inputs.shape[1]), "C" in self.trained
        moved = gain * (distance if first else 0.0) * self.lengths[None, :]
        shift = moved + here.z_error[:, None]  # |z - z^| on the ball
        slope_change = here.s_error[:, None] + sigma.curvature * moved
        slopes = np.minimum(np.abs(here.s) + slope_change, sigma.slope)
        moved_c = distance if last else 0.0
        columns = here.C_norms + moved_c
        u_norm = norm_upper(here.u)
        jacobian = 0.0  # of norm(J)^2 on the ball
        if first:
            jacobian += (scale * gain) ** 2 * float((np.square(columns) @ np.square(slopes)).max()) * self.spread
        if last or "e" in self.trained:
            values = scale * (np.abs(here.v) + here.v_error[:, None] + sigma.slope * moved) * last
            # the part of C and e is a Gram matrix; its norm is at most its largest row sum in absolute values
            jacobian += float((values.T @ values.sum(axis=1)).max()) + self.n * ("e" in self.trained)
        jacobian *= _INFLATE
        u_change = here.u_error + math.sqrt(jacobian) * distance
        curves, bound = np.zeros_like(here.P), 0.0
        if first and sigma.curvature > 0:
            second = sigma.second(here.z, here.v, here.s)
            curves = here.P * second
            second_change = sigma.second_error + sigma.third * shift
            P_change = columns[:, None] * (u_change + gamma(self.k + 4) * here.u_norms) + moved_c * here.u_norms
            change = P_change * (np.abs(second) + second_change) + np.abs(here.P) * second_change
            bound += scale * gain**2 * float((change + 4 * U * np.abs(curves)).max()) * self.spread
        if first and last:
            moved_n = float(slope_change.max()) * (u_norm + u_change) + sigma.slope * (1 + 1e-6) * u_change
            bound += scale * gain * math.sqrt(self.spread) * moved_n
        bound *= _INFLATE
        below, above = self._extremes(curves, here.s if last else None, here.u)
        return max(below + bound, jacobian + above + bound - 2 / self.eta, 0.0)

    def _extremes(self, curves: np.ndarray, s: np.ndarray | None, u: np.ndarray) -> tuple[float, float]:
        """Upper bounds of lambda_max(-S)_+ and lambda_max(S)_+ with S made of these numbers, taken as exact."""
        if not self.inputs.shape[1]:
            return 0.0, 0.0
        if self.reference is not None:
            past = self.reference
            drift = self.scale * self.gain**2 * float(np.abs(curves - past.curves).max()) * self.spread
            if s is not None and past.s is not None:
                change = float(np.abs(s - past.s).max()) * norm_upper(u) + self.sigma.slope * norm_upper(u - past.u)
                # the stored slopes may exceed sup |sigma'| by their error
                drift += self.scale * self.gain * math.sqrt(self.spread) * change * (1 + 1e-6)
            drift *= _INFLATE
            if drift <= _DRIFT * past.below + _NEGLIGIBLE / self.eta:
                return past.below + drift, past.above + drift
        below = above = 0.0
        for start in range(0, self.m, _BLOCKS):
            part = slice(start, start + _BLOCKS)
            blocks, error = self._blocks(curves[part], None if s is None else s[part], u)
            below = max(below, largest_of_blocks_upper(-blocks) + error)
            above = max(above, largest_of_blocks_upper(blocks) + error)
        self.reference = _Reference(curves, s, u, below, above)
        return below, above

    def _blocks(self, curves: np.ndarray, s: np.ndarray | None, u: np.ndarray) -> tuple[np.ndarray, float]:
        """The blocks of S, and a bound of their rounding in Frobenius norm."""
        Z, n, d = self.inputs, self.n, self.inputs.shape[1]
        count, k = curves.shape[0], 0 if s is None else self.k
        blocks = np.zeros((count, d + k, d + k))
        factor = self.scale * self.gain**2
        blocks[:, :d, :d] = factor * ((Z.T[None] * curves[:, None, :]) @ Z)
        error = factor * float((np.abs(curves) @ np.square(self.lengths)).max())
        if s is not None:
            corner = self.scale * self.gain * ((Z.T[None] * s[:, None, :]) @ u)
            blocks[:, :d, d:] = corner
            sizes = np.abs(s) @ (self.lengths * row_norms_upper(u))
            error += 2 * self.scale * self.gain * float(sizes.max())
        return blocks, gamma(n + 10) * error * _INFLATE


@dataclass(frozen=True)
class _Here:
    """What was computed at theta^_k, with bounds of its errors: by neuron for z, sigma, sigma'; in norm for u."""

    z: np.ndarray
    v: np.ndarray
    s: np.ndarray
    u: np.ndarray
    P: np.ndarray
    z_error: np.ndarray
    v_error: np.ndarray
    s_error: np.ndarray
    u_error: float
    C_norms: np.ndarray
    u_norms: np.ndarray


@dataclass(frozen=True)
class _Reference:
    """The step at which blocks were last factored: their coefficients and the bounds found."""

    curves: np.ndarray
    s: np.ndarray | None
    u: np.ndarray
    below: float
    above: float
