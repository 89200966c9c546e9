"""The flow x' = -g - H (x - x0) on a flat piece, in closed form, with the times at which functions of x vanish."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tameopt.nonsmooth.exponential_sums import ExponentialSum, crossings

Array = np.ndarray

_FLAT = 1e-14  # a curvature below this share of the largest is 0: our choice, a hundred roundings
_TOUCH = 1e-12  # a function that comes this near 0, relative to its size, touches it: our choice


def grown(rates: Array, t: float) -> Array:
    """The integral of exp(-w s) over s in [0, t]: t phi_1(-w t), without cancellation."""
    z = -rates * t
    small = np.abs(z) < 1e-300
    return np.asarray(t * np.where(small, 1.0, np.expm1(z) / np.where(small, 1.0, z)), dtype=float)


@dataclass(frozen=True)
class Function:
    """value + <slope, x - x0> + (x - x0)^T bend (x - x0) / 2; bend None where it is affine.

    sign: its sign just after x0 when its value there is 0 up to rounding (it is then taken as 0), else 0.
    """

    value: float
    slope: Array
    bend: Array | None = None
    sign: int = 0

    def at(self, moved: Array) -> float:
        """Its value at x0 + moved."""
        start = 0.0 if self.sign else self.value
        curve = 0.0 if self.bend is None else float(moved @ self.bend @ moved) / 2
        return start + float(self.slope @ moved) + curve


@dataclass(frozen=True)
class LinearFlow:
    """x(t) = x0 - directions @ (speeds * integral of exp(-rates s)): directions (d, q) orthonormal, rates (q,)."""

    directions: Array
    rates: Array
    speeds: Array

    @staticmethod
    def of(tangent: Array, gradient: Array, hessian: Array) -> LinearFlow:
        """The projected flow on x0 + span(tangent), tangent: (d, q) orthonormal."""
        rates, turned = (
            np.linalg.eigh(tangent.T @ hessian @ tangent) if tangent.shape[1] else (np.zeros(0), np.eye(0))
        )
        largest = float(np.abs(hessian).max(initial=0.0))
        rates = np.where(np.abs(rates) <= _FLAT * largest, 0.0, rates)
        directions = tangent @ turned
        return LinearFlow(directions, rates, directions.T @ gradient)

    @property
    def velocity(self) -> Array:
        """x'(0): (d,)."""
        return np.asarray(-self.directions @ self.speeds)

    def moved(self, t: float) -> Array:
        """x(t) - x0: (d,)."""
        return np.asarray(-self.directions @ (self.speeds * grown(self.rates, t)))

    def velocity_at(self, t: float) -> Array:
        """x'(t): (d,)."""
        return np.asarray(-self.directions @ (self.speeds * np.exp(-self.rates * t)))

    def action(self, t: float) -> float:
        """The integral of norm(x')^2 up to t."""
        return float(self.speeds**2 @ grown(2 * self.rates, t))

    def sign_after(self, slope: Array, size: float) -> int:
        """The sign of <slope, x(t) - x0> for small t > 0, by its first derivative that is not 0; 0 if all are.

        size: that of the gradients, below whose rounding a derivative counts as 0.
        """
        weights = -(slope @ self.directions) * self.speeds
        fastest = float(np.abs(self.rates).max(initial=0.0))
        for order in range(len(self.rates)):
            derivative = float(weights @ (-self.rates) ** order)
            if abs(derivative) > 1e-12 * float(np.linalg.norm(slope)) * size * fastest**order:
                return 1 if derivative > 0 else -1
        return 0

    def _derivative(self, f: Function) -> ExponentialSum:
        """d/dt f(x(t)) as a sum of exponentials."""
        linear = (f.slope @ self.directions) * self.speeds
        terms: list[tuple[float, list[float]]] = [
            (float(w), [-float(a)]) for w, a in zip(self.rates, linear, strict=True)
        ]
        if f.bend is not None:
            bend = (self.directions.T @ f.bend @ self.directions) * np.outer(self.speeds, self.speeds)
            for i, w in enumerate(self.rates.tolist()):
                for j, v in enumerate(self.rates.tolist()):
                    # e^{-w t} times the integral of e^{-v s}
                    q = float(bend[i, j])
                    terms += [(w, [0.0, q])] if v == 0 else [(w, [q / v]), (w + v, [-q / v])]
        return ExponentialSum.of(terms)

    def first_zero(self, f: Function, end: float) -> float:
        """The first t in (0, end) at which f(x(t)) vanishes, touching included; inf when there is none."""
        if end <= 0:
            return math.inf
        turns = self._derivative(f).zeros(end)
        sign = f.sign or (1 if f.value > 0 else -1)
        size = abs(f.value) + float(np.abs((f.slope @ self.directions) * self.speeds * grown(self.rates, end)).sum())
        left = 0.0
        for right in [*turns, end]:
            at = f.at(self.moved(right))
            if at * sign < 0:
                found = crossings(lambda t: sign if t == 0 else f.at(self.moved(t)), [left, right])
                return found[0] if found else right
            if right < end and abs(at) <= _TOUCH * size:
                return right
            left = right
        return math.inf
