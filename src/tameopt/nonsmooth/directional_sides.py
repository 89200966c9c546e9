"""Nonsmooth operators on dual tensors, on the side to which the derivatives along a direction lead.

A row is (choose, apply): the side, or the choice among equals, from values and derivatives; then the operator on it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from tameopt.nonsmooth.operators import max_pool_windows, tied_windows


def _tangent(x: Any) -> torch.Tensor:
    """The derivative of a dual tensor along h, 0 for what does not depend on theta."""
    primal, tangent = forward_ad.unpack_dual(x)
    return torch.zeros_like(primal) if tangent is None else tangent.detach()


def _value(x: Any) -> torch.Tensor:
    return forward_ad.unpack_dual(x)[0].detach()


def _above(x: torch.Tensor, point: Any = 0.0) -> torch.Tensor:
    """Whether x + e h > point for small e > 0."""
    value = _value(x)
    at = _value(point) if isinstance(point, torch.Tensor) else point
    side, tied = value > at, value == at
    if not bool(tied.any()):
        return side
    slope = _tangent(x) - _tangent(point) if isinstance(point, torch.Tensor) else _tangent(x)
    return side | (tied & (slope > 0))


def _positive(x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
    return _above(x)


def _relu(side: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # a product takes a tenth of the time of masked_fill, and is the same where no entry is infinite
    return x * side.to(x.dtype) if bool(torch.isfinite(_value(x).sum())) else x.masked_fill(~side, 0.0)


def _abs(side: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(side, x, -x)


def _leaky(side: torch.Tensor, x: torch.Tensor, slope: Any = 0.01) -> torch.Tensor:
    return torch.where(side, x, slope * x)


def _elu(side: torch.Tensor, x: torch.Tensor, alpha: Any = 1, scale: Any = 1, inner: Any = 1) -> torch.Tensor:
    return torch.where(side, scale * x, scale * alpha * torch.expm1(inner * torch.where(side, 0.0, x)))


def _clamp_sides(x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    """-1 at the lower bound, +1 at the upper one, 0 between: a kink at a bound goes where h leads."""
    side = torch.zeros(_value(x).shape, dtype=torch.int8, device=x.device)
    if low is not None:
        side = torch.where(_above(x, low), side, -1)
    if high is not None:
        side = torch.where(_above(x, high), 1, side)
    return side


def _clamp(side: torch.Tensor, x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    result = x if low is None else torch.where(side == -1, low, x)
    return result if high is None else torch.where(side == 1, high, result)


def _hardtanh_sides(x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return _clamp_sides(x, low, high)


def _hardtanh(side: torch.Tensor, x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return _clamp(side, x, low, high)


def _larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _above(a, b)


def _best(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The index of the largest entry along a dimension, the fastest growing among equals; keeps the dimension."""
    value, slope = _value(x), _tangent(x)
    top = value.amax(dim=dim, keepdim=True)
    return torch.where(value == top, slope, -torch.inf).argmax(dim=dim, keepdim=True)


def _reduce(sign: int) -> tuple[Any, Any]:
    def flat(x: torch.Tensor, dims: Any) -> tuple[torch.Tensor, list[int]]:
        axes = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
        axes = [axis % max(x.ndim, 1) for axis in axes]
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        return x.permute(*kept, *axes).flatten(len(kept)) if x.ndim else x.reshape(1), axes

    def choose(x: torch.Tensor, dims: Any = None, keepdim: bool = False) -> torch.Tensor:
        return _best(sign * flat(x, dims)[0], -1)

    def apply(index: torch.Tensor, x: torch.Tensor, dims: Any = None, keepdim: bool = False) -> torch.Tensor:
        rows, axes = flat(x, dims)
        result = rows.gather(-1, index).squeeze(-1)
        for axis in sorted(axes) if keepdim else []:
            result = result.unsqueeze(axis)
        return result

    return choose, apply


def _with_index(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """For operators that return (values, indices)."""

    def apply(index: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return pair[1](index, *args, **kwargs), index.squeeze(-1)

    return pair[0], apply


def _order(x: torch.Tensor, dim: int, descending: bool) -> torch.Tensor:
    """The order along a dimension, ties by their derivative along h."""
    sign = -1 if descending else 1
    first = (sign * _tangent(x)).argsort(dim=dim, stable=True)
    second = (sign * _value(x)).gather(dim, first).argsort(dim=dim, stable=True)
    return first.gather(dim, second)


def _sort_order(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _order(x, *_sort_arguments(*args, **kwargs))


def _sort_arguments(*args: Any, dim: int = -1, descending: bool = False, stable: Any = None) -> tuple[int, bool]:
    for arg in args:
        if isinstance(arg, bool):
            descending = arg
        elif isinstance(arg, int):
            dim = arg
    return dim, descending


def _sort(order: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x.gather(_sort_arguments(*args, **kwargs)[0], order), order


def _topk_order(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> torch.Tensor:
    return _order(x, dim, largest).narrow(dim, 0, k)


def _topk(order: torch.Tensor, x: torch.Tensor, k: int, dim: int = -1, *rest: Any) -> tuple[Any, Any]:
    return x.gather(dim, order), order


def _pool_choice(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """The place in the image of the entry that wins each window: the fastest growing among equals."""
    value, slope = _value(x), _tangent(x)
    best, first = torch.ops.aten.max_pool2d_with_indices(value, *args)
    if not bool(tied_windows(value, best, *args).any()):
        return first
    height, width = value.shape[-2:]
    places = torch.arange(height * width, dtype=torch.float64, device=x.device).view(1, 1, height, width)
    windows = max_pool_windows(value, *args)
    rate = torch.where(windows == windows.amax(-1, keepdim=True), max_pool_windows(slope, *args), -torch.inf)
    choice = rate.argmax(-1, keepdim=True)
    where = max_pool_windows(places, *args).expand(*choice.shape[:-1], -1).gather(-1, choice)
    return where.squeeze(-1).long()


def _pool(places: torch.Tensor, x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = x.flatten(-2).gather(-1, places.flatten(-2)).view(places.shape)
    return chosen, places


def _compare(sign: int, strict: bool) -> tuple[Any, Any]:
    """sign * a above sign * b; where h does not tell them apart they are one function, and only <= and >= hold."""

    def choose(a: torch.Tensor, b: Any) -> torch.Tensor:
        return _above(sign * a, sign * b) if strict else ~_above(-sign * a, -sign * b)

    return choose, lambda side, a, b: side


ROWS: dict[str, tuple[Any, Any]] = {
    "aten.relu.default": (_positive, _relu),
    "aten.abs.default": (_positive, _abs),
    "aten.leaky_relu.default": (_positive, _leaky),
    "aten._prelu_kernel.default": (_positive, lambda side, x, weight: torch.where(side, x, weight * x)),
    "aten.elu.default": (_positive, _elu),
    "aten.clamp.default": (_clamp_sides, _clamp),
    "aten.clamp.Tensor": (_clamp_sides, _clamp),
    "aten.clamp_min.default": (_clamp_sides, _clamp),
    "aten.clamp_min.Tensor": (_clamp_sides, _clamp),
    "aten.clamp_max.default": (
        lambda x, high: _clamp_sides(x, None, high),
        lambda s, x, high: _clamp(s, x, None, high),
    ),
    "aten.hardtanh.default": (_hardtanh_sides, _hardtanh),
    "aten.maximum.default": (_larger, torch.where),
    "aten.fmax.default": (_larger, torch.where),
    "aten.minimum.default": (lambda a, b: _above(b, a), torch.where),
    "aten.fmin.default": (lambda a, b: _above(b, a), torch.where),
    "aten.max.default": _reduce(1),
    "aten.min.default": _reduce(-1),
    "aten.amax.default": _reduce(1),
    "aten.amin.default": _reduce(-1),
    "aten.max.dim": _with_index(_reduce(1)),
    "aten.min.dim": _with_index(_reduce(-1)),
    "aten.sort.default": (_sort_order, _sort),
    "aten.sort.stable": (_sort_order, _sort),
    "aten.topk.default": (_topk_order, _topk),
    "aten.max_pool2d_with_indices.default": (_pool_choice, _pool),
    "aten.gt.Scalar": _compare(1, True),
    "aten.gt.Tensor": _compare(1, True),
    "aten.ge.Scalar": _compare(1, False),
    "aten.ge.Tensor": _compare(1, False),
    "aten.lt.Scalar": _compare(-1, True),
    "aten.lt.Tensor": _compare(-1, True),
    "aten.le.Scalar": _compare(-1, False),
    "aten.le.Tensor": _compare(-1, False),
    # a branch chosen by a comparison is differentiated exactly once the comparison is decided
}
