"""The operations a rule may use, one meaning for numbers, tensors and symbols.

A rule is written in `+ - * /` and the functions below. Called with floats they compute in double; called with
tensors they are the eager reference; called with symbols (`tameopt.optim.expr`) they extend the graph from which
the other engines generate their kernels. Where frameworks disagree the meaning here is torch's: `maximum` and
`clip` propagate NaN, `where` follows the condition, a comparison with NaN is false.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

# A float, a tensor or a symbol. Rules are generic in it; Any keeps their arithmetic readable.
Value = Any


def sqrt(x: Value) -> Value:
    """Square root, correctly rounded in float32 and float64 (NaN below zero).

    torch's vectorised float32 square root is one unit off on some CPUs, so the reference goes through numpy
    there; a tensor that autograd follows keeps torch's own.
    """
    if isinstance(x, torch.Tensor):
        if x.device.type == "cpu" and not (x.requires_grad and torch.is_grad_enabled()):
            with np.errstate(invalid="ignore"):
                return torch.from_numpy(np.asarray(np.sqrt(x.detach().numpy())))
        return torch.sqrt(x)
    return math.sqrt(x) if isinstance(x, int | float) else x.apply("sqrt")


def absolute(x: Value) -> Value:
    """Absolute value."""
    if isinstance(x, torch.Tensor):
        return torch.abs(x)
    return abs(x) if isinstance(x, int | float) else x.apply("absolute")


def maximum(x: Value, y: Value) -> Value:
    """The larger of the two, NaN if either is NaN."""
    if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor):
        return torch.maximum(*_tensors(x, y))
    if isinstance(x, int | float) and isinstance(y, int | float):
        return math.nan if math.isnan(x) or math.isnan(y) else max(x, y)
    return _symbol(x, y).binary("maximum", x, y)


def minimum(x: Value, y: Value) -> Value:
    """The smaller of the two, NaN if either is NaN."""
    if isinstance(x, torch.Tensor) or isinstance(y, torch.Tensor):
        return torch.minimum(*_tensors(x, y))
    if isinstance(x, int | float) and isinstance(y, int | float):
        return math.nan if math.isnan(x) or math.isnan(y) else min(x, y)
    return _symbol(x, y).binary("minimum", x, y)


def clip(x: Value, low: Value, high: Value) -> Value:
    """x moved into [low, high], NaN if x is NaN."""
    return minimum(maximum(x, low), high)


def power(x: Value, exponent: Value) -> Value:
    """x to a scalar exponent (x >= 0). Its rounding is the platform's, so engines agree to a few units only."""
    if isinstance(x, torch.Tensor):
        return torch.pow(x, exponent)
    if isinstance(x, int | float) and isinstance(exponent, int | float):
        return x**exponent
    if isinstance(exponent, torch.Tensor):
        return torch.pow(x, exponent)
    return x.binary("power", x, exponent)


def where(condition: Value, x: Value, y: Value) -> Value:
    """x where the condition holds, else y."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, torch.Tensor):
        like = x if isinstance(x, torch.Tensor) else y
        dtype = like.dtype if isinstance(like, torch.Tensor) else None
        return torch.where(condition, _scalar(x, dtype), _scalar(y, dtype))
    return condition.where(x, y)


def sign(x: Value) -> Value:
    """-1, 0 or 1; 0 for NaN, as torch's."""
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, x * 0.0)) if isinstance(x, int | float) else _sign(x)


def _sign(x: Value) -> Value:
    if isinstance(x, torch.Tensor):
        return torch.sign(x)
    return x.apply("sign")


def _scalar(x: Value, dtype: torch.dtype | None) -> Value:
    return x if isinstance(x, torch.Tensor) or dtype is None else torch.tensor(x, dtype=dtype)


def _tensors(x: Value, y: Value) -> tuple[torch.Tensor, torch.Tensor]:
    like = x if isinstance(x, torch.Tensor) else y
    made = [
        v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=like.dtype, device=like.device) for v in (x, y)
    ]
    return made[0], made[1]


def _symbol(x: Value, y: Value) -> Value:
    return y if isinstance(x, int | float) else x


def average(old: Value, new: Value, keep: Value, take: Value, slow: bool) -> Value:
    """keep * old + take * new with keep + take = 1, rounded as torch's lerp.

    slow: whether keep > 1/2; torch measures from the nearer end, which matters for infinities.
    """
    return old + take * (new - old) if slow else new - keep * (new - old)
