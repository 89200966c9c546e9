"""Which side's derivative autograd returns at the kinks of an operator of one input: found by asking it.

At a kink with one-sided derivatives l and r autograd returns w l + (1 - w) r for some number w, its *share* of the
left side: 1 or 0 for relu and its kind, 1/2 for abs. A w in [0, 1] is a convex combination of the two sides. This
module imports none of the code that traces.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch

Kink = tuple[float, Fraction, Fraction]  # where, and the derivatives on its left and right


class NoShare(ValueError):
    """The operator's kinks are not of this kind; the message says why."""


def _at(*where: int) -> Callable[[list[Any]], list[float]]:
    return lambda args: [float(args[i]) for i in where]


def _clamp(args: list[Any]) -> list[float]:
    bounds = [bound for bound in args[1:3] if bound is not None]
    if not bounds or not all(isinstance(bound, (int, float)) for bound in bounds):
        raise NoShare("its bound is not a number")
    if len(bounds) == 2 and not bounds[0] < bounds[1]:
        raise NoShare("its bounds leave no middle")
    return [float(bound) for bound in bounds]


def _threshold(args: list[Any]) -> list[float]:
    if [float(entry) for entry in args[1:3]] != [0.0, 0.0]:
        raise NoShare("it is a jump unless value = threshold = 0")
    return [0.0]


def _hardtanh(args: list[Any]) -> list[float]:
    return _clamp([None, *args[1:], *[-1.0, 1.0][len(args) - 1 :]])


def _zero(args: list[Any]) -> list[float]:
    return [0.0]


def _softshrink(args: list[Any]) -> list[float]:
    level = float(args[1]) if len(args) > 1 else 0.5
    return [-level, level] if level > 0 else [0.0]


_WHERE: dict[str, Callable[[list[Any]], list[float]]] = {
    "aten.relu.default": _zero,
    "aten.abs.default": _zero,
    "aten.leaky_relu.default": _zero,
    "aten._prelu_kernel.default": _zero,
    "aten.elu.default": _zero,
    "aten.threshold.default": _threshold,
    "aten.clamp_min.default": lambda args: _clamp([None, args[1]]),
    "aten.clamp_max.default": lambda args: _clamp([None, args[1]]),
    "aten.clamp.default": lambda args: _clamp([None, *args[1:]]),
    "aten.hardtanh.default": _hardtanh,
    "aten.softshrink.default": _softshrink,
    "aten.hardswish.default": lambda args: [-3.0, 3.0],
    "aten.hardsigmoid.default": lambda args: [-3.0, 3.0],
}

OF_ONE_INPUT = frozenset(_WHERE)


def shares(op: str, args: list[Any]) -> list[tuple[float, Fraction]]:
    """(where, share of the left side) for every kink of an operator in `OF_ONE_INPUT`.

    Raises NoShare when autograd's derivative at a kink is not between those of its sides, or it is not continuous.
    """
    tail: list[Any] = [arg for arg in args[1:] if not isinstance(arg, dict)]
    if op == "aten._prelu_kernel.default":
        tail = [torch.full((), 0.25, dtype=torch.float64)]
    name, _, overload = op.removeprefix("aten.").partition(".")
    function = getattr(getattr(torch.ops.aten, name), overload)

    def derivative(at: float) -> Fraction:
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(function(x, *tail), x)
        return Fraction(float(slope))

    found = []
    for where in _WHERE[op](args):
        h = 2.0**-40 * max(1.0, abs(where))
        left, here, right = derivative(where - h), derivative(where), derivative(where + h)
        if op == "aten.elu.default":  # curved pieces: the slopes at the kink are limits
            alpha, scale, inner = (list(map(float, args[1:4])) + [1.0, 1.0, 1.0][len(args) - 1 :])[:3]
            left, right = Fraction(alpha) * Fraction(scale) * Fraction(inner), Fraction(scale)
        if op == "aten.hardswish.default":
            left, right = (Fraction(0), Fraction(-1, 2)) if where < 0 else (Fraction(3, 2), Fraction(1))
        if left == right:
            if here != left:
                raise NoShare("autodiff's derivative at the kink is that of neither side")
            continue
        share = (here - right) / (left - right)
        if not 0 <= share <= 1:
            raise NoShare("autodiff's derivative at the kink is not between those of its sides")
        found.append((where, share))
    return found
