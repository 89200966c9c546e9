"""The checker of kink margins: every kink is strictly away from theta, by intervals that contain all rounding.

Data and parameters are taken as the exact numbers they are in memory. Each result is enclosed as mid +- rad,
where a sum of products of length n has |rounding| <= gamma_n sum |a||b|, gamma_n = n u / (1 - n u), u = 2^-53,
whatever the order of summation (Higham 2002, section 3.1). When the enclosure of every kink's input leaves out
the kink, F is a composition of C^1 operators near theta, and its Clarke subdifferential there is its gradient.

Entries of a pooling window may tie where they are one function of theta: filters on equal patches of the data, as on
the empty background of images. Each entry carries a number, and those with equal numbers are the same function near
theta: constants of one value; a filter's results on patches of equal numbers; what relu and max-pool pass on of them.
The maximum over entries that are one function, above all others, is that function.

This module imports none of the code that traces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.nonsmooth._lemma_checker import MOVES, refs, smooth_refusal
from tameopt.nonsmooth._replay import CannotMove, moved, unpacked

_U = 2.0**-53
_UP = 1 + 1e-6  # covers the rounding of the bounds themselves, (n + 10) u for n up to 10^9
_TINY = 1e-290  # covers underflow
_LARGEST_SUM = 10**8


class CannotCheck(ValueError):
    """The list holds an operator before a kink that this checker has no enclosure for."""


@dataclass(frozen=True)
class Ball:
    """mid +- rad, entry by entry; flat: the entry is constant near theta (an inactive relu).

    same: entries of equal number are one function of theta near theta, and number 0 is the constant 0; None: unknown.
    """

    mid: np.ndarray
    rad: np.ndarray
    flat: np.ndarray
    same: np.ndarray | None = None

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> Ball:
        same = None if self.same is None else move(self.same)
        return Ball(move(self.mid), move(self.rad), move(self.flat), same)


def _exact(array: np.ndarray, *, constant: bool = False) -> Ball:
    """The numbers themselves; constant: they do not depend on theta."""
    mid = np.asarray(array, dtype=np.float64)
    same = None
    if constant:
        same = np.where(mid == 0, 0, 1 + np.unique(mid, return_inverse=True)[1].reshape(mid.shape))
    return Ball(mid, np.zeros_like(mid), np.zeros(mid.shape, dtype=bool), same)


def _ball(mid: np.ndarray, rad: np.ndarray) -> Ball:
    rad = rad * _UP + _TINY
    if not (np.isfinite(mid).all() and np.isfinite(rad).all()):
        raise CannotCheck("a result is not finite")
    return Ball(mid, rad, np.zeros(mid.shape, dtype=bool))


def _add(a: Ball, b: Ball, factor: float = 1.0) -> Ball:
    scaled = b.mid * factor
    mid = a.mid + scaled
    return _ball(mid, a.rad + abs(factor) * b.rad + 2 * _U * (np.abs(mid) + np.abs(scaled)))


def _mul(a: Ball, b: Ball) -> Ball:
    mid = a.mid * b.mid
    return _ball(mid, np.abs(a.mid) * b.rad + a.rad * np.abs(b.mid) + a.rad * b.rad + 2 * _U * np.abs(mid))


def _dot(a: Ball, b: Ball) -> Ball:
    n = a.mid.shape[-1]
    if n > _LARGEST_SUM:
        raise CannotCheck(f"a sum of {n} terms is longer than {_LARGEST_SUM}")
    gamma = (n + 1) * _U / (1 - (n + 1) * _U)
    size_a, size_b = np.abs(a.mid), np.abs(b.mid)
    rad = gamma * (size_a @ size_b)
    if b.rad.any():
        rad = rad + (size_a + a.rad) @ b.rad
    if a.rad.any():
        rad = rad + a.rad @ size_b
    return _ball(a.mid @ b.mid, rad)


def _windows(x: Ball, size: list[int], stride: list[int], padding: list[int], fill: float) -> Ball:
    """(batch, channels, rows, columns, height, width) views of the padded images."""
    edges = ((0, 0), (0, 0), (padding[0],) * 2, (padding[-1],) * 2)

    def view(array: np.ndarray, value: Any) -> np.ndarray:
        wide = np.pad(array, edges, constant_values=value)
        every = np.lib.stride_tricks.sliding_window_view(wide, tuple(size), axis=(2, 3))
        return every[:, :, :: stride[0], :: stride[-1]]

    # a padded 0 is the constant 0; what pads a pooling window is nobody's twin
    same = None if x.same is None else view(x.same, 0 if fill == 0 else -1)
    return Ball(view(x.mid, fill), view(x.rad, 0.0), view(x.flat, fill == -np.inf), same)


def _convolution(x: Ball, weight: Ball, bias: Ball | None, args: list[Any]) -> Ball:
    stride, padding, dilation, transposed, _, groups = args
    if transposed or groups != 1 or set(dilation) != {1} or x.mid.ndim != 4:
        raise CannotCheck("a convolution that is transposed, grouped, dilated or not 2-d")
    height, width = weight.mid.shape[2:]
    every = _windows(x, [height, width], list(stride), list(padding), 0.0)
    b, _, rows, columns = every.mid.shape[:4]
    flat = every.moved(lambda array: array.transpose(0, 2, 3, 1, 4, 5).reshape(b * rows * columns, -1))
    out = _dot(flat, weight.moved(lambda array: array.reshape(array.shape[0], -1).T))
    if bias is not None:
        out = _add(out, bias)
    if flat.same is not None:
        patch = np.unique(flat.same, axis=0, return_inverse=True)[1].reshape(-1, 1)
        filters = out.mid.shape[1]
        out = Ball(out.mid, out.rad, out.flat, 1 + patch * filters + np.arange(filters))
    return out.moved(lambda array: array.reshape(b, rows, columns, -1).transpose(0, 3, 1, 2))


def _require_away(x: Ball, kink: float, name: str) -> None:
    # the difference itself rounds by at most u times its size
    away = np.abs(x.mid - kink) * (1 - 4 * _U) > x.rad * (1 + 4 * _U) + _TINY
    if not away.all():
        where = [int(i) for i in np.argwhere(~away)[0]]
        raise _OnKink(f"{name}: entry {where} is within its rounding bound of the kink at {kink:g}")


class _OnKink(ValueError):
    """An enclosure contains a kink."""


def _relu(x: Ball, slope: float, name: str) -> Ball:
    _require_away(x, 0.0, name)
    positive = x.mid > 0
    if slope == 0:
        same = None if x.same is None else np.where(positive, x.same, 0)
        return Ball(np.where(positive, x.mid, 0.0), np.where(positive, x.rad, 0.0), ~positive, same)
    left = _mul(x, _exact(np.array(slope)))
    mid, rad = np.where(positive, x.mid, left.mid), np.where(positive, x.rad, left.rad)
    return Ball(mid, rad, np.zeros_like(positive), x.same)


def _max_pool(x: Ball, args: list[Any], name: str) -> Ball:
    size = list(args[0])
    stride = list(args[1]) if len(args) > 1 and args[1] else size
    padding = list(args[2]) if len(args) > 2 else [0, 0]
    if (len(args) > 3 and set(args[3]) != {1}) or (len(args) > 4 and args[4]):
        raise CannotCheck("a max-pool that is dilated or in ceil mode")
    every = _windows(x, [size[0], size[-1]], [stride[0], stride[-1]], [padding[0], padding[-1]], -np.inf)
    shape = every.mid.shape[:4]
    rows = every.moved(lambda array: array.reshape(*shape, -1))
    best = rows.mid.argmax(-1)[..., None]
    top = rows.moved(lambda array: np.take_along_axis(array, best, -1)[..., 0])
    low = (top.mid - top.rad) - 4 * _U * (np.abs(top.mid) + top.rad) - _TINY
    size_of_rows = np.where(np.isfinite(rows.mid), np.abs(rows.mid), 0.0)
    high = (rows.mid + rows.rad) + 4 * _U * (size_of_rows + rows.rad) + _TINY
    np.put_along_axis(high, best, -np.inf, -1)
    rivals = high >= low[..., None]
    if rows.same is not None and top.same is not None:
        rivals &= rows.same != top.same[..., None]
    # rivals that are constant zeros with a constant zero on top are no choice: the maximum is constant nearby
    harmless = top.flat & (~rivals | rows.flat).all(-1)
    if not (~rivals.any(-1) | harmless).all():
        where = [int(i) for i in np.argwhere(rivals.any(-1) & ~harmless)[0]]
        raise _OnKink(f"{name}: the two largest entries of window {where} are within their rounding bounds")
    same = None if top.same is None else np.where(harmless, 0, top.same)
    return Ball(top.mid, top.rad, harmless | top.flat, same)


def _evaluated(step: Mapping[str, Any], known: Mapping[str, Ball]) -> Ball:
    op, name = step["op"], step["name"]
    args = [known[arg["ref"]] if isinstance(arg, dict) else arg for arg in step["args"]]
    balls = [_exact(np.array(arg)) if isinstance(arg, (int, float)) else arg for arg in args]
    if op == "aten.relu.default":
        return _relu(args[0], 0.0, name)
    if op == "aten.leaky_relu.default":
        return _relu(args[0], float(step["args"][1]) if len(args) > 1 else 0.01, name)
    if op == "aten.abs.default":
        _require_away(args[0], 0.0, name)
        return Ball(np.abs(args[0].mid), args[0].rad, np.zeros(args[0].mid.shape, dtype=bool))
    if op in ("aten.maximum.default", "aten.minimum.default"):
        gap = _add(args[0], args[1], -1.0)
        _require_away(gap, 0.0, name)
        first = (gap.mid > 0) == (op == "aten.maximum.default")
        a, b = (x.moved(lambda array: np.broadcast_to(array, gap.mid.shape)) for x in args[:2])
        return Ball(np.where(first, a.mid, b.mid), np.where(first, a.rad, b.rad), np.zeros_like(first))
    if op == "aten.max_pool2d_with_indices.default":
        return _max_pool(args[0], args[1:], name)
    if op == "getitem":
        if args[1] != 0:
            raise CannotCheck(f"{name}: a second result before a kink")
        return args[0]
    if op in MOVES:
        try:
            return args[0].moved(lambda array: moved(op, array, args[1:]))
        except CannotMove as error:
            raise CannotCheck(f"{op} before a kink") from error
    if step["kwargs"]:
        raise CannotCheck(f"{op} with {sorted(step['kwargs'])} before a kink")
    if op == "aten.addmm.default":
        return _add(_dot(args[1], args[2]), args[0])
    if op in ("aten.mm.default", "aten.mv.default", "aten.dot.default", "aten.bmm.default"):
        return _dot(args[0], args[1])
    if op == "aten.convolution.default":
        return _convolution(args[0], args[1], args[2], args[3:])
    if op in ("aten.add.Tensor", "aten.add.Scalar"):
        return _add(balls[0], balls[1])
    if op in ("aten.sub.Tensor", "aten.sub.Scalar"):
        return _add(balls[0], balls[1], -1.0)
    if op in ("aten.mul.Tensor", "aten.mul.Scalar"):
        return _mul(balls[0], balls[1])
    if op == "aten.neg.default":
        return Ball(-args[0].mid, args[0].rad, args[0].flat)
    raise CannotCheck(f"{op} before a kink has no enclosure here")


_KINKS = frozenset(
    {
        "aten.relu.default", "aten.leaky_relu.default", "aten.abs.default", "aten.maximum.default",
        "aten.minimum.default", "aten.max_pool2d_with_indices.default",
    }
)  # fmt: skip


def refusal(data: Mapping[str, Any]) -> str:
    """ "" when every kink is strictly away from theta for the data given, else the first reason why not.

    data: {"steps": [...], "output": name, "arrays": {name: packed array}} as `_replay.packed` writes them.

    Raises ValueError when `data` is not of this form.
    """
    try:
        steps, arrays = list(data["steps"]), data["arrays"]
        depends: set[str] = set()
        needed: set[str] = set()
        for step in steps:
            sources = refs(step["args"]) + refs(step["kwargs"])
            if step["op"] == "parameter" or any(source in depends for source in sources):
                depends.add(step["name"])
        for step in reversed(steps):
            op = step["op"]
            kink = op in _KINKS and step["name"] in depends
            if step["name"] in needed or kink:
                needed |= {step["name"], *refs(step["args"]), *refs(step["kwargs"])}
    except (KeyError, TypeError) as error:
        raise ValueError(f"a margin certificate must hold steps and arrays, it lacks {error}.") from error
    known: dict[str, Ball] = {}
    try:
        for step in steps:
            name, op = step["name"], step["op"]
            if name in depends and op not in _KINKS:
                reason = smooth_refusal(step, depends)
                if reason:
                    return reason
            if name not in needed:
                continue
            known[name] = (
                _exact(unpacked(arrays[name]), constant=op != "parameter")
                if op in ("parameter", "input", "constant")
                else _evaluated(step, known)
            )
    except (CannotCheck, _OnKink) as error:
        return str(error)
    return ""


def check(data: Mapping[str, Any]) -> bool:
    """True when F is continuously differentiable near theta, by the enclosures of all kinks of all batches.

    data: {"parts": [...]}, one for each batch, each as `refusal` reads it.
    """
    parts = data.get("parts")
    if not isinstance(parts, list) or not parts:
        raise ValueError("a margin certificate must hold its parts, one for each batch, got none.")
    return all(refusal(part) == "" for part in parts)
