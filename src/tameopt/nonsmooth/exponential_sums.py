"""Zeros of sum_i P_i(t) exp(-w_i t), none missed: between two zeros of (d/dt + w) f there is at most one of f.

exp(w t) f is monotone where (d/dt + w) f has one sign (Rolle), and that operator lowers the degree of the polynomial
at w. Applied until one term is left it isolates every zero; each is then found by a safeguarded root finder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tameopt.extras import require

Array = np.ndarray


@dataclass(frozen=True)
class ExponentialSum:
    """sum_i polys[i](t) exp(-rates[i] t); polys[i]: coefficients from the constant up; rates distinct."""

    rates: tuple[float, ...]
    polys: tuple[Array, ...]

    @staticmethod
    def of(terms: Sequence[tuple[float, Sequence[float] | Array]]) -> ExponentialSum:
        """From (rate, polynomial) pairs; equal rates are joined, zero polynomials dropped."""
        joined: dict[float, Array] = {}
        for rate, poly in terms:
            old, new = joined.get(rate, np.zeros(0)), np.asarray(poly, dtype=float)
            size = max(len(old), len(new))
            joined[rate] = np.pad(old, (0, size - len(old))) + np.pad(new, (0, size - len(new)))
        kept = {rate: np.trim_zeros(poly, "b") for rate, poly in joined.items()}
        kept = {rate: poly for rate, poly in kept.items() if len(poly)}
        return ExponentialSum(tuple(kept), tuple(kept.values()))

    def scaled_at(self, t: float) -> float:
        """Its value at t over exp(max_i -w_i t): the same sign, and no overflow."""
        exponents = -t * np.array(self.rates)
        values = np.array([np.polynomial.polynomial.polyval(t, poly) for poly in self.polys])
        return float(np.exp(exponents - exponents.max()) @ values)

    def zeros(self, end: float) -> list[float]:
        """All zeros in (0, end), increasing; a zero without change of sign may be left out."""
        if not self.rates or (len(self.rates) == 1 and len(self.polys[0]) == 1):
            return []
        first = self.rates[0]
        lower = [
            (rate, np.append(poly[1:] * np.arange(1, len(poly)), 0.0) + (first - rate) * poly)
            for rate, poly in zip(self.rates, self.polys, strict=True)
        ]
        size = max(float(np.abs(poly).max()) for _, poly in lower) or 1.0
        turns = ExponentialSum.of([(rate, poly / size) for rate, poly in lower]).zeros(end)
        return crossings(self.scaled_at, [0.0, *turns, end])


def crossings(f: Callable[[float], float], nodes: Sequence[float]) -> list[float]:
    """Zeros of f strictly inside (nodes[0], nodes[-1]), at most one between neighbours, where f is monotone."""
    optimize = require("scipy.optimize", "event times")
    found: list[float] = []
    left, at_left = nodes[0], f(nodes[0])
    for right in nodes[1:]:
        at_right = f(right)
        if at_left * at_right < 0:
            found.append(float(optimize.brentq(f, left, right, xtol=1e-300, rtol=4 * np.finfo(float).eps)))
        elif at_right == 0 and right < nodes[-1]:
            found.append(right)
        left, at_left = right, at_right
    return found
