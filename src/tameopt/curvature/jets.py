"""Second-order jets of a tape: its value, gradient and Hessian in whatever numbers one puts in.

With arbs they are enclosures, with fractions exact. Part of the checkers: it shares no code with what writes tapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any


class Undecided(Exception):
    """An interval does not decide a branch, or an operation has no value there."""


class Jets:
    """Values, gradients and Hessians of a tape in one kind of number.

    A jet is (value, {i: d_i}, {(i, j): d_ij with i <= j}); absent entries are exactly 0.
    """

    def __init__(self, number: Callable[[str], Any], unary: Callable[[str, Any], tuple[Any, Any, Any]]) -> None:
        self.number = number
        self.unary = unary

    def run(self, tape: list[list[Any]], point: list[Any]) -> tuple[Any, dict[int, Any], dict[tuple[int, int], Any]]:
        """The jet of the last entry. An entry that has no value is passed over unless something uses it."""
        one = self.number("0x1p+0")
        jets: list[Any] = []
        for entry in tape:
            operation, arguments = str(entry[0]), entry[1:]
            if operation == "const":
                jets.append((self.number(str(arguments[0])), {}, {}))
                continue
            if operation == "var":
                jets.append((point[int(arguments[0])], {int(arguments[0]): one}, {}))
                continue
            try:
                jets.append(self._apply(operation, [int(place) for place in arguments], jets))
            except (Undecided, ZeroDivisionError):
                jets.append(None)
        if jets[-1] is None:
            raise Undecided
        return jets[-1]

    def _apply(self, operation: str, arguments: list[int], jets: list[Any]) -> Any:
        def jet(place: int) -> Any:
            if not 0 <= place < len(jets):
                raise ValueError(f"a tape may refer to earlier entries only, {operation} refers to {place}.")
            if jets[place] is None:
                raise Undecided
            return jets[place]

        if operation == "if_less":
            a, b, then, otherwise = arguments
            left, right = jet(a)[0], jet(b)[0]
            if left < right:
                return jet(then)
            if left > right:
                return jet(otherwise)
            raise Undecided
        if operation == "pow":
            x, exponent = jet(arguments[0]), arguments[1]
            if exponent < 2:
                raise ValueError(f"a power on a tape must be at least 2, got {exponent}.")
            lower = _power(x[0], exponent - 2, self.number((1.0).hex()))
            first = lower * x[0]
            return self._chain(x, first * x[0], exponent * first, exponent * (exponent - 1) * lower)
        x = jet(arguments[0])
        if operation == "neg":
            return -x[0], {i: -g for i, g in x[1].items()}, {ij: -h for ij, h in x[2].items()}
        if operation in ("add", "sub", "mul", "div"):
            y = jet(arguments[1])
            if operation == "div":
                if not (y[0] > 0 or y[0] < 0):
                    raise Undecided
                inverse = 1 / y[0]
                y = self._chain(y, inverse, -inverse * inverse, 2 * inverse * inverse * inverse)
            return self._product(x, y) if operation in ("mul", "div") else self._sum(x, y, operation == "sub")
        value, first, second = self.unary(operation, x[0])
        return self._chain(x, value, first, second)

    @staticmethod
    def _sum(x: Any, y: Any, negative: bool) -> Any:
        value = x[0] - y[0] if negative else x[0] + y[0]
        parts = []
        for left, right in ((x[1], y[1]), (x[2], y[2])):
            merged = dict(left)
            for key, number in right.items():
                term = -number if negative else number
                merged[key] = merged[key] + term if key in merged else term
            parts.append(merged)
        return value, parts[0], parts[1]

    @staticmethod
    def _product(x: Any, y: Any) -> Any:
        gradient = {i: g * y[0] for i, g in x[1].items()}
        for i, g in y[1].items():
            gradient[i] = gradient[i] + x[0] * g if i in gradient else x[0] * g
        hessian = {ij: h * y[0] for ij, h in x[2].items()}
        for ij, h in y[2].items():
            hessian[ij] = hessian[ij] + x[0] * h if ij in hessian else x[0] * h
        for i, g in x[1].items():
            for j, other in y[1].items():
                key = (i, j) if i <= j else (j, i)
                # d_ij (xy) holds x_i y_j + x_j y_i: for i = j the loop meets the pair once, hence the factor
                term = 2 * g * other if i == j else g * other
                hessian[key] = hessian[key] + term if key in hessian else term
        return x[0] * y[0], gradient, hessian

    @staticmethod
    def _chain(x: Any, value: Any, first: Any, second: Any) -> Any:
        gradient = {i: first * g for i, g in x[1].items()}
        hessian = {ij: first * h for ij, h in x[2].items()}
        items = sorted(x[1].items())
        for place, (i, g) in enumerate(items):
            for j, other in items[place:]:
                term = second * g * other
                hessian[i, j] = hessian[i, j] + term if (i, j) in hessian else term
        return value, gradient, hessian


def _power(x: Any, exponent: int, one: Any) -> Any:
    """x^exponent by products: arb's own power is nan on an interval around 0."""
    result = one
    for _ in range(exponent):
        result = result * x
    return result


def arb_unary(operation: str, x: Any) -> tuple[Any, Any, Any]:
    if operation in ("log", "sqrt") and not x > 0:
        # the formula of the derivative, 1 / x, has values where the function has none: nothing may be proved there
        raise Undecided
    if operation == "exp":
        value = x.exp()
        return value, value, value
    if operation == "log":
        return x.log(), 1 / x, -1 / (x * x)
    if operation == "sqrt":
        root = x.sqrt()
        return root, 1 / (2 * root), -1 / (4 * x * root)
    if operation == "sin":
        return x.sin(), x.cos(), -x.sin()
    if operation == "cos":
        return x.cos(), -x.sin(), -x.cos()
    if operation == "tanh":
        value = x.tanh()
        slope = 1 - value * value
        return value, slope, -2 * value * slope
    if operation == "atan":
        slope = 1 / (1 + x * x)
        return x.atan(), slope, -2 * x * slope * slope
    if operation == "erf":
        from flint import arb

        slope = 2 * (-x * x).exp() / arb.pi().sqrt()
        return x.erf(), slope, -2 * x * slope
    raise ValueError(f"a tape holds the operation {operation!r}, which is not known.")


def rational_unary(operation: str, x: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    # exp, sin and the like of 0, which is where critical points like to be
    at_zero = {
        "exp": (1, 1, 1),
        "sin": (0, 1, 0),
        "cos": (1, 0, -1),
        "tanh": (0, 1, 0),
        "atan": (0, 1, 0),
    }
    if operation in at_zero and x == 0:
        value, first, second = at_zero[operation]
        return Fraction(value), Fraction(first), Fraction(second)
    if operation == "log" and x == 1:
        return Fraction(0), Fraction(1), Fraction(-1)
    if operation == "sqrt" and x > 0:
        root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
        if root * root == x:
            return root, 1 / (2 * root), -1 / (4 * x * root)
    raise Undecided
