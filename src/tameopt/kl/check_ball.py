"""How much the Jacobian of a network can change on a ball about its weights (checker code).

On the ball of radius R about theta_0, with V a direction of norm 1 and V_q its part in layer q (a weight and its
bias), every value h of the network has tangents dh with

    norm(dh_i) <= sum_q t_iq norm(V_q)  for a sample i,   |dh_ij| <= sum_q e_iq norm(V_q)  for an entry j,
    (sum_i norm(dh_i)^2)^(1/2) <= sum_q tau_q norm(V_q)  for the batch,

so a value moves by at most R norm(t_i), an entry by R norm(e_i), the batch by R norm(tau). The bounds are carried
forward through the operators: for z = W h + b, dz = dW h + db + W dh; for y = sigma(z), dy = sigma'(z) dz with the
largest |sigma'| on the interval that z_ij can reach.

The second derivative is a sum over the operators that are not linear, B the adjoint df/dvalue at their output:

    D^2 f [V, V'] = sum_linear B (dW dh' + dW' dh) + sum_activations B (sigma''(z) dz dz').

Adjoints on the ball differ from those at theta_0 by at most delta_i in operator norm, carried backward. For each
operator the batch's sum is at most a^T M a' with a_q = norm(V_q), a'_q = norm(V'_q), since for b_i = norm(B_i):

    (sum_i norm(B_i dW dh'_i)^2)^(1/2) <= min(max_i b_i tau', norm(B) max_i t'_i) norm(dW),   B all B_il stacked,
    (sum_i norm(B_i sigma'' dz dz')^2)^(1/2) <= max_i (gamma_i t_i) tau',  gamma_i = max_j norm(B_i,:j) |sigma''_ij|,

and for the first layer, z = W x + b with data x~ = (x, 1), a neuron's part is a quadratic form in its own weights, so
that the whole is at most lambda_max(D (G o G) D)^(1/2) norm(V) norm(V'), G = x~ x~^T, D = diag(gamma). The Lipschitz
constant of J is the norm of the sum of the matrices M.

Everything is a sum, product or root of nonnegative numbers, so its rounding is covered by the factor 1 + 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tameopt.kl.check_activations import ACTIVATIONS
from tameopt.kl.check_arithmetic import gamma, lambda_max_upper, norm_upper, row_norms_upper
from tameopt.kl.check_operators import Op

_INFLATE = 1.0 + 1e-8


@dataclass(frozen=True)
class Adjoint:
    """The adjoint B at an operator's output at theta_0, bounded above.

    norms: (n,) of B_i; columns: (n, size) of its columns, for activations; batch: of all B_il stacked, (n k L, O).
    """

    norms: np.ndarray
    columns: np.ndarray
    batch: float

    @staticmethod
    def of(op: Op, b: np.ndarray, error: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Adjoint:
        """From its entries (n, k, size) and their errors."""
        largest = np.abs(b) + error
        norms = np.sqrt(np.square(largest).sum(axis=(1, 2))) * _INFLATE
        columns = np.zeros((0, 0))
        batch = norm_upper(norms)
        if op.kind == "activation":
            columns = np.sqrt(np.square(largest).sum(axis=1)) * _INFLATE
        if op.kind == "linear":
            stacked = b.reshape(-1, arrays[op.weight].shape[0])
            batch = min(batch, operator_norm(stacked) + norm_upper(error))
        return Adjoint(norms, columns, batch)


@dataclass(frozen=True)
class Ball:
    """What is needed to bound the change of J on balls: the network, its values, errors and adjoints at theta_0."""

    ops: tuple[Op, ...]
    arrays: dict[str, np.ndarray]
    trained: tuple[str, ...]
    values: list[np.ndarray]
    radii: list[np.ndarray]
    adjoints: dict[int, Adjoint]


@dataclass(frozen=True)
class _Tangents:
    """t: (n, Q) by sample, e: (n, Q) by entry, tau: (Q,) of the batch."""

    t: np.ndarray
    e: np.ndarray
    tau: np.ndarray


def operator_norm(A: np.ndarray) -> float:
    """An upper bound of the largest singular value of the float64 matrix A."""
    if A.shape[0] < A.shape[1]:
        A = A.T
    gram = A.T @ A
    error = gamma(A.shape[0] + 4) * float(np.square(A).sum()) * _INFLATE
    return min(math.sqrt(max(lambda_max_upper(gram), 0.0) + error) * _INFLATE, norm_upper(A))


def _sample_norms(deep: np.ndarray) -> np.ndarray:
    """(n,) upper bounds of the operator norms of (n, L, D): of Frobenius, and of the Gram matrices' row sums."""
    frobenius = np.square(deep).sum(axis=(1, 2))
    if deep.shape[1] > 1:
        size = np.abs(deep)
        for gram in (size @ np.swapaxes(size, 1, 2), np.swapaxes(size, 1, 2) @ size):
            frobenius = np.minimum(frobenius, gram.sum(axis=2).max(axis=1) * _INFLATE)
    norms: np.ndarray = np.sqrt(frobenius) * _INFLATE
    return norms


def _layers(ball: Ball) -> dict[str, int]:
    """The layer of each trained array: a weight and the bias used with it are one."""
    layer: dict[str, int] = {name: number for number, name in enumerate(ball.trained)}
    for op in ball.ops:
        if op.weight in layer and op.bias in layer:
            old, new = layer[op.bias or ""], layer[op.weight]
            layer = {name: new if number == old else number for name, number in layer.items()}
    numbers = {number: place for place, number in enumerate(sorted(set(layer.values())))}
    return {name: numbers[number] for name, number in layer.items()}


class _Forward:
    """The tangents of every value on the ball, and what activations can do there."""

    def __init__(self, ball: Ball, R: float) -> None:
        self.ball, self.R = ball, R
        self.layer = _layers(ball)
        self.count = len(set(self.layer.values()))
        n = ball.values[0].shape[0]
        zero = np.zeros((n, self.count))
        self.tangents = [_Tangents(zero, zero, np.zeros(self.count))]
        self.slopes: dict[int, np.ndarray] = {}  # (n,) largest |sigma'| of a sample on the ball
        self.curves: dict[int, np.ndarray] = {}  # (n, size) largest |sigma''| of an entry on the ball
        self.weights: dict[str, float] = {}
        for position, op in enumerate(ball.ops):
            self.tangents.append(self._linear(op) if op.kind == "linear" else self._other(position, op))

    def moves(self, op: Op) -> float:
        """How far the operator's weight can move."""
        return self.R if op.weight in self.layer else 0.0

    def weight_norm(self, op: Op) -> float:
        """norm(W) on the ball."""
        if op.weight not in self.weights:
            self.weights[op.weight] = operator_norm(self.ball.arrays[op.weight])
        return self.weights[op.weight] + self.moves(op)

    def _linear(self, op: Op) -> _Tangents:
        ball, R, x = self.ball, self.R, self.tangents[op.source]
        W, moved = ball.arrays[op.weight], self.moves(op)
        n, L, D = x.t.shape[0], op.positions, W.shape[1]
        w = self.weight_norm(op)
        row = float(row_norms_upper(W).max()) + moved
        row_sum = float(np.abs(W).sum(axis=1).max()) + math.sqrt(D) * moved
        t, e, tau = w * x.t, np.minimum(row * x.t, row_sum * x.e), w * x.tau
        value, radius = ball.values[op.source], ball.radii[op.source]
        deep = (np.abs(value) + radius).reshape(n, L, D)
        reach = R * np.sqrt(np.square(x.t).sum(axis=1))
        trained_W, trained_b = op.weight in self.layer, bool(op.bias) and op.bias in self.layer
        own_t, own_e, own_tau = np.zeros(n), np.zeros(n), 0.0
        if trained_W:
            own_t = np.square(_sample_norms(deep) + reach)
            own_e = np.square(np.sqrt(np.square(deep).sum(axis=2).max(axis=1)) * _INFLATE + reach)
            whole = operator_norm(value.reshape(n * L, D)) + norm_upper(radius)
            own_tau = (whole + R * norm_upper(x.tau)) ** 2
        if trained_b:
            own_t, own_e, own_tau = own_t + L, own_e + 1.0, own_tau + n * L
        q = self.layer[op.weight] if trained_W else self.layer[op.bias] if trained_b and op.bias else None
        if q is not None:
            t[:, q] += np.sqrt(own_t)
            e[:, q] += np.sqrt(own_e)
            tau[q] += math.sqrt(own_tau)
        return _Tangents(t, e, tau)

    def _other(self, position: int, op: Op) -> _Tangents:
        x = self.tangents[op.source]
        if op.kind == "activation":
            sigma, z = ACTIVATIONS[op.name], self.ball.values[op.source]
            v, s = sigma.evaluate(z)
            reach = self.R * np.sqrt(np.square(x.e).sum(axis=1))[:, None] + self.ball.radii[op.source]
            curves = np.abs(sigma.second(z, v, s)) + sigma.second_error + sigma.third * reach
            self.curves[position] = np.minimum(curves, sigma.curvature)
            slopes = np.abs(s) + sigma.absolute + sigma.curvature * reach
            self.slopes[position] = np.minimum(slopes, sigma.slope).max(axis=1)
            L = self.slopes[position][:, None]
            return _Tangents(L * x.t, L * x.e, float(L.max()) * x.tau)
        if op.kind == "gather":
            factor = math.sqrt(op.multiplicity)
            return _Tangents(factor * x.t, x.e, factor * x.tau)
        if op.kind == "mean":
            t = x.t / math.sqrt(op.count)
            return _Tangents(t, np.minimum(x.e, t), x.tau / math.sqrt(op.count))
        if op.kind == "add":
            y = self.tangents[op.other]
            return _Tangents(x.t + y.t, x.e + y.e, x.tau + y.tau)
        c = abs(op.factor)
        return _Tangents(c * x.t, c * x.e, c * x.tau)


def lipschitz(ball: Ball, radius: float) -> float:
    """An upper bound of the Lipschitz constant of J on the ball of that radius; may be infinity."""
    ahead = _Forward(ball, radius)
    n, k = ball.values[-1].shape
    delta = [np.zeros(n) for _ in range(len(ball.ops) + 1)]
    M = np.zeros((ahead.count, ahead.count))
    for position in range(len(ball.ops) - 1, -1, -1):
        if position not in ball.adjoints:
            continue
        op, adjoint, d = ball.ops[position], ball.adjoints[position], delta[position + 1]
        x = ahead.tangents[op.source]
        if op.kind == "linear":
            if op.weight in ahead.layer:
                q = ahead.layer[op.weight]
                by_sample = float((adjoint.norms + d).max()) * x.tau
                by_batch = (adjoint.batch + math.sqrt(k) * norm_upper(d)) * x.t.max(axis=0)
                both = np.minimum(by_sample, by_batch)
                M[q, :] += both
                M[:, q] += both
            delta[op.source] += ahead.weight_norm(op) * d + adjoint.norms * ahead.moves(op)
        elif op.kind == "activation":
            curves = ahead.curves[position]
            heavy = ((adjoint.columns + d[:, None]) * curves).max(axis=1)
            M += _activation(ball, ahead, op, heavy)
            entry = radius * np.sqrt(np.square(x.e).sum(axis=1))
            delta[op.source] += ahead.slopes[position] * d + adjoint.norms * curves.max(axis=1) * entry
        elif op.kind == "gather":
            delta[op.source] += math.sqrt(op.multiplicity) * d
        elif op.kind == "mean":
            delta[op.source] += d / math.sqrt(op.count)
        elif op.kind == "add":
            delta[op.source] += d
            delta[op.other] += d
        else:
            delta[op.source] += abs(op.factor) * d
    if not np.all(np.isfinite(M)):
        return math.inf
    return max(lambda_max_upper(M), 0.0) * _INFLATE


def _activation(ball: Ball, ahead: _Forward, op: Op, heavy: np.ndarray) -> np.ndarray:
    """The matrix of an activation's part of the second derivative."""
    x = ahead.tangents[op.source]
    first = ball.ops[op.source - 1] if op.source else None
    if first is not None and first.kind == "linear" and first.positions == 1:
        before = first.source
        exact = not np.any(ball.radii[before]) and not np.any(ahead.tangents[before].tau)
        names = [name for name in (first.weight, first.bias) if name in ahead.layer]
        if exact and names:
            data = ball.values[before]
            n = data.shape[0]
            columns = [data] * (first.weight in names) + [np.ones((n, 1))] * (first.bias in names)
            inputs = np.hstack(columns)
            lengths = row_norms_upper(inputs)
            G = np.abs(inputs @ inputs.T) + gamma(inputs.shape[1] + 4) * np.outer(lengths, lengths)
            weighted = heavy[:, None] * np.square(G) * heavy[None, :]
            M = np.zeros((ahead.count, ahead.count))
            M[ahead.layer[names[0]], ahead.layer[names[0]]] = _perron_upper(weighted)
            return M
    A = np.outer((heavy[:, None] * x.t).max(axis=0), x.tau)
    symmetric: np.ndarray = (A + A.T) / 2
    return symmetric


def _perron_upper(A: np.ndarray) -> float:
    """The root of an upper bound of the largest eigenvalue of a symmetric matrix with entries >= 0."""
    v = np.abs(np.linalg.eigh(A)[1][:, -1]) + 1e-9
    return math.sqrt(min(float(((A @ v) / v).max()) * _INFLATE, max(lambda_max_upper(A), 0.0)))


def reach_of(ball: Ball, radius: float, activation: str) -> float:
    """The largest input that an activation of that name can have on the ball; -infinity when there is none."""
    ahead, largest = _Forward(ball, radius), -math.inf
    for op in ball.ops:
        if op.kind == "activation" and op.name == activation:
            moved = radius * np.sqrt(np.square(ahead.tangents[op.source].e).sum(axis=1))[:, None]
            largest = max(largest, float((ball.values[op.source] + ball.radii[op.source] + moved).max()))
    return largest
