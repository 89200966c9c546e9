"""Exponents measured in high precision: arcs on which norm(grad f) is least on the level sets f = +-2^-k, k growing.

Where norm(grad f) is critical on a level set, H grad f = lambda grad f. Solutions x_k of this system are followed
to the origin; by the curve selection lemma log norm(grad f(x_k)) / log(2^-k) tends to ord(grad f)/ord(f) along each
arc, a rational number, and no arc gives more than the exponent. Starts are random, so that the worst arc may be
missed: a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from tameopt.extras import require
from tameopt.kl.polynomial import Polynomial

_LEVELS = (8, 10, 13, 17, 22, 29, 38, 50, 66, 88, 120, 160, 220, 300)  # k of f = +-2^-k
LAST_LEVEL = _LEVELS[-1]
_BITS = 5  # our choice: of precision a bit of the level, since f may be a difference of much larger terms
_STARTS = 48
_FIRST = (8, 17, 29)  # levels at which arcs are started: an arc may be worst only further in


@dataclass(frozen=True)
class Arc:
    """An arc that was followed: slope of log norm(grad f) on log abs(f), its error, and where it was at the last
    level."""

    slope: float
    error: float
    sign: int
    point: tuple[float, ...]


def _numbers(f: Polynomial) -> Callable[[Any, Callable[[Fraction], Any]], Any]:
    """f for fast evaluation on a list of numbers, its coefficients cast to their kind."""
    rows = [([(j, power) for j, power in enumerate(e) if power], c) for e, c in f.terms.items()]

    def value(x: Any, cast: Callable[[Fraction], Any]) -> Any:
        total: Any = 0
        for factors, c in rows:
            term = cast(c)
            for j, power in factors:
                term = term * x[j] ** power
            total = total + term
        return total

    return value


@dataclass(frozen=True)
class _System:
    """The system H grad f = lambda grad f, f = level: values, gradient, Hessian and third derivatives of f."""

    n: int
    value: Any
    first: list[Any]
    second: list[list[Any]]
    third: list[list[list[Any]]]

    @staticmethod
    def of(f: Polynomial) -> _System:
        n = len(f.variables)
        first = [f.derivative(i) for i in range(n)]
        second = [[g.derivative(j) for j in range(n)] for g in first]
        third = [[[h.derivative(k) for k in range(n)] for h in row] for row in second]
        return _System(
            n,
            _numbers(f),
            [_numbers(g) for g in first],
            [[_numbers(h) for h in row] for row in second],
            [[[_numbers(t) for t in row] for row in plane] for plane in third],
        )

    def residual(self, x: list[Any], multiplier: Any, level: Any, cast: Any) -> tuple[list[Any], list[list[Any]]]:
        """(n + 1,) residual, each equation relative to its size, and its Jacobian in (x, lambda)."""
        n, g = self.n, [function(x, cast) for function in self.first]
        H = [[self.second[i][j](x, cast) for j in range(i + 1)] for i in range(n)]
        H = [[H[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)]
        out = [sum(H[i][j] * g[j] for j in range(n)) - multiplier * g[i] for i in range(n)]
        rows = []
        for i in range(n):
            row = []
            for k in range(n):
                entry = sum(H[i][j] * H[j][k] for j in range(n)) - multiplier * H[i][k]
                for j in range(n):
                    entry = entry + self.third[i][j][k](x, cast) * g[j]
                row.append(entry)
            rows.append([*row, -g[i]])
        out.append(self.value(x, cast) - level)
        rows.append([*g, 0 * multiplier])
        return out, rows


def _start(system: _System, k: int, sign: int, generator: np.random.Generator) -> np.ndarray | None:
    """(n + 1,) a solution (x, lambda) at level 2^-k in float64, by Levenberg-Marquardt from a random point.

    The coordinates of the point are powers of the level with random exponents, some of them 0: arcs come in like
    that.
    """
    n, level = system.n, sign * 2.0**-k
    x = np.sign(generator.standard_normal(n)) * 2.0 ** (-k * generator.uniform(0.05, 0.6, n))
    x *= generator.random(n) < 0.75 if generator.random() < 0.5 else 1.0
    x *= np.where(x == 0, 1.0, np.exp(0.3 * generator.standard_normal(n)))

    def scaled(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out, rows = system.residual(list(u[:n]), u[n], level, float)
        size = max(float(np.linalg.norm([g(list(u[:n]), float) for g in system.first])), 1e-12)
        weights = np.array([1 / size] * n + [1 / abs(level)])
        return np.array(out, dtype=float) * weights, np.array(rows, dtype=float) * weights[:, None]

    gradient = np.array([g(list(x), float) for g in system.first])
    H = np.array([[h(list(x), float) for h in row] for row in system.second])
    u = np.append(x, gradient @ H @ gradient / max(float(gradient @ gradient), 1e-30))
    damping, (r, J) = 1e-2, scaled(u)
    for _ in range(60):
        cost = float(r @ r)
        if not math.isfinite(cost) or np.linalg.norm(u[:n]) > 2:
            return None
        if cost < 1e-20:
            return u if 0 < np.linalg.norm(u[:n]) < 0.9 else None
        matrix = J.T @ J
        for _ in range(8):
            step = np.linalg.solve(matrix + damping * (np.diag(np.diag(matrix)) + 1e-14 * np.eye(n + 1)), -J.T @ r)
            found = scaled(u + step)
            if float(found[0] @ found[0]) < cost:
                u, (r, J), damping = u + step, found, max(damping / 9, 1e-12)
                break
            damping *= 8
        else:
            return None
    return None


def _follow(system: _System, start: np.ndarray, first: int, sign: int) -> Arc | None:
    """The arc from a start at level 2^-first to the last; None when it is lost or does not come to the origin."""
    mpmath = require("mpmath", "exponents in three and more variables")
    mp = mpmath.mp
    n = system.n
    kept: list[tuple[int, list[Any], Any]] = []  # (k, x and lambda, log2 of norm(grad f))
    with mpmath.workprec(200 + _BITS * _LEVELS[-1]):
        u = [mpmath.mpf(float(c)) for c in start]
        for k in _LEVELS[_LEVELS.index(first) :]:
            mp.prec = 120 + _BITS * k
            if len(kept) >= 2:
                u = _extrapolated(kept, k, mpmath)
            elif kept:
                u = kept[-1][1]
            solved = _newton(system, u, mpmath.mpf(sign) * mpmath.ldexp(1, -k), mpmath)
            if solved is None:
                return None
            u = solved
            norm = mpmath.sqrt(sum(g(u[:n], _cast(mpmath)) ** 2 for g in system.first))
            if norm == 0:
                return None
            kept.append((k, u, mpmath.log(norm, 2)))
        sizes = [float(mpmath.log(mpmath.sqrt(sum(c * c for c in x[:n])), 2)) for _, x, _ in kept]
        # the origin is reached like a power of the level, a point elsewhere is not
        if not sizes[-1] < sizes[-3] - 1.0:
            return None
        slopes = [-float((kept[i + 1][2] - kept[i][2]) / (kept[i + 1][0] - kept[i][0])) for i in (-3, -2)]
        point = tuple(float(c) for c in u[:n])
    return Arc(slopes[1], abs(slopes[1] - slopes[0]) + 1e-12, sign, point)


def _cast(mpmath: Any) -> Callable[[Fraction], Any]:
    return lambda c: mpmath.mpf(c.numerator) / c.denominator


def _extrapolated(kept: list[tuple[int, list[Any], Any]], k: int, mpmath: Any) -> list[Any]:
    """Each coordinate continued as a power of the level, from the last two levels."""
    (k0, u0, _), (k1, u1, _) = kept[-2:]
    share = mpmath.mpf(k - k1) / (k1 - k0)
    return [
        b * (b / a) ** share if a != 0 and b / a > 0 else b * mpmath.ldexp(1, -(k - k1))
        for a, b in zip(u0, u1, strict=True)
    ]


def _newton(system: _System, u: list[Any], level: Any, mpmath: Any) -> list[Any] | None:
    """Newton's method, each unknown scaled by its size; a tiny ridge keeps families of solutions regular."""
    n, cast = system.n, _cast(mpmath)
    for _ in range(40):
        out, rows = system.residual(u[:n], u[n], level, cast)
        scales = [abs(c) if c != 0 else abs(level) for c in u]
        sizes = [max(abs(entry * s) for entry, s in zip(row, scales, strict=True)) for row in rows]
        if any(size == 0 for size in sizes):
            return None
        J = mpmath.matrix(
            [[e * s / size for e, s in zip(row, scales, strict=True)] for row, size in zip(rows, sizes, strict=True)]
        )
        r = mpmath.matrix([entry / size for entry, size in zip(out, sizes, strict=True)])
        worst = max(abs(entry) for entry in r)
        if worst < mpmath.ldexp(1, -(mpmath.mp.prec // 3)):
            return u
        try:
            gram = J.T * J + mpmath.ldexp(1, -(mpmath.mp.prec // 2)) * mpmath.eye(n + 1)
            step = mpmath.lu_solve(gram, -(J.T * r))
        except ZeroDivisionError:
            return None
        largest = max(abs(entry) for entry in step)
        damp = 1 if largest < 0.5 else mpmath.mpf(0.5) / largest
        u = [c + damp * s * d for c, s, d in zip(u, scales, step, strict=True)]
    return None


def worst_arc(f: Polynomial, seed: int = 0, starts: int = _STARTS) -> tuple[Arc | None, int]:
    """The arc with the largest slope, and how many arcs reached the origin.

    f: with f(0) = 0 and grad f(0) = 0. Cost: seconds to a minute.
    """
    system = _System.of(f)
    generator = np.random.default_rng(seed)
    found: list[Arc] = []
    seen: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        for attempt in range(starts):
            k = _FIRST[attempt % len(_FIRST)]
            for sign in (1, -1):
                start = _start(system, k, sign, generator)
                # the same arc up to the signs of its coordinates is followed once
                if start is None or any(np.allclose(np.abs(start), other, rtol=1e-4, atol=1e-12) for other in seen):
                    continue
                seen.append(np.abs(start))
                arc = _follow(system, start, k, sign)
                if arc is not None:
                    found.append(arc)
    return max(found, key=lambda arc: arc.slope, default=None), len(found)


def simplest(slope: float, error: float) -> Fraction | None:
    """The rational of least denominator within the error of a slope, when no other as simple lies near; else None.

    >>> simplest(0.87500001, 1e-5)
    Fraction(7, 8)
    """
    low, high = Fraction(slope - error), Fraction(slope + error)
    for denominator in range(1, 2000):
        numerator = math.ceil(low * denominator)
        if Fraction(numerator, denominator) <= high:
            # two rationals with denominators up to q differ by 1/q^2 at least
            return Fraction(numerator, denominator) if 4 * error * denominator**2 < 1 else None
    return None
