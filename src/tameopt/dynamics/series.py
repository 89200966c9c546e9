"""Truncated power series in m variables, and the gradient of a tape evaluated in them (Taylor arithmetic).

A series is an array of shape (order + 1,) * m: entry k is the coefficient of s^k; entries of total degree above the
order are kept 0. Elementary functions follow from E y = f'(u) E u with the Euler operator E = sum s_i d/ds_i,
degree by degree (Griewank and Walther 2008, chapter 13, in several variables).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


class Series:
    """The ring of series in m variables up to a total degree, with elementary functions on it."""

    def __init__(self, m: int, order: int) -> None:
        self.m = m
        self.order = order
        self.shape = (order + 1,) * m
        grid = np.indices(self.shape).sum(axis=0)
        self.degree = np.where(grid <= order, grid, 0)
        self.mask = grid <= order
        self.exponents = sorted(
            (k for k in itertools.product(range(order + 1), repeat=m) if sum(k) <= order),
            key=lambda k: (sum(k), k),
        )

    def constant(self, number: float) -> Array:
        """The series of a number."""
        series = np.zeros(self.shape)
        series[(0,) * self.m] = number
        return series

    def times(self, x: Array, y: Array) -> Array:
        """The product, truncated."""
        result = np.zeros(self.shape)
        for k in zip(*np.nonzero(x), strict=True):
            source = tuple(slice(0, self.order + 1 - int(j)) for j in k)
            target = tuple(slice(int(j), None) for j in k)
            result[target] += x[k] * y[source]
        return np.where(self.mask, result, 0.0)

    def _start(self, x: Array) -> float:
        return float(x[(0,) * self.m])

    def _degreewise(self, first: float, slope: Callable[[Array], Array], u: Array) -> Array:
        """y with E y = slope(y) E u and y(0) = first; slope may use y itself, known up to the degree before."""
        y, euler = self.constant(first), self.degree * u
        for n in range(1, self.order + 1):
            part = self.times(slope(y), euler)
            y = np.where(self.degree == n, np.where(self.mask, part / n, 0.0), y)
        return y

    def inverse(self, u: Array) -> Array:
        """1 / u."""
        first = 1.0 / self._start(u)
        return self._degreewise(first, lambda y: -self.times(y, y), u)

    def power(self, u: Array, exponent: int) -> Array:
        """u^n for n >= 0."""
        result = self.constant(1.0)
        for _ in range(exponent):
            result = self.times(result, u)
        return result

    def function(self, name: str, u: Array) -> tuple[Array, Array]:
        """f(u) and f'(u)."""
        u0 = self._start(u)
        one = self.constant(1.0)
        if name == "exp":
            y = self._degreewise(math.exp(u0), lambda y: y, u)
            return y, y
        if name == "log":
            slope = self.inverse(u)
            return self._degreewise(math.log(u0), lambda _: slope, u), slope
        if name == "sqrt":
            # E y = E u / (2 y)
            y = self._degreewise(math.sqrt(u0), lambda y: 0.5 * self.inverse(y), u)
            return y, 0.5 * self.inverse(y)
        if name in ("sin", "cos"):
            sine, cosine = self._sine_cosine(u)
            return (sine, cosine) if name == "sin" else (cosine, -sine)
        if name == "tanh":
            y = self._degreewise(math.tanh(u0), lambda y: one - self.times(y, y), u)
            return y, one - self.times(y, y)
        if name == "atan":
            slope = self.inverse(one + self.times(u, u))
            return self._degreewise(math.atan(u0), lambda _: slope, u), slope
        if name == "erf":
            slope = 2 / math.sqrt(math.pi) * self.function("exp", -self.times(u, u))[0]
            return self._degreewise(math.erf(u0), lambda _: slope, u), slope
        raise ValueError(f"no power series of {name!r} is known here.")

    def _sine_cosine(self, u: Array) -> tuple[Array, Array]:
        sine, cosine = self.constant(math.sin(self._start(u))), self.constant(math.cos(self._start(u)))
        euler = self.degree * u
        for n in range(1, self.order + 1):
            now = self.mask & (self.degree == n)
            up, down = self.times(cosine, euler) / n, -self.times(sine, euler) / n
            sine, cosine = np.where(now, up, sine), np.where(now, down, cosine)
        return sine, cosine


def run(tape: list[list[Any]], ring: Series, point: list[Array]) -> tuple[Array, list[Array]]:
    """The value of a tape and its gradient along the variables, for variables that are series.

    Raises ValueError where a branch is tied at the expansion point.
    """
    values, slopes = _forward(tape, ring, point)
    adjoints: list[Array | None] = [None] * len(tape)
    adjoints[-1] = ring.constant(1.0)
    gradient = [np.zeros(ring.shape) for _ in point]
    for place in range(len(tape) - 1, -1, -1):
        adjoint = adjoints[place]
        if adjoint is None:
            continue
        if tape[place][0] == "var":
            gradient[tape[place][1]] += adjoint
            continue
        for source, slope in slopes[place]:
            part = adjoint if slope is None else ring.times(slope, adjoint)
            known = adjoints[source]
            adjoints[source] = part if known is None else known + part
    return values[-1], gradient


def _forward(
    tape: list[list[Any]], ring: Series, point: list[Array]
) -> tuple[list[Array], list[list[tuple[int, Array | None]]]]:
    """Values of all entries, and for each the entries it depends on with the partial derivative (None: 1)."""
    values: list[Array] = []
    slopes: list[list[tuple[int, Array | None]]] = []
    minus = ring.constant(-1.0)
    for operation, *arguments in tape:
        if operation == "const":
            values.append(ring.constant(float.fromhex(arguments[0])))
            slopes.append([])
        elif operation == "var":
            values.append(point[arguments[0]])
            slopes.append([])
        elif operation in ("add", "sub"):
            a, b = arguments
            values.append(values[a] + values[b] if operation == "add" else values[a] - values[b])
            slopes.append([(a, None), (b, None if operation == "add" else minus)])
        elif operation == "mul":
            a, b = arguments
            values.append(ring.times(values[a], values[b]))
            slopes.append([(a, values[b]), (b, values[a])])
        elif operation == "div":
            a, b = arguments
            inverse = ring.inverse(values[b])
            quotient = ring.times(values[a], inverse)
            values.append(quotient)
            slopes.append([(a, inverse), (b, -ring.times(quotient, inverse))])
        elif operation == "neg":
            values.append(-values[arguments[0]])
            slopes.append([(arguments[0], minus)])
        elif operation == "pow":
            a, n = arguments
            lower = ring.power(values[a], n - 1)
            values.append(ring.times(lower, values[a]))
            slopes.append([(a, n * lower)])
        elif operation == "if_less":
            a, b, then, otherwise = arguments
            left, right = values[a].flat[0], values[b].flat[0]
            if left == right:
                raise ValueError("a branch of the function is tied at the point: it is not smooth there.")
            taken = then if left < right else otherwise
            values.append(values[taken])
            slopes.append([(taken, None)])
        else:
            value, slope = ring.function(operation, values[arguments[0]])
            values.append(value)
            slopes.append([(arguments[0], slope)])
    return values, slopes
