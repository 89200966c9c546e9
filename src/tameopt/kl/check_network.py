"""Proved numbers about a smooth network of any depth, given as a list of operators (checker code).

Values and adjoints (the rows of df/dvalue) are computed in float64 with a bound of each entry's error, the Jacobian
from them with a bound in Frobenius norm, and its extreme singular values from its Gram matrix. How much the Jacobian
can change on a ball is in `check_ball`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.kl.check_activations import ACTIVATIONS
from tameopt.kl.check_arithmetic import U, gamma, lambda_max_upper, lambda_min_lower, norm_upper, up
from tameopt.kl.check_ball import Adjoint, Ball, lipschitz
from tameopt.kl.check_operators import Op, forward, read_operators

_INFLATE = 1.0 + 1e-9  # covers the rounding of sums of nonnegative numbers
_TINY = 1e-290


@dataclass(frozen=True)
class NetworkBounds:
    """s0 (lower), J0 and u0 (upper) at the stored weights, and ell on balls about them."""

    s0: float
    J0: float
    u0: float
    ball: Ball

    def ell(self, radius: float) -> float:
        """An upper bound of the Lipschitz constant of J on the ball of that radius."""
        return lipschitz(self.ball, radius)


def network_bounds(network: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> NetworkBounds:
    """The numbers of the trap theorem for a network given by operators.

    network: {"kind": "network", "ops": [{"op", "in", ...}], "trained": names of arrays}; arrays: X, Y, weights and
    indices.
    Raises ValueError for a list of operators that does not fit together.
    """
    ops, trained, outputs = read_operators(network, arrays)
    Y = arrays.get("Y")
    if Y is None or Y.ndim != 2 or Y.shape != (arrays["X"].shape[0], outputs):
        shape = None if Y is None else Y.shape
        raise ValueError(
            f"the targets must be ({arrays['X'].shape[0]}, {outputs}), as the outputs, they are {shape}."
        )
    values, radii = forward(ops, arrays)
    jacobian, error, adjoints = _backward(ops, arrays, trained, values, radii, Y.shape[1])
    gram = jacobian @ jacobian.T
    trace = float(np.square(jacobian).sum()) * _INFLATE
    rounding = gamma(jacobian.shape[1] + 4) * trace + _TINY
    low, high = lambda_min_lower(gram) - rounding, lambda_max_upper(gram) + rounding
    s0 = math.sqrt(low) * (1 - 4 * U) - error if low > 0 else -math.inf
    J0 = up(math.sqrt(max(high, 0.0)) * (1 + 4 * U) + error)
    residual = values[-1] - Y
    u0 = up(norm_upper(residual) + norm_upper(radii[-1] + U * np.abs(residual)) * _INFLATE)
    return NetworkBounds(s0, J0, u0, Ball(ops, dict(arrays), trained, values, radii, adjoints))


def _scatter(x: np.ndarray, op: Op, size: int) -> np.ndarray:
    """The adjoint of `gather`."""
    inside = op.index >= 0
    flat = x.reshape(-1, x.shape[-1])[:, inside]
    out = np.zeros((size, flat.shape[0]))
    np.add.at(out, op.index[inside], flat.T)
    result: np.ndarray = np.ascontiguousarray(out.T).reshape(*x.shape[:-1], size)
    return result


def _backward(
    ops: Sequence[Op], arrays: Mapping[str, np.ndarray], trained: tuple[str, ...], values: list[np.ndarray],
    radii: list[np.ndarray], k: int,
) -> tuple[np.ndarray, float, dict[int, Adjoint]]:  # fmt: skip
    """(J (n k, p) in float64, bound of its error in Frobenius norm, the adjoint at each operator's output)."""
    n = values[0].shape[0]
    B: list[np.ndarray | None] = [None] * (len(ops) + 1)
    E: list[np.ndarray | None] = [None] * (len(ops) + 1)
    B[-1], E[-1] = np.tile(np.eye(k), (n, 1, 1)), np.zeros((n, k, k))
    parts: dict[str, np.ndarray] = {}
    errors: dict[str, float] = {}
    adjoints: dict[int, Adjoint] = {}

    def arrive(target: int, adjoint: np.ndarray, error: np.ndarray) -> None:
        there, wrong = B[target], E[target]
        if there is None or wrong is None:
            B[target], E[target] = adjoint, error * _INFLATE + _TINY
        else:
            B[target] = there + adjoint
            E[target] = (wrong + error + 2 * U * (np.abs(there) + np.abs(adjoint))) * _INFLATE

    def learn(name: str, part: np.ndarray, error: np.ndarray) -> None:
        wrong = norm_upper(error) * _INFLATE
        if name in parts:
            wrong += errors[name] + 2 * U * (norm_upper(parts[name]) + norm_upper(part)) * _INFLATE
            part = parts[name] + part
        parts[name], errors[name] = part, wrong

    for position in range(len(ops) - 1, -1, -1):
        op, b, e = ops[position], B[position + 1], E[position + 1]
        if b is None or e is None:
            continue  # a value that nothing reads
        B[position + 1] = E[position + 1] = None
        x, r = values[op.source], radii[op.source]
        size = np.abs(b)
        adjoints[position] = Adjoint.of(op, b, e, arrays)
        if op.kind == "linear":
            W = arrays[op.weight]
            (out, D), L = W.shape, op.positions
            b, e, size = (array.reshape(n, k, L, out) for array in (b, e, size))
            deep, wide = np.abs(x).reshape(n, 1, L, D), r.reshape(n, 1, L, D)
            if op.weight in trained:
                turned, t_size, t_wrong = (np.swapaxes(array, -1, -2) for array in (b, size, e))
                part = turned @ x.reshape(n, 1, L, D)
                wrong = t_wrong @ (deep + wide) + t_size @ (wide + gamma(L + 4) * deep)
                learn(op.weight, part.reshape(n * k, -1), wrong)
            if op.bias and op.bias in trained:
                learn(op.bias, b.sum(axis=2).reshape(n * k, -1), (e + gamma(L + 4) * size).sum(axis=2))
            if op.source:
                absolute = np.abs(W)
                back = (e + gamma(out + 4) * size) @ absolute
                arrive(op.source, (b @ W).reshape(n, k, -1), back.reshape(n, k, -1))
        elif op.kind == "activation":
            sigma = ACTIVATIONS[op.name]
            s = sigma.evaluate(x)[1][:, None, :]
            s_error = (sigma.absolute + sigma.curvature * r)[:, None, :]
            arrive(op.source, b * s, size * (s_error + 2 * U * np.abs(s)) + e * (np.abs(s) + s_error))
        elif op.kind == "gather":
            width = x.shape[1]
            back, wrong = _scatter(b, op, width), _scatter(e + gamma(op.multiplicity + 2) * size, op, width)
            arrive(op.source, back, wrong)
        elif op.kind == "mean":
            arrive(
                op.source,
                np.repeat(b / op.count, op.count, axis=2),
                np.repeat((e + 2 * U * size) / op.count, op.count, axis=2),
            )
        elif op.kind == "add":
            arrive(op.source, b, e)
            arrive(op.other, b, e)
        else:
            arrive(op.source, op.factor * b, abs(op.factor) * (e + 2 * U * size))
    missing = [name for name in trained if name not in parts]
    if missing:
        raise ValueError(f"the outputs do not depend on the trained array {missing[0]!r}.")
    error = norm_upper(np.array([errors[name] for name in trained])) * _INFLATE
    return np.concatenate([parts[name] for name in trained], axis=1), error, adjoints
