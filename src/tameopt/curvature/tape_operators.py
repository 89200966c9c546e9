"""The aten operators that a tape holds, spread into scalars, and the scalars that write it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Tape = list[list[Any]]

# our choice: a Hessian of intervals over this many operations takes some ten seconds
MAX_ENTRIES = 30_000


class NotOnTapeError(ValueError):
    """F uses an operator, or a size, that a tape does not hold; the message names it."""


# without a value somewhere, and so is what uses them
_PARTIAL = {"div", "log", "sqrt"}


class Writer:
    """Collects the entries of a tape, each once. partial: whether an entry may have no value somewhere."""

    def __init__(self) -> None:
        self.entries: Tape = []
        self.partial: list[bool] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def put(self, *entry: Any) -> Scalar:
        if entry not in self._known:
            if len(self.entries) >= MAX_ENTRIES:
                raise NotOnTapeError(f"F takes more than {MAX_ENTRIES:,} scalar operations: too large for a proof.")
            self._known[entry] = len(self.entries)
            self.entries.append(list(entry))
            uses = () if entry[0] in ("const", "var") else entry[1:2] if entry[0] == "pow" else entry[1:]
            self.partial.append(entry[0] in _PARTIAL or any(self.partial[place] for place in uses))
        return Scalar(self, self._known[entry])

    def lift(self, number: Any) -> Scalar:
        if isinstance(number, Scalar):
            return number
        if isinstance(number, Comparison):
            bool(number)  # which says why not
        if not math.isfinite(number):
            raise NotOnTapeError(f"F holds the constant {number}: a tape holds finite numbers only.")
        return self.put("const", float(number).hex())


class Comparison:
    """x < y, which `where` turns into an entry; at a tie a proof stops, so that < and <= are one."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x = x
        self.y = y

    def __bool__(self) -> bool:
        raise NotOnTapeError("a comparison of theta is used other than by torch.where.")


class Scalar:
    """An entry of the tape, with the arithmetic that writes further entries."""

    def __init__(self, writer: Writer, place: int) -> None:
        self.writer = writer
        self.place = place

    def constant(self) -> float | None:
        entry = self.writer.entries[self.place]
        return float.fromhex(entry[1]) if entry[0] == "const" else None

    def _with(self, operation: str, other: Any, swap: bool = False) -> Scalar:
        right = self.writer.lift(other)
        left = self
        if swap:
            left, right = right, left
        # identities of real numbers only; constants are not folded, since that would round
        if operation == "add" and left.constant() == 0:
            return right
        if operation in ("add", "sub") and right.constant() == 0:
            return left
        # 0 times log x has no value at -1
        whole = not (self.writer.partial[left.place] or self.writer.partial[right.place])
        if operation == "mul" and whole and (left.constant() == 0 or right.constant() == 0):
            return self.writer.lift(0.0)
        if operation == "mul" and left.constant() == 1:
            return right
        if operation in ("mul", "div") and right.constant() == 1:
            return left
        return self.writer.put(operation, left.place, right.place)

    def __add__(self, other: Any) -> Scalar:
        return self._with("add", other)

    def __radd__(self, other: Any) -> Scalar:
        return self._with("add", other, swap=True)

    def __sub__(self, other: Any) -> Scalar:
        return self._with("sub", other)

    def __rsub__(self, other: Any) -> Scalar:
        return self._with("sub", other, swap=True)

    def __mul__(self, other: Any) -> Scalar:
        return self._with("mul", other)

    def __rmul__(self, other: Any) -> Scalar:
        return self._with("mul", other, swap=True)

    def __truediv__(self, other: Any) -> Scalar:
        return self._with("div", other)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self._with("div", other, swap=True)

    def __neg__(self) -> Scalar:
        return self.writer.put("neg", self.place)

    def apply(self, operation: str, *more: int) -> Scalar:
        return self.writer.put(operation, self.place, *more)

    def power(self, exponent: float) -> Scalar:
        if exponent == 0.5:
            return self.apply("sqrt")
        if not math.isfinite(exponent) or exponent != int(exponent) or abs(exponent) > 64:
            raise NotOnTapeError(f"the power {exponent} is not a whole number up to 64.")
        whole = int(exponent)
        if whole == 0:
            return self * 0.0 + 1.0
        raised = self if abs(whole) == 1 else self.apply("pow", abs(whole))
        return raised if whole > 0 else 1.0 / raised


def array_of(writer: Writer, tensor: torch.Tensor) -> Any:
    """A constant tensor: floating ones as entries, so that no arithmetic among constants rounds off the tape."""
    flat = tensor.detach().cpu()
    if not flat.is_floating_point():
        return flat.numpy()
    numbers = flat.double().numpy()
    entries = np.empty(numbers.shape, dtype=object)
    for where in np.ndindex(numbers.shape):
        entries[where] = writer.lift(float(numbers[where]))
    return entries


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operator on scalars, applied entry by entry with broadcasting."""

    def applied(writer: Writer, *arguments: Any, **keywords: Any) -> Any:
        arrays = np.broadcast_arrays(*[np.asarray(argument, dtype=object) for argument in arguments])
        result = np.empty(arrays[0].shape, dtype=object)
        for where in np.ndindex(result.shape):
            result[where] = function(writer, *[array[where] for array in arrays])
        return result

    return applied


def _unary(operation: str) -> Callable[..., Any]:
    return _each(lambda writer, x: writer.lift(x).apply(operation))


def _axes(array: Any, dim: Any) -> Any:
    if dim is None or dim == []:
        return None
    return tuple(int(one) for one in dim) if isinstance(dim, (list, tuple)) else int(dim)


def _sum(writer: Writer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return np.sum(np.asarray(x, dtype=object), axis=_axes(x, dim), keepdims=keepdim)


def _mean(writer: Writer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    total = _sum(writer, x, dim, keepdim)
    return total / (np.asarray(x).size // max(np.asarray(total).size, 1))


def _product(writer: Writer, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return np.prod(np.asarray(x, dtype=object), axis=_axes(x, dim), keepdims=keepdim)


def _addmm(writer: Writer, bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return beta * bias + alpha * np.dot(left, right)


def _if_less(writer: Writer, a: Any, b: Any, then: Any, otherwise: Any) -> Scalar:
    a, b, then, otherwise = (writer.lift(one) for one in (a, b, then, otherwise))
    return writer.put("if_less", a.place, b.place, then.place, otherwise.place)


def _where(writer: Writer, condition: Any, then: Any, otherwise: Any) -> Any:
    def choose(writer: Writer, test: Any, x: Any, y: Any) -> Any:
        if isinstance(test, Comparison):
            return _if_less(writer, test.x, test.y, x, y)
        return x if bool(test) else y

    return _each(choose)(writer, condition, then, otherwise)


def _less(writer: Writer, a: Any, b: Any) -> Any:
    return _each(lambda _, x, y: Comparison(x, y))(writer, a, b)


def _mse(writer: Writer, x: Any, y: Any, reduction: int = 1) -> Any:
    squares = _each(lambda w, a, b: w.lift(a - b).power(2))(writer, x, y)
    return squares if reduction == 0 else _mean(writer, squares) if reduction == 1 else _sum(writer, squares)


def _log_softmax(writer: Writer, x: Any, dim: int, _half: bool = False) -> Any:
    exponentials = _unary("exp")(writer, x)
    return x - _unary("log")(writer, np.sum(exponentials, axis=dim, keepdims=True))


def _nll(writer: Writer, x: Any, target: Any, weight: Any, reduction: int = 1, ignore: int = -100) -> Any:
    if weight is not None or np.any(np.asarray(target) == ignore) or np.asarray(x).ndim != 2:
        raise NotOnTapeError("class weights, ignored targets and spatial targets of nll_loss are not on the tape.")
    picked = -np.asarray(x, dtype=object)[np.arange(len(target)), np.asarray(target)]
    return (picked if reduction == 0 else np.mean(picked) if reduction == 1 else np.sum(picked)), None


def _slice(writer: Writer, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    index: list[Any] = [slice(None)] * np.asarray(x).ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def _select(writer: Writer, x: Any, dim: int, index: int) -> Any:
    return np.take(np.asarray(x), index, axis=dim)


def _expand(writer: Writer, x: Any, sizes: list[int], **_: Any) -> Any:
    shape = np.asarray(x).shape
    full = (1,) * (len(sizes) - len(shape)) + shape
    return np.broadcast_to(
        np.reshape(x, full), tuple(own if size == -1 else size for own, size in zip(full, sizes, strict=True))
    )


def _arith(symbol: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def applied(writer: Writer, x: Any, y: Any, *, alpha: float = 1) -> Any:
        left, right = np.asarray(x, dtype=object), np.asarray(y, dtype=object)
        return symbol(left, right if alpha == 1 else alpha * right)

    return applied


def _rsub(writer: Writer, x: Any, y: Any, alpha: float = 1) -> Any:
    left = np.asarray(x, dtype=object)
    return np.asarray(y, dtype=object) - (left if alpha == 1 else alpha * left)


def _pow(writer: Writer, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Scalar):
        raise NotOnTapeError("an exponent that depends on theta is not on the tape: write it with exp and log.")
    return writer.lift(x).power(float(exponent))


def _filled(number: float) -> Callable[..., Any]:
    def applied(writer: Writer, like: Any, **_: Any) -> Any:
        shape = tuple(like) if isinstance(like, list) else np.asarray(like).shape
        return np.full(shape, number, dtype=object)

    return applied


def _same(writer: Writer, x: Any, *_: Any, **__: Any) -> Any:
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "add": _arith(lambda x, y: x + y),
    "sub": _arith(lambda x, y: x - y),
    "rsub": _rsub,
    "mul": _arith(lambda x, y: x * y),
    "div": _arith(lambda x, y: x / y),
    "neg": lambda writer, x: -np.asarray(x, dtype=object),
    "pow": _each(_pow),
    "square": _each(lambda writer, x: writer.lift(x).power(2)),
    "reciprocal": _each(lambda writer, x: 1.0 / writer.lift(x)),
    "sqrt": _unary("sqrt"),
    "exp": _unary("exp"),
    "log": _unary("log"),
    "sin": _unary("sin"),
    "cos": _unary("cos"),
    "tanh": _unary("tanh"),
    "atan": _unary("atan"),
    "erf": _unary("erf"),
    "sigmoid": _each(lambda writer, x: 1.0 / (1.0 + (-writer.lift(x)).apply("exp"))),
    "silu": _each(lambda writer, x: writer.lift(x) / (1.0 + (-writer.lift(x)).apply("exp"))),
    "log1p": _each(lambda writer, x: (1.0 + writer.lift(x)).apply("log")),
    "expm1": _each(lambda writer, x: writer.lift(x).apply("exp") - 1.0),
    "relu": _each(lambda writer, x: _if_less(writer, 0.0, x, x, 0.0)),
    "abs": _each(lambda writer, x: _if_less(writer, 0.0, x, x, -writer.lift(x))),
    "maximum": _each(lambda writer, x, y: _if_less(writer, y, x, x, y)),
    "minimum": _each(lambda writer, x, y: _if_less(writer, x, y, x, y)),
    "where": _where,
    "lt": _less,
    "le": _less,
    "gt": lambda writer, a, b: _less(writer, b, a),
    "ge": lambda writer, a, b: _less(writer, b, a),
    "sum": _sum,
    "mean": _mean,
    "prod": _product,
    "mm": lambda writer, x, y: np.dot(x, y),
    "mv": lambda writer, x, y: np.dot(x, y),
    "dot": lambda writer, x, y: np.dot(x, y),
    "bmm": lambda writer, x, y: np.stack([np.dot(a, b) for a, b in zip(x, y, strict=True)]),
    "addmm": _addmm,
    "mse_loss": _mse,
    "_log_softmax": _log_softmax,
    "nll_loss_forward": _nll,
    "view": lambda writer, x, shape: np.reshape(x, tuple(shape)),
    "_unsafe_view": lambda writer, x, shape: np.reshape(x, tuple(shape)),
    "reshape": lambda writer, x, shape: np.reshape(x, tuple(shape)),
    "t": lambda writer, x: np.transpose(x),
    "transpose": lambda writer, x, a, b: np.swapaxes(x, a, b),
    "permute": lambda writer, x, order: np.transpose(x, order),
    "unsqueeze": lambda writer, x, dim: np.expand_dims(x, dim),
    "squeeze": lambda writer, x, dim=None: np.squeeze(x, axis=_axes(x, dim)),
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "unbind": lambda writer, x, dim=0: [np.take(x, j, axis=dim) for j in range(np.asarray(x).shape[dim])],
    "split": lambda writer, x, size, dim=0: np.split(
        x, range(size, np.asarray(x).shape[dim], size) if isinstance(size, int) else np.cumsum(size)[:-1], axis=dim
    ),
    "cat": lambda writer, arrays, dim=0: np.concatenate([np.asarray(a, dtype=object) for a in arrays], axis=dim),
    "stack": lambda writer, arrays, dim=0: np.stack([np.asarray(a, dtype=object) for a in arrays], axis=dim),
    "zeros": _filled(0.0),
    "zeros_like": _filled(0.0),
    "ones": _filled(1.0),
    "ones_like": _filled(1.0),
    "scalar_tensor": lambda writer, number, **_: np.asarray(number, dtype=object),
    "full": lambda writer, shape, number, **_: np.full(tuple(shape), number, dtype=object),
    "alias": _same,
    "clone": _same,
    "detach": _same,
    "lift_fresh_copy": _same,
    "_to_copy": _same,
    "contiguous": _same,
}

# whose results are comparisons of theta: those that compare, and those that move entries
COMPARISONS = {"lt", "le", "gt", "ge", "alias", "clone", "detach", "expand", "view", "reshape", "_unsafe_view",
               "unsqueeze", "squeeze", "select", "slice", "t", "transpose", "permute"}  # fmt: skip
