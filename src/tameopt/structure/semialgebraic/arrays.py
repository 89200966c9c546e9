"""Piecewise polynomial operators on arrays of exact numbers or polynomials.

Each takes the call's arguments by the names of torch's schema. An array holds polynomials, or fractions at a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import numpy as np


class Signs(Protocol):
    """Answers whether an exact number or polynomial is > 0."""

    def positive(self, x: Any) -> bool: ...


Make = Callable[[Fraction], Any]
Operator = Callable[[dict[str, Any], Signs, Make], Any]


class SignsAtPoint(Signs):
    """Signs of numbers, in the order in which they were asked for: the pattern names the piece."""

    def __init__(self) -> None:
        self.pattern: list[bool] = []

    def positive(self, x: Fraction) -> bool:
        self.pattern.append(x > 0)
        return x > 0


def _lifted(x: Any, number: Make) -> Any:
    return number(Fraction(x)) if isinstance(x, (int, float)) else x


def as_array(x: Any) -> np.ndarray:
    """NumPy returns the element itself for an array without dimensions: back to an array."""
    if isinstance(x, np.ndarray):
        return x
    found = np.empty((), dtype=object)
    found[()] = x
    return found


def _each(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """An array of function(elements), broadcast."""
    return as_array(np.frompyfunc(function, len(arrays), 1)(*arrays))


def _greater(a: Any, b: Any, signs: Signs) -> bool:
    return signs.positive(a + b * -1) if isinstance(a, Fraction) else signs.positive(a - b)


def _larger(a: Any, b: Any, signs: Signs) -> Any:
    return a if _greater(a, b, signs) else b


def _smaller(a: Any, b: Any, signs: Signs) -> Any:
    return b if _greater(a, b, signs) else a


# -- shapes ------------------------------------------------------------------------------------------------


def _same(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    return c["self"]


def _copied(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    """Answers become 0 and 1; a change of precision changes no real number, one to integers would."""
    if c.get("dtype") is not None and not c["dtype"].is_floating_point:
        raise ValueError(f"a copy to {c['dtype']} has no exact form here.")
    return _each(lambda a: number(Fraction(int(a))) if isinstance(a, (bool, np.bool_)) else a, c["self"])


def _reshaped(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    return c["self"].reshape(c.get("size", c.get("shape")))


def _moved(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    x = c["self"]
    if "dims" in c:
        return x.transpose(c["dims"])
    return np.swapaxes(x, c["dim0"], c["dim1"]) if "dim0" in c else x.T


def _expanded(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    x, size = c["self"], c["size"]
    shape = [x.shape[k - len(size)] if length == -1 else length for k, length in enumerate(size)]
    return np.broadcast_to(x, shape)


def _squeezed(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    x, dim = c["self"], c.get("dim")
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, list) else [dim]
    return np.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


def _sliced(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    cut = slice(c["start"], None if c["end"] is None else min(c["end"], 2**62), c["step"])
    return c["self"][(slice(None),) * (c["dim"] % c["self"].ndim) + (cut,)]


def _filled(value: int | None) -> Operator:
    def fill(c: dict[str, Any], signs: Signs, number: Make) -> Any:
        return np.full(c["self"].shape, number(Fraction(c["fill_value"] if value is None else value)), dtype=object)

    return fill


# -- arithmetic --------------------------------------------------------------------------------------------


def _scaled(x: Any, factor: Any, number: Make) -> Any:
    return x if factor == 1 else x * number(Fraction(factor))


def _added(sign: int, first: str, second: str) -> Operator:
    def add(c: dict[str, Any], signs: Signs, number: Make) -> Any:
        x, y = _lifted(c[first], number), _lifted(c[second], number)
        return _each(lambda a, b: a + b, x, _scaled(y, sign * c.get("alpha", 1), number))

    return add


def _times(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    return _each(lambda a, b: a * b, _lifted(c["self"], number), _lifted(c["other"], number))


def _divided(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    if c.get("rounding_mode") is not None:
        raise ValueError("a division with rounding has no exact form here.")

    def inverse(y: Any) -> Any:
        value = y if isinstance(y, Fraction) else y.value
        if not value:
            raise ValueError(
                "a piecewise polynomial F is required, this one divides by something that varies or is 0."
            )
        return number(1 / value)

    return _each(lambda a, b: a * inverse(b), c["self"], _lifted(c["other"], number))


def _power(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    n = c["exponent"]
    if not isinstance(n, (int, float)) or n != int(n) or n < 0:
        raise ValueError(f"a piecewise polynomial F is required, this one takes the power {n}.")
    return _each(lambda a: a ** int(n), c["self"])


def _axes(c: dict[str, Any]) -> tuple[int, ...]:
    dim, rank = c.get("dim"), c["self"].ndim
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(d % rank for d in dim) if isinstance(dim, list) else (dim % rank,)


def _reduced(c: dict[str, Any], function: Callable[[Any, Any], Any]) -> np.ndarray:
    x, axes = c["self"], _axes(c)
    kept = [d for d in range(x.ndim) if d not in axes]
    rows = x.transpose([*kept, *axes]).reshape([x.shape[d] for d in kept] + [-1])
    if rows.shape[-1] == 0:
        raise ValueError("a sum or maximum over nothing has no exact form here.")
    found = rows[..., 0]
    for k in range(1, rows.shape[-1]):
        found = _each(function, found, rows[..., k])
    result = as_array(found)
    return np.expand_dims(result, axes) if c.get("keepdim") else result


def _sum(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    return _reduced(c, lambda a, b: a + b)


def _mean(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    count = math.prod(c["self"].shape[d] for d in _axes(c))
    return _sum(c, signs, number) * number(Fraction(1, count))


def _extreme(pick: Callable[[Any, Any, Signs], Any]) -> Operator:
    def extreme(c: dict[str, Any], signs: Signs, number: Make) -> Any:
        if c.get("other") is not None:
            return _each(lambda a, b: pick(a, b, signs), c["self"], c["other"])
        return _reduced(c, lambda a, b: pick(a, b, signs))

    return extreme


def _product(left: str, right: str) -> Operator:
    return lambda c, signs, number: c[left] @ c[right]


def _plus_product(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    first = _scaled(c["self"], c.get("beta", 1), number)
    return _each(lambda a, b: a + b, first, _scaled(c["mat1"] @ c["mat2"], c.get("alpha", 1), number))


# -- bends -------------------------------------------------------------------------------------------------


def _bent(function: Callable[[Any, dict[str, Any], Signs, Make], Any]) -> Operator:
    return lambda c, signs, number: _each(lambda a: function(a, c, signs, number), c["self"])


def _clamped(x: Any, c: dict[str, Any], signs: Signs, number: Make) -> Any:
    for name, pick in (("min", _larger), ("min_val", _larger), ("max", _smaller), ("max_val", _smaller)):
        bound = c.get(name)
        if isinstance(bound, np.ndarray):
            raise ValueError("a clamp by a tensor has no exact form here: use torch.maximum.")
        if bound is not None and not math.isinf(bound):
            x = pick(x, number(Fraction(bound)), signs)
    return x


def _leaky(x: Any, c: dict[str, Any], signs: Signs, number: Make) -> Any:
    return x if signs.positive(x) else x * number(Fraction(c["negative_slope"]))


def _sign(x: Any, c: dict[str, Any], signs: Signs, number: Make) -> Any:
    if signs.positive(x):
        return number(Fraction(1))
    return number(Fraction(-1 if signs.positive(x * number(Fraction(-1))) else 0))


def _compared(swapped: bool, opposite: bool) -> Operator:
    """a > b, b > a, or the opposite of one of them."""

    def compare(c: dict[str, Any], signs: Signs, number: Make) -> Any:
        a, b = c["self"], _lifted(c["other"], number)
        left, right = (b, a) if swapped else (a, b)
        return _each(lambda x, y: _greater(x, y, signs) != opposite, left, right)

    return compare


def _where(c: dict[str, Any], signs: Signs, number: Make) -> Any:
    if any(not isinstance(x, (bool, np.bool_)) for x in np.asarray(c["condition"], dtype=object).reshape(-1)):
        # a constant condition was recorded as numbers
        c = {**c, "condition": _each(lambda x: signs.positive(x), c["condition"])}
    return _each(lambda chosen, a, b: a if chosen else b, c["condition"], c["self"], c["other"])


# -- losses ------------------------------------------------------------------------------------------------


def _loss(function: Callable[[Any, dict[str, Any], Signs, Make], Any]) -> Operator:
    def loss(c: dict[str, Any], signs: Signs, number: Make) -> Any:
        found = _each(lambda a, b: function(a + b * number(Fraction(-1)), c, signs, number), c["self"], c["target"])
        if c["reduction"] == 0:
            return found
        return (_mean if c["reduction"] == 1 else _sum)({"self": found}, signs, number)

    return loss


def _absolute(x: Any, c: dict[str, Any], signs: Signs, number: Make) -> Any:
    return x if signs.positive(x) else x * number(Fraction(-1))


def _huber(x: Any, c: dict[str, Any], signs: Signs, number: Make) -> Any:
    """delta |x| - delta^2 / 2 from delta on, x^2 / 2 below; smooth_l1 is that over beta."""
    limit = Fraction(c["delta"] if "delta" in c else c["beta"])
    size, half = _absolute(x, c, signs, number), number(Fraction(1, 2))
    if _greater(size, number(limit), signs):
        found = size * number(limit) + number(-limit * limit / 2)
    else:
        found = x * x * half
    return found if "delta" in c else found * number(1 / limit)


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(("alias", "clone", "detach", "lift_fresh_copy", "contiguous"), _same),
    "_to_copy": _copied,
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _reshaped),
    **dict.fromkeys(("t", "transpose", "permute"), _moved),
    "expand": _expanded,
    "unsqueeze": lambda c, signs, number: np.expand_dims(c["self"], c["dim"]),
    "squeeze": _squeezed,
    "select": lambda c, signs, number: np.take(c["self"], c["index"], axis=c["dim"]),
    "slice": _sliced,
    "cat": lambda c, signs, number: np.concatenate(c["tensors"], c["dim"]),
    "stack": lambda c, signs, number: np.stack(c["tensors"], c["dim"]),
    "zeros_like": _filled(0),
    "ones_like": _filled(1),
    "full_like": _filled(None),
    "add": _added(1, "self", "other"),
    "sub": _added(-1, "self", "other"),
    "rsub": _added(-1, "other", "self"),
    "mul": _times,
    "div": _divided,
    "neg": lambda c, signs, number: c["self"] * number(Fraction(-1)),
    "pow": _power,
    "square": lambda c, signs, number: c["self"] * c["self"],
    "sum": _sum,
    "mean": _mean,
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "addmm": _plus_product,
    "relu": _bent(lambda x, c, signs, number: x if signs.positive(x) else number(Fraction(0))),
    "abs": _bent(_absolute),
    "sign": _bent(_sign),
    "leaky_relu": _bent(_leaky),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), _bent(_clamped)),
    **dict.fromkeys(("maximum", "amax", "max"), _extreme(_larger)),
    **dict.fromkeys(("minimum", "amin", "min"), _extreme(_smaller)),
    "gt": _compared(False, False),
    "lt": _compared(True, False),
    "le": _compared(False, True),
    "ge": _compared(True, True),
    "where": _where,
    "mse_loss": _loss(lambda x, c, signs, number: x * x),
    "huber_loss": _loss(_huber),
    "smooth_l1_loss": _loss(_huber),
}
