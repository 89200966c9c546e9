"""Proved numbers about a smooth network of any depth, given as a list of operators (checker code).

A value is an array (n, size): a row a sample, whatever its shape was. Value 0 is the data X; operator j makes value
j + 1, the last one is the (n, k) outputs. The operators:

    linear      z_l = W x_l + b at each of `positions` places l: (n, L D) -> (n, L O)
    activation  one of `check_activations.ACTIVATIONS`, elementwise
    gather      value[:, index], an index of -1 gives 0: views, permutations, and the patches of convolutions
    mean        over groups of `count` neighbours: average pooling
    add, scale  of two values; by a number

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
from tameopt.kl.check_ball import Adjoint, Ball, Op, lipschitz

_INFLATE = 1.0 + 1e-9  # covers the rounding of sums of nonnegative numbers
_TINY = 1e-290
_LARGEST = 1e30


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
    ops, trained = read_operators(network, arrays)
    Y = arrays["Y"]
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


def read_operators(
    network: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[tuple[Op, ...], tuple[str, ...]]:
    """The operators with their sizes checked, and the names of the trained arrays.

    Raises ValueError when something does not fit.
    """
    for name in ("X", "Y"):
        if name not in arrays or arrays[name].ndim != 2 or not arrays[name].size:
            raise ValueError(f"a trap certificate must hold a matrix {name!r}.")
    if arrays["X"].shape[0] != arrays["Y"].shape[0]:
        raise ValueError(f"X and Y must have as many rows, got {arrays['X'].shape} and {arrays['Y'].shape}.")
    listed, names = network.get("ops"), network.get("trained")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise ValueError("a network must list its operators.")
    sizes, ops = [arrays["X"].shape[1]], []
    for position, entry in enumerate(listed):
        try:
            op, size = _read_operator(entry, arrays, sizes)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"operator {position} of the network is damaged: {error!r}.") from error
        ops.append(op)
        sizes.append(size)
    if sizes[-1] != arrays["Y"].shape[1]:
        raise ValueError(f"the network has {sizes[-1]} outputs, the targets {arrays['Y'].shape[1]}.")
    weights = {name for op in ops for name in (op.weight, op.bias) if name}
    if not isinstance(names, Sequence) or isinstance(names, str) or not names or not set(names) <= weights:
        raise ValueError(f"the trained arrays must be weights or biases of the network, got {names!r}.")
    return tuple(ops), tuple(names)


def _read_operator(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], sizes: list[int]) -> tuple[Op, int]:
    kind, source = entry["op"], entry["in"]
    if not isinstance(source, int) or isinstance(source, bool) or not 0 <= source < len(sizes):
        raise ValueError(f"an operator must read an earlier value, got {source!r}.")
    size = sizes[source]
    if kind == "linear":
        W, L = arrays[entry["weight"]], int(entry["positions"])
        bias = entry.get("bias")
        if W.ndim != 2 or not W.size or L < 1 or W.shape[1] * L != size:
            raise ValueError(f"a weight of shape {W.shape} at {L} positions does not fit a value of size {size}.")
        if bias is not None and arrays[bias].shape != (W.shape[0],):
            raise ValueError(f"a bias of shape {arrays[bias].shape} does not fit a weight of shape {W.shape}.")
        return Op(kind, source, weight=entry["weight"], bias=bias, positions=L), W.shape[0] * L
    if kind == "activation":
        if entry["name"] not in ACTIVATIONS:
            raise ValueError(f"this checker knows {', '.join(ACTIVATIONS)}, not {entry['name']!r}.")
        return Op(kind, source, name=entry["name"]), size
    if kind == "gather":
        index = arrays[entry["index"]]
        if (
            index.ndim != 1
            or not index.size
            or not np.all((index == np.rint(index)) & (index >= -1) & (index < size))
        ):
            raise ValueError(f"an index must be a list of whole numbers from -1 to {size - 1}.")
        return Op(kind, source, index=index.astype(np.int64)), index.size
    if kind == "mean":
        count = int(entry["count"])
        if count < 1 or size % count:
            raise ValueError(f"{size} entries cannot be averaged in groups of {count}.")
        return Op(kind, source, count=count), size // count
    if kind == "add":
        other = entry["other"]
        if not isinstance(other, int) or isinstance(other, bool) or not 0 <= other < len(sizes):
            raise ValueError(f"an operator must read an earlier value, got {other!r}.")
        if sizes[other] != size:
            raise ValueError(f"values of sizes {size} and {sizes[other]} cannot be added.")
        return Op(kind, source, other=other), size
    if kind == "scale":
        factor = float(entry["factor"])
        if not abs(factor) <= _LARGEST:
            raise ValueError(f"a factor must be finite, got {factor}.")
        return Op(kind, source, factor=factor), size
    raise ValueError(f"this checker knows linear, activation, gather, mean, add and scale, not {kind!r}.")


def forward(ops: Sequence[Op], arrays: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Every value in float64, and bounds of the distance of each entry to the exact one."""
    X = arrays["X"]
    n = X.shape[0]
    values, radii = [X], [np.zeros_like(X)]
    for op in ops:
        x, r = values[op.source], radii[op.source]
        if op.kind == "linear":
            W = arrays[op.weight]
            b = arrays[op.bias] if op.bias else np.zeros(W.shape[0])
            deep = x.reshape(n, op.positions, W.shape[1])
            size = np.abs(W)
            value = deep @ W.T + b
            spread = r.reshape(deep.shape) @ size.T + gamma(W.shape[1] + 4) * (np.abs(deep) @ size.T + np.abs(b))
            value, radius = value.reshape(n, -1), spread.reshape(n, -1)
        elif op.kind == "activation":
            sigma = ACTIVATIONS[op.name]
            value = sigma.evaluate(x)[0]
            radius = sigma.absolute + sigma.relative * np.abs(x) + sigma.slope * r
        elif op.kind == "gather":
            value, radius = gather(x, op), gather(r, op)
        elif op.kind == "mean":
            value = x.reshape(n, -1, op.count).sum(axis=-1) / op.count
            sizes = np.abs(x).reshape(n, -1, op.count).sum(axis=-1) / op.count
            radius = r.reshape(n, -1, op.count).sum(axis=-1) / op.count + gamma(op.count + 4) * sizes
        elif op.kind == "add":
            value = x + values[op.other]
            radius = r + radii[op.other] + 2 * U * np.abs(value)
        else:
            value = op.factor * x
            radius = abs(op.factor) * r + 2 * U * np.abs(value)
        values.append(value)
        radii.append(radius * _INFLATE + _TINY if op.kind != "gather" else radius)
    return values, radii


def gather(x: np.ndarray, op: Op) -> np.ndarray:
    """x[..., index] with 0 where the index is -1."""
    taken: np.ndarray = np.where(op.index < 0, 0.0, x[..., np.maximum(op.index, 0)])
    return taken


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
