"""The exact calculus of `germ`, operator by operator: a row says what an aten operator does to arrays of entries."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth.germ import Circuit, Entry, GermError, combination, norm2, proportional
from tameopt.nonsmooth.graph import Graph, Ref, Step, mapped

Array = np.ndarray


@dataclass(frozen=True)
class Comparison:
    """a > b, entry by entry, kept as the difference until a `where` reads it. sign: +1 for >, -1 for <.

    equal: what it is where a and b are one function.
    """

    difference: Array
    sign: int
    equal: bool


def entries_of(circuit: Circuit, tensor: torch.Tensor) -> Array:
    """A tensor of numbers as constants."""
    flat = [circuit.constant(_rational(number)) for number in tensor.detach().reshape(-1).tolist()]
    return _shaped(flat, tuple(tensor.shape))


def _rational(number: Any) -> Fraction:
    if isinstance(number, float) and not math.isfinite(number):
        raise GermError(f"the computation holds {number}: the exact calculus needs finite numbers.")
    return Fraction(number)


def _shaped(flat: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def _each(function: Callable[[Entry], Entry]) -> Callable[..., Array]:
    def apply(x: Array, *rest: Any, **kwargs: Any) -> Array:
        return _shaped([function(entry) for entry in x.reshape(-1)], x.shape)

    return apply


def _pairs(function: Callable[[Entry, Any], Entry]) -> Callable[..., Array]:
    def apply(a: Array, b: Any, **kwargs: Any) -> Array:
        left, right = np.broadcast_arrays(np.asarray(a, dtype=object), np.asarray(b, dtype=object))
        flat = [function(x, y) for x, y in zip(left.reshape(-1), right.reshape(-1), strict=True)]
        return _shaped(flat, left.shape)

    return apply


def _wrapped(circuit: Circuit, value: Any) -> Any:
    return circuit.constant(_rational(value)) if isinstance(value, (int, float)) else value


def _rounded(f: Callable[[float], float], slope: Callable[[float], float], shape: str = "unknown") -> Any:
    def one(entry: Entry) -> Entry:
        at = float(entry.value)
        convex = shape == "convex" and entry.shape in ("affine", "convex")
        return entry.rounded(f(at), slope(at), "convex" if convex else "unknown")

    return _each(one)


def _sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t)) if t >= 0 else math.exp(t) / (1 + math.exp(t))


def _axes(x: Array, dims: Any) -> tuple[int, ...]:
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return tuple(range(x.ndim))
    return tuple(dim % max(x.ndim, 1) for dim in ([dims] if isinstance(dims, int) else dims))


def _folded(function: Callable[[Entry, Entry], Entry]) -> Callable[..., Array]:
    def apply(x: Array, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Array:
        axes = _axes(x, dims)
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
        if rows.shape[-1] == 0:
            raise GermError("a maximum or sum over no entries.")
        result = np.empty(rows.shape[:-1], dtype=object)
        for index in np.ndindex(*rows.shape[:-1]):
            result[index] = functools.reduce(function, list(rows[index]))
        if keepdim:
            result = np.expand_dims(result, axes)
        return result

    return apply


def _sum(x: Array, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Array:
    axes = _axes(x, dims)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
    result = np.empty(rows.shape[:-1], dtype=object)
    for index in np.ndindex(*rows.shape[:-1]):
        row = list(rows[index])
        if not row:
            raise GermError("a sum over no entries.")
        one = row[0].circuit.constant(1)
        result[index] = combination(row[0].circuit, [(entry, one) for entry in row])
    return np.expand_dims(result, axes) if keepdim else result


_maximum_all = _folded(lambda a, b: a.maximum(b))
_minimum_all = _folded(lambda a, b: a.minimum(b))


def _mean(x: Array, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Array:
    count = math.prod(x.shape[axis] for axis in _axes(x, dims))
    return _each(lambda entry: entry.scaled(Fraction(1, count)))(_sum(x, dims, keepdim))


def _sorted(x: Array, descending: bool) -> list[Entry]:
    """Odd-even transposition: each exchange is a max and a min, so ties become kinks and nothing else does."""
    row = list(x)
    for sweep in range(len(row)):
        for i in range(sweep % 2, len(row) - 1, 2):
            a, b = row[i], row[i + 1]
            if (b - a).is_constant and (a.value >= b.value) == descending:
                continue
            high, low = a.maximum(b), a.minimum(b)
            row[i], row[i + 1] = (high, low) if descending else (low, high)
    return row


def _sort(x: Array, *args: Any, **kwargs: Any) -> tuple[Array, None]:
    integers = [arg for arg in args if isinstance(arg, int) and not isinstance(arg, bool)]
    flags = [arg for arg in args if isinstance(arg, bool)]
    dim = kwargs.get("dim", integers[0] if integers else -1)
    descending = bool(kwargs.get("descending", flags[-1] if flags else False))
    return np.apply_along_axis(lambda row: _shaped(_sorted(row, descending), row.shape), dim, x), None


def _topk(x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, None]:
    return _sort(x, dim, largest)[0].take(range(k), axis=dim), None


def _max_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, None]:
    return _maximum_all(x, dim, keepdim), None


def _min_dim(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, None]:
    return _minimum_all(x, dim, keepdim), None


def _median(x: Array) -> Array:
    row = _sorted(x.reshape(-1), False)
    return _shaped([row[(len(row) - 1) // 2]], ())


def _max_pool(x: Array, size: Any, stride: Any = (), padding: Any = 0, *rest: Any) -> tuple[Array, None]:
    if np.any(np.asarray(padding)) or any(np.any(np.asarray(part) != 1) for part in rest[:1]) or any(rest[1:]):
        raise GermError("max-pool with padding, dilation or ceil mode.")
    high, wide = (size[0], size[-1]) if size else (1, 1)
    down, across = (stride[0], stride[-1]) if stride else (high, wide)
    every = np.lib.stride_tricks.sliding_window_view(x, (high, wide), axis=(-2, -1))[..., ::down, ::across, :, :]
    return _maximum_all(every, [-2, -1]), None


def _norm(x: Array, order: Any = 2, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Array:
    if order == 1:
        return _sum(_each(Entry.absolute)(x), dims, keepdim)
    if order == math.inf:
        return _maximum_all(_each(Entry.absolute)(x), dims, keepdim)
    if order != 2:
        raise GermError(f"a norm of order {order}.")
    axes = _axes(x, dims)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
    result = np.empty(rows.shape[:-1], dtype=object)
    for index in np.ndindex(*rows.shape[:-1]):
        row = list(rows[index])
        squared = combination(row[0].circuit, [(entry * entry, row[0].circuit.constant(1)) for entry in row])
        at_zero = squared.value == 0 and not all(entry.is_constant for entry in row)
        result[index] = norm2(row) if at_zero else squared.power(0.5)
    return np.expand_dims(result, axes) if keepdim else result


def _where(condition: Any, a: Any, b: Any) -> Array:
    if not isinstance(condition, Comparison):
        return np.where(np.asarray(condition, dtype=bool), a, b)

    def one(difference: Entry, x: Entry, y: Entry) -> Entry:
        if difference.is_constant and difference.value == 0:
            return x if condition.equal else y
        if difference.is_constant:
            return x if difference.value * condition.sign > 0 else y
        side = difference.circuit.side(difference)
        if side:
            return x if side * condition.sign > 0 else y
        gap = x - y
        factor = proportional(gap.form, difference.form) if gap.form else Fraction(0)
        if gap.value != 0 or factor is None or gap.curved or difference.curved:
            raise GermError("a branch whose two sides are not seen to agree where it switches.")
        # x - y = factor * difference on both sides: y + factor * (what the chosen side has of the difference)
        part = difference.positive_part() if condition.sign > 0 else -((-difference).positive_part())
        return y + part.scaled(factor)

    arrays = np.broadcast_arrays(condition.difference, np.asarray(a, object), np.asarray(b, object))
    flat = [one(*triple) for triple in zip(*(array.reshape(-1) for array in arrays), strict=True)]
    return _shaped(flat, arrays[0].shape)


def _clamp(x: Array, low: Any = None, high: Any = None) -> Array:
    result = x
    if low is not None:
        result = _pairs(lambda entry, edge: entry.maximum(edge))(result, low)
    if high is not None:
        result = _pairs(lambda entry, edge: entry.minimum(edge))(result, high)
    return result


def _leaky(entry: Entry, slope: Fraction) -> Entry:
    return entry.positive_part() - (-entry).positive_part().scaled(slope)


def _softshrink(x: Array, level: float = 0.5) -> Array:
    edge = Fraction(level)
    return _each(lambda entry: (entry - edge).positive_part() - (-entry - edge).positive_part())(x)


def _matmul(a: Array, b: Array) -> Array:
    left = a[..., None, :] if a.ndim == 1 else a
    right = b[..., None] if b.ndim == 1 else b
    shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left = np.broadcast_to(left, shape + left.shape[-2:])
    right = np.broadcast_to(right, shape + right.shape[-2:])
    result = np.empty((*shape, left.shape[-2], right.shape[-1]), dtype=object)
    for index in np.ndindex(*result.shape):
        row, column = left[(*index[:-2], index[-2])], right[(*index[:-2], slice(None), index[-1])]
        result[index] = combination(row[0].circuit, list(zip(row, column, strict=True)))
    if a.ndim == 1:
        result = result[..., 0, :]
    return np.asarray(result[..., 0] if b.ndim == 1 else result, dtype=object)


def _addmm(c: Array, a: Array, b: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    return _each(lambda e: e.scaled(_rational(alpha)))(_matmul(a, b)) + _each(lambda e: e.scaled(_rational(beta)))(c)


def _scaled_pair(sign: int) -> Callable[..., Array]:
    def apply(a: Any, b: Any, *, alpha: Any = 1) -> Array:
        factor = sign * _rational(alpha)
        return _pairs(lambda x, y: x + (y * factor if isinstance(y, Entry) else Fraction(y) * factor))(a, b)

    return apply


def _slice(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    index: list[Any] = [slice(None)] * x.ndim
    index[dim] = slice(start, None if end is None or end > 2**60 else end, step)
    return x[tuple(index)]


def _squeeze(x: Array, dims: Any = None) -> Array:
    return x.reshape([n for i, n in enumerate(x.shape) if n != 1 or (dims is not None and i not in _axes(x, dims))])


def _expanded(x: Array, shape: list[int], **kwargs: Any) -> Array:
    full = [x.shape[i - len(shape)] if size == -1 else size for i, size in enumerate(shape)]
    return np.broadcast_to(x, full)


def _index(x: Array, indices: list[Any]) -> Array:
    where = tuple(slice(None) if i is None else np.vectorize(lambda e: int(e.value))(i).astype(int) for i in indices)
    return x[where]


def _mse(x: Array, y: Array, reduction: int = 1) -> Array:
    squares = _each(lambda entry: entry * entry)(_scaled_pair(-1)(x, y))
    return squares if reduction == 0 else _mean(squares) if reduction == 1 else _sum(squares)


def _compared(sign: int, equal: bool) -> Callable[..., Comparison]:
    return lambda a, b: Comparison(_scaled_pair(-1)(a, b), sign, equal)


_TABLE: dict[str, Callable[..., Any]] = {
    "add": _scaled_pair(1), "sub": _scaled_pair(-1), "rsub": lambda a, b, **kwargs: -_scaled_pair(-1)(a, b, **kwargs),
    "mul": _pairs(lambda x, y: x * (y if isinstance(y, Entry) else _rational(y))),
    "div": _pairs(lambda x, y: x / (y if isinstance(y, Entry) else _rational(y))),
    "neg": _each(Entry.__neg__), "abs": _each(Entry.absolute), "relu": _each(Entry.positive_part),
    "square": _each(lambda entry: entry * entry), "sqrt": _each(lambda entry: entry.power(0.5)),
    "pow": lambda x, exponent: _each(lambda entry: entry ** exponent)(x),
    "reciprocal": _each(lambda entry: 1 / entry),
    "exp": _rounded(math.exp, math.exp, "convex"), "tanh": _rounded(math.tanh, lambda t: 1 - math.tanh(t) ** 2),
    "sin": _rounded(math.sin, math.cos), "cos": _rounded(math.cos, lambda t: -math.sin(t)),
    "log": _rounded(math.log, lambda t: 1 / t), "sigmoid": _rounded(_sigmoid, lambda t: _sigmoid(t) * _sigmoid(-t)),
    "maximum": _pairs(lambda a, b: a.maximum(b)), "minimum": _pairs(lambda a, b: a.minimum(b)),
    "fmax": _pairs(lambda a, b: a.maximum(b)), "fmin": _pairs(lambda a, b: a.minimum(b)),
    "clamp": _clamp, "clamp_min": _clamp, "clamp_max": lambda x, high: _clamp(x, None, high),
    "hardtanh": lambda x, low=-1.0, high=1.0: _clamp(x, low, high), "softshrink": _softshrink,
    "leaky_relu": lambda x, slope=0.01: _each(lambda entry: _leaky(entry, _rational(slope)))(x),
    "max": lambda x, *rest: _max_dim(x, *rest) if rest else _maximum_all(x),
    "min": lambda x, *rest: _min_dim(x, *rest) if rest else _minimum_all(x),
    "amax": _maximum_all, "amin": _minimum_all, "sort": _sort, "topk": _topk, "median": _median,
    "max_pool2d_with_indices": _max_pool, "linalg_vector_norm": _norm,
    "sum": _sum, "mean": _mean, "mse_loss": _mse,
    "mm": _matmul, "mv": _matmul, "dot": _matmul, "bmm": _matmul, "matmul": _matmul, "addmm": _addmm,
    "view": lambda x, shape: x.reshape(shape), "_unsafe_view": lambda x, shape: x.reshape(shape),
    "reshape": lambda x, shape: x.reshape(shape), "t": lambda x: x.T, "clone": lambda x, **kwargs: x,
    "transpose": lambda x, a, b: x.swapaxes(a, b), "permute": lambda x, order: x.transpose(order),
    "alias": lambda x: x,
    "zeros_like": lambda x, **kwargs: _each(lambda entry: entry.circuit.constant(0))(x),
    "ones_like": lambda x, **kwargs: _each(lambda entry: entry.circuit.constant(1))(x),
    "expand": _expanded, "slice": _slice,
    "select": lambda x, dim, index: np.asarray(x.take(index, axis=dim), dtype=object),
    "squeeze": _squeeze, "squeeze_": _squeeze,
    "unsqueeze": lambda x, dim: np.expand_dims(x, dim if dim >= 0 else x.ndim + 1 + dim),
    "cat": lambda parts, dim=0: np.concatenate(parts, axis=dim), "stack": lambda p, dim=0: np.stack(p, axis=dim),
    "unbind": lambda x, dim=0: list(np.moveaxis(x, dim, 0)), "index": _index,
    "where": _where, "gt": _compared(1, False), "ge": _compared(1, True), "lt": _compared(-1, False),
    "le": _compared(-1, True),
}  # fmt: skip


def germ(graph: Graph, parameters: Mapping[str, Array], inputs: list[Any], circuit: Circuit) -> Entry:
    """The germ of a loss: run the graph on arrays of entries; `parameters` by name, inputs as the batch's leaves.

    Raises GermError for an operator without a row, or one used outside what its row covers.
    """
    known: dict[str, Any] = {}
    numbers: dict[str, Any] = {}  # what does not depend on theta, as torch computes it

    def resolved(tree: Any) -> Any:
        if isinstance(tree, Ref):
            return known[tree.name]
        if isinstance(tree, (list, tuple)):
            return [resolved(leaf) for leaf in tree]
        return tree

    for step in graph:
        if step.op == "parameter":
            known[step.name] = parameters[step.args[0]]
        elif step.op in ("input", "constant"):
            numbers[step.name] = inputs[step.args[0]] if step.op == "input" else graph.constants[step.name]
            known[step.name] = entries_of(circuit, numbers[step.name])
        elif not step.depends and not _has_row(step):
            assert step.function is not None
            numbers[step.name] = step.function(*mapped(step.args, numbers), **mapped(dict(step.kwargs), numbers))
            if isinstance(numbers[step.name], torch.Tensor):
                known[step.name] = entries_of(circuit, numbers[step.name])
        elif step.op == "getitem":
            known[step.name] = resolved(step.args[0])[step.args[1]]
            if known[step.name] is None:
                raise GermError(f"{step.name} reads the indices of a choice, which jump.")
        else:
            known[step.name] = _applied(step, resolved, circuit)
        if not step.depends and step.function is not None and step.name not in numbers:
            numbers[step.name] = step.function(*mapped(step.args, numbers), **mapped(dict(step.kwargs), numbers))
    result = np.asarray(known[graph.output], dtype=object).reshape(-1)
    if len(result) != 1:
        raise GermError(f"F must be one number, it has {len(result)} entries.")
    return result[0]


def _has_row(step: Step) -> bool:
    return step.op == "getitem" or (step.op.startswith("aten.") and step.op.split(".")[1] in _TABLE)


def _applied(step: Step, resolved: Callable[[Any], Any], circuit: Circuit) -> Any:
    row = _TABLE.get(step.op.split(".")[1]) if step.op.startswith("aten.") else None
    if row is None:
        raise GermError(f"the operator {step.op} has no exact calculus here ({step.name}).")
    args = [resolved(arg) for arg in step.args]
    if step.op.split(".")[1] in ("maximum", "minimum", "where", "add", "sub", "mul", "div"):
        args = [_wrapped(circuit, arg) for arg in args]
    kwargs = {key: resolved(value) for key, value in step.kwargs.items() if key not in ("dtype", "memory_format")}
    try:
        return row(*args, **kwargs)
    except GermError as error:
        raise GermError(f"{step.op.split('.')[1]} ({step.name}): {error}") from error
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise GermError(
            f"{step.op} ({step.name}) is used in a way the exact calculus does not cover: {error}"
        ) from error
