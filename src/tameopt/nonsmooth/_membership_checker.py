"""The checker of membership: a vector is a convex combination of Bouligand subgradients, in exact arithmetic.

Each of these comes with a direction h. F is evaluated at theta in rationals with the gradient of every intermediate
result; where the input z of a kink is 0 the side is that to which h leads, which must be strict: <grad z, h> != 0, or
grad z = 0. **Then** the gradient g of the formula so chosen is a limit of gradients of F. *Proof.* On the points
theta + e k, k near h and e small, every z with <grad z, h> != 0 has the sign chosen, for z is e <grad z, k> + o(e)
there. The others have z(theta) = 0 and grad z(theta) = 0, and are analytic on pieces of that open cone: almost
everywhere there z != 0 or z = 0 nearby, so that F has the gradient of a formula which differs from the chosen one
only by which side of such a z it takes. Those sides enter times the gradient of z, which tends to 0; so the gradients
tend to g as e -> 0. QED. A Clarke subdifferential holds the hull of such limits.

Operators: sums, products, quotients, whole powers, and the kinks abs, relu, leaky relu, clamp, max, min and max-pool:
all are rational on rational data. This module imports none of the code that traces or enumerates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from tameopt.nonsmooth._lemma_checker import MOVES
from tameopt.nonsmooth._replay import CannotMove, moved, unpacked

Array = np.ndarray


class CannotCheck(ValueError):
    """An operator without an exact rule here, or a kink that a direction leaves open."""


@dataclass(frozen=True)
class Dual:
    """A rational value and its gradient, sparse, zero entries left out; h: the direction that decides the kinks."""

    value: Fraction
    grad: dict[int, Fraction]
    h: Sequence[int]

    def _with(self, value: Fraction, *parts: tuple[Fraction, Dual]) -> Dual:
        grad: dict[int, Fraction] = {}
        for factor, part in parts:
            for j, entry in part.grad.items():
                grad[j] = grad.get(j, Fraction(0)) + factor * entry
        return Dual(value, {j: entry for j, entry in grad.items() if entry}, self.h)

    def __add__(self, other: Dual) -> Dual:
        return self._with(self.value + other.value, (Fraction(1), self), (Fraction(1), other))

    def __sub__(self, other: Dual) -> Dual:
        return self._with(self.value - other.value, (Fraction(1), self), (Fraction(-1), other))

    def __neg__(self) -> Dual:
        return self._with(-self.value, (Fraction(-1), self))

    def __mul__(self, other: Dual) -> Dual:
        return self._with(self.value * other.value, (other.value, self), (self.value, other))

    def __truediv__(self, other: Dual) -> Dual:
        if other.value == 0:
            raise CannotCheck("a division by 0")
        quotient = self.value / other.value
        return self._with(quotient, (1 / other.value, self), (-quotient / other.value, other))

    def side(self) -> int:
        """-1 or +1: the side of 0 to which h leads; 0 for a value and gradient of 0, where both sides agree."""
        if self.value:
            return 1 if self.value > 0 else -1
        if not self.grad:
            return 0
        ahead = sum((entry * self.h[j] for j, entry in self.grad.items()), Fraction(0))
        if ahead == 0:
            raise CannotCheck("a direction leaves a kink open")
        return 1 if ahead > 0 else -1

    def larger(self, other: Dual) -> Dual:
        """max(self, other)."""
        return self if (self - other).side() >= 0 else other


def _each(function: Callable[[Any], Dual], x: Array) -> Array:
    return _filled([function(entry) for entry in x.reshape(-1)], x.shape)


def _pairs(function: Callable[[Dual, Dual], Dual], a: Array, b: Array) -> Array:
    left, right = np.broadcast_arrays(a, b)
    pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
    return _filled([function(x, y) for x, y in pairs], left.shape)


def _folded(function: Callable[[Dual, Dual], Dual], x: Array, args: list[Any]) -> Array:
    dims = args[0] if args else None
    axes = tuple(range(x.ndim)) if dims in (None, []) else (dims,) if isinstance(dims, int) else tuple(dims)
    axes = tuple(axis % max(x.ndim, 1) for axis in axes)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
    if rows.shape[-1] == 0:
        raise CannotCheck("a reduction of no entries")
    result = np.empty(rows.shape[:-1], dtype=object)
    for index in np.ndindex(*rows.shape[:-1]):
        result[index] = functools.reduce(function, rows[index])
    return np.expand_dims(result, axes) if len(args) > 1 and args[1] else result


def _max_pool(x: Array, args: list[Any]) -> Array:
    size, stride = list(args[0]), list(args[1]) if len(args) > 1 and args[1] else list(args[0])
    if any(np.any(np.asarray(part)) for part in args[2:3]) or len(args) > 3:
        raise CannotCheck("a max-pool that is padded, dilated or in ceil mode")
    every = np.lib.stride_tricks.sliding_window_view(x, (size[0], size[-1]), axis=(-2, -1))
    return _folded(Dual.larger, every[..., :: stride[0], :: stride[-1], :, :], [[-2, -1]])


class _Replay:
    """One list of operators on one batch, along one direction."""

    def __init__(self, h: Sequence[int]) -> None:
        self.h = h

    def number(self, value: Any) -> Dual:
        return Dual(Fraction(value), {}, self.h)

    def array(self, values: Array) -> Array:
        return _each(self.number, np.asarray(values.tolist(), dtype=object).reshape(values.shape))

    def _clamped(self, x: Array, low: Any, high: Any) -> Array:
        if low is not None:
            x = _pairs(Dual.larger, x, low if isinstance(low, np.ndarray) else self._scalar(low))
        if high is not None:
            x = _pairs(lambda a, b: -(-a).larger(-b), x, high if isinstance(high, np.ndarray) else self._scalar(high))
        return x

    def _scalar(self, value: Any) -> Array:
        array = np.empty((), dtype=object)
        array[()] = self.number(value)
        return array

    def _mean(self, x: Array, args: list[Any]) -> Array:
        total = _folded(Dual.__add__, x, args)
        return _each(lambda e: e * self.number(Fraction(total.size, x.size)), total)

    def step(self, op: str, args: list[Any], kwargs: Mapping[str, Any]) -> Array:
        """The result of one operator. Raises CannotCheck."""
        name = op.removeprefix("aten.").split(".")[0]
        x = args[0] if args and isinstance(args[0], np.ndarray) else None
        if op in MOVES:
            return moved(op, args[0], args[1:])
        if name in ("add", "sub", "mul", "div", "maximum", "minimum") and set(kwargs) <= {"alpha"}:
            a, b = (part if isinstance(part, np.ndarray) else self._scalar(part) for part in args[:2])
            if "alpha" in kwargs:
                b = _each(lambda e: e * self.number(kwargs["alpha"]), b)
            if name == "minimum":
                return _pairs(lambda p, q: -(-p).larger(-q), a, b)
            pair = {"add": Dual.__add__, "sub": Dual.__sub__, "mul": Dual.__mul__, "div": Dual.__truediv__}
            return _pairs(pair.get(name, Dual.larger), a, b)
        if name in ("zeros_like", "ones_like") and x is not None:
            return _each(lambda e: self.number(name == "ones_like"), x)
        if kwargs or x is None:
            raise CannotCheck(f"{op} has no exact rule here")
        if name in ("mm", "mv", "dot", "bmm", "addmm"):
            a, b = args[-2:]
            result = np.asarray(np.matmul(a, b), dtype=object)
            return _pairs(Dual.__add__, result, args[0]) if name == "addmm" else result
        zero = self.number(0)
        rules: dict[str, Callable[[], Array]] = {
            "neg": lambda: _each(Dual.__neg__, x),
            "relu": lambda: _each(lambda e: e.larger(zero), x),
            "abs": lambda: _each(lambda e: e if e.side() >= 0 else -e, x),
            "leaky_relu": lambda: _each(lambda e: e if e.side() >= 0 else e * self.number([*args, 0.01][1]), x),
            "hardtanh": lambda: self._clamped(x, *args[1:], *[-1.0, 1.0][len(args) - 1 :]),
            "clamp": lambda: self._clamped(x, *[*args[1:], None, None][:2]),
            "clamp_min": lambda: self._clamped(x, args[1], None),
            "clamp_max": lambda: self._clamped(x, None, args[1]),
            "sum": lambda: _folded(Dual.__add__, x, args[1:]),
            "mean": lambda: self._mean(x, args[1:]),
            "amax": lambda: _folded(Dual.larger, x, args[1:]),
            "max": lambda: _folded(Dual.larger, x, args[1:]),
            "amin": lambda: _folded(lambda a, b: -(-a).larger(-b), x, args[1:]),
            "min": lambda: _folded(lambda a, b: -(-a).larger(-b), x, args[1:]),
            "max_pool2d_with_indices": lambda: _max_pool(x, args[1:]),
            "mse_loss": lambda: self._squares(x, args),
            "square": lambda: _each(lambda e: e * e, x),
            "pow": lambda: _each(lambda e: self._power(e, args[1]), x),
        }
        if name not in rules:
            raise CannotCheck(f"{op} has no exact rule here")
        return rules[name]()

    def _squares(self, x: Array, args: list[Any]) -> Array:
        squares = _each(lambda e: e * e, _pairs(Dual.__sub__, x, args[1]))
        kind = args[2] if len(args) > 2 else 1
        return squares if kind == 0 else self._mean(squares, []) if kind == 1 else _folded(Dual.__add__, squares, [])

    def _power(self, entry: Dual, exponent: Any) -> Dual:
        if int(exponent) != exponent or exponent < 1:
            raise CannotCheck(f"a power {exponent}")
        return functools.reduce(Dual.__mul__, [entry] * int(exponent))


def _gradient(data: Mapping[str, Any], h: Sequence[int]) -> list[Fraction]:
    """The gradient of F on the side of theta to which h leads."""
    total = [Fraction(0)] * len(h)
    for part in data["parts"]:
        replay, known = _Replay(h), {}
        for step in part["steps"]:
            op, name = step["op"], step["name"]
            if op in ("parameter", "input", "constant"):
                known[name] = replay.array(unpacked(part["arrays"][name]))
                if op == "parameter":
                    start = data["offsets"][step["args"][0]]
                    flat = known[name].reshape(-1)
                    duals = [Dual(e.value, {start + j: Fraction(1)}, h) for j, e in enumerate(flat)]
                    known[name] = _filled(duals, known[name].shape)
            elif op == "getitem":
                if step["args"][1] != 0:
                    raise CannotCheck("the indices of a choice")
                known[name] = known[step["args"][0]["ref"]]
            else:
                args = [known[arg["ref"]] if isinstance(arg, dict) else arg for arg in step["args"]]
                if any(isinstance(arg, list) and any(isinstance(leaf, dict) for leaf in arg) for arg in args):
                    raise CannotCheck(f"{op} has no exact rule here")
                known[name] = replay.step(op, args, step["kwargs"])
        output = known[part["output"]]
        if output.size != 1:
            raise CannotCheck("an output of more than one number")
        for j, entry in output.reshape(-1)[0].grad.items():
            total[j] += Fraction(part["count"]) * entry
    return [entry / data["over"] for entry in total]


def _tiled(data: Mapping[str, Any], size: int) -> bool:
    """Whether the parameters fill theta, each its own place, in every part."""
    for part in data["parts"]:
        end = 0
        steps = [step for step in part["steps"] if step["op"] == "parameter"]
        for step in sorted(steps, key=lambda step: int(data["offsets"][step["args"][0]])):
            if data["offsets"][step["args"][0]] != end:
                return False
            end += int(np.prod(part["arrays"][step["name"]]["shape"], dtype=int))
        if end != size:
            return False
    return True


def _filled(duals: list[Dual], shape: tuple[int, ...]) -> Array:
    result = np.empty(len(duals), dtype=object)
    result[:] = duals
    return result.reshape(shape)


def refusal(data: Mapping[str, Any]) -> str:
    """ "" when the combination is the vector, exactly; else the first reason why it is not.

    data: {"parts": [{"steps", "output", "arrays", "count"}], "over": n, "offsets": {parameter: its place in theta},
    "directions": [[integers]], "weights": [[numerator, denominator]], "gradient": packed}; F is the sum of
    count * part over n.

    Raises ValueError when `data` is not of this form.
    """
    try:
        directions, weights = data["directions"], [Fraction(*pair) for pair in data["weights"]]
        wanted = [Fraction(entry) for entry in unpacked(data["gradient"]).tolist()]
        if len(directions) != len(weights) or any(len(h) != len(wanted) for h in directions):
            raise ValueError("a membership certificate needs one direction of the size of theta for each weight.")
        if any(weight < 0 for weight in weights) or sum(weights) != 1:
            return "the weights are not those of a convex combination"
        if not data["parts"] or not _tiled(data, len(wanted)):
            raise ValueError("a membership certificate must hold parts whose parameters fill theta.")
        total = [Fraction(0)] * len(wanted)
        for h, weight in zip(directions, weights, strict=True):
            total = [a + weight * b for a, b in zip(total, _gradient(data, h), strict=True)]
    except (CannotCheck, CannotMove) as error:
        return str(error)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"a membership certificate must hold parts, directions, weights: {error}.") from error
    return "" if total == wanted else "the combination is another vector"


def check(data: Mapping[str, Any]) -> bool:
    """True when the vector is a convex combination of Bouligand subgradients of F at theta, as `refusal` reads it."""
    return refusal(data) == ""
