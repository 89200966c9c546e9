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

from tameopt.optim.layout import is_dense

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
    """x to a scalar exponent (x >= 0), computed in double and rounded once.

    In float32 that is the nearest number but for about one in 10^8 (a double lies that close to the middle of two
    floats), so engines agree there; in float64 they differ by a unit or two.
    """
    if isinstance(x, torch.Tensor):
        if x.requires_grad and torch.is_grad_enabled():
            return torch.pow(x, exponent)
        if x.device.type == "cpu":  # torch's own differs between its vectors and what is left at their end
            rounded = torch.tensor(exponent, dtype=x.dtype).item()
            with np.errstate(all="ignore"):
                found = np.power(x.detach().numpy().astype(np.float64), rounded)
            return torch.from_numpy(np.asarray(found)).to(x.dtype)
        return torch.pow(x.to(torch.float64), exponent).to(x.dtype)
    if isinstance(x, int | float) and isinstance(exponent, int | float):
        return x**exponent
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


def same(x: Value, y: Value) -> Value:
    """Whether x equals y; false for NaN."""
    if isinstance(x, torch.Tensor | int | float):
        return x == y
    return x.binary("same", x, y)


def stored(x: Value, dtype: Any) -> Value:
    """x rounded to nearest as the parameter will hold it, still in the dtype of the arithmetic.

    dtype: the parameter's, for tensors; a symbol leaves it to the engine.
    """
    return x.to(dtype).to(x.dtype) if isinstance(x, torch.Tensor) else x.apply("stored")


def dithered(x: Value, seed: Value) -> Value:
    """x rounded to bfloat16 up or down at random, so that the mean over seeds is x; NaN and infinities as they are.

    The random bits are a hash (C. Wellons' lowbias32) of the element's place in memory and the seed, a whole number
    below 2^24, so all engines and all replicas round alike. x: float32.
    """
    if not isinstance(x, torch.Tensor):
        return x.binary("dithered", x, seed)
    place = torch.arange(x.numel(), device=x.device).as_strided(x.shape, _dense_strides(x))
    h = (place + int(seed) * 0x9E3779B9) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    bits = x.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    bits = (bits + (h & 0xFFFF)) & 0xFFFF0000
    rounded = torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x)


def _dense_strides(x: torch.Tensor) -> tuple[int, ...]:
    """The tensor's strides when its elements fill memory, else those of rows."""
    return x.stride() if is_dense(x) else torch.empty(x.shape, device="meta").stride()
