"""Networks as lists of operators: reading them, and their values with error bounds (checker code).

A value is an array (n, size): a row a sample, whatever its shape was. Value 0 is the data X; operator j makes value
j + 1, the last one is the (n, k) outputs. The operators:

    linear      z_l = W x_l + b at each of `positions` places l: (n, L D) -> (n, L O)
    activation  one of `check_activations.ACTIVATIONS`, elementwise
    gather      value[:, index], an index of -1 gives 0: views, permutations, and the patches of convolutions
    mean, max   over groups of `count` neighbours: pooling
    add, scale  of two values; by a number
    leaky       x for x > 0, slope x below, slope in [0, 1]: ReLU is slope 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tameopt.kl.check_activations import ACTIVATIONS
from tameopt.kl.check_arithmetic import U, gamma

_INFLATE = 1.0 + 1e-9  # covers the rounding of sums of nonnegative numbers
_TINY = 1e-290
_LARGEST = 1e30


@dataclass(frozen=True)
class Op:
    """An operator: see above. source, other: the values it reads."""

    kind: str
    source: int
    other: int = -1
    weight: str = ""
    bias: str | None = None
    positions: int = 1
    name: str = ""
    index: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    count: int = 1
    factor: float = 1.0

    @property
    def multiplicity(self) -> int:
        """How often a `gather` reads one entry, at most."""
        inside = self.index[self.index >= 0]
        return int(np.bincount(inside).max()) if inside.size else 1


def read_operators(
    network: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, kinks: bool = False
) -> tuple[tuple[Op, ...], tuple[str, ...], int]:
    """The operators with their sizes checked, the names of the trained arrays, and the number of outputs.

    kinks: whether leaky and max are admitted.
    Raises ValueError when something does not fit.
    """
    if "X" not in arrays or arrays["X"].ndim != 2 or not arrays["X"].size:
        raise ValueError("a certificate must hold a matrix 'X'.")
    listed, names = network.get("ops"), network.get("trained")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise ValueError("a network must list its operators.")
    sizes, ops = [arrays["X"].shape[1]], []
    for position, entry in enumerate(listed):
        try:
            op, size = _read_operator(entry, arrays, sizes)
            if op.kind in ("leaky", "max") and not kinks:
                raise ValueError(f"{op.kind} is not smooth: this theorem needs a smooth network.")
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"operator {position} of the network is damaged: {error!r}.") from error
        ops.append(op)
        sizes.append(size)
    weights = {name for op in ops for name in (op.weight, op.bias) if name}
    if not isinstance(names, Sequence) or isinstance(names, str) or not names or not set(names) <= weights:
        raise ValueError(f"the trained arrays must be weights or biases of the network, got {names!r}.")
    return tuple(ops), tuple(names), sizes[-1]


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
    if kind == "leaky":
        slope = float(entry["slope"])
        if not 0 <= slope <= 1:
            raise ValueError(f"slopes must be between 0 (ReLU) and 1, got {slope}.")
        return Op(kind, source, factor=slope), size
    if kind == "max":
        count = int(entry["count"])
        if count < 1 or size % count:
            raise ValueError(f"{size} entries cannot be compared in groups of {count}.")
        return Op(kind, source, count=count), size // count
    raise ValueError(f"this checker knows linear, activation, gather, mean, add, scale, leaky and max, not {kind!r}.")


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
        elif op.kind == "leaky":
            value = np.where(x > 0, x, op.factor * x)
            radius = r + 2 * U * np.abs(value)
        elif op.kind == "max":
            value = x.reshape(n, -1, op.count).max(axis=-1)
            radius = r.reshape(n, -1, op.count).max(axis=-1)
        else:
            value = op.factor * x
            radius = abs(op.factor) * r + 2 * U * np.abs(value)
        values.append(value)
        radii.append(radius * _INFLATE + _TINY if op.kind not in ("gather", "max") else radius)
    return values, radii


def gather(x: np.ndarray, op: Op) -> np.ndarray:
    """x[..., index] with 0 where the index is -1."""
    taken: np.ndarray = np.where(op.index < 0, 0.0, x[..., np.maximum(op.index, 0)])
    return taken
