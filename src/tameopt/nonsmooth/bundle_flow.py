"""The subgradient flow of a convex F without its proximal map: proximal Euler, each step found by a bundle of planes.

    U_n = U_{n-1} - h g_n,  g_n = sum w_i g_i,  F >= F(U_n) - eps_n + <g_n, . - U_n>

Planes F(u_i) + <g_i, u - u_i> lie below a convex F; a combination of them with weights w is the last inequality, its
eps_n known. With E_n = (F(U_{n-1}) - F(U_n)) / h - norm(g_n)^2 the flow theta obeys, at every time,
norm(theta - U)^2 <= sum h^2 max(E_n, 0) + 2 h eps_n: the proof of Nochetto, Savare & Verdi (2000) with eps_n carried
along (d/dt norm(theta - U)^2 / 2 <= F(U(t)) - F(U_n) + eps_n - <g_n, U(t) - U_n>, F convex between U_{n-1} and U_n).
A plane found above F shows that F is not convex; then the flow is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from tameopt.nonsmooth.min_norm import min_norm
from tameopt.nonsmooth.safe_gradient import SafeGradient
from tameopt.nonsmooth.trajectory import Inclusion
from tameopt.problem import Problem

_MOST_CUTS = 40  # planes added in one step; a step given up there is counted with its own eps: our choice
_KEPT = 12  # planes carried over, beyond twice the dimension: our choice
_SHARE = 1e-3  # eps_n over h norm(g_1)^2: our choice, a thousandth of what the steps themselves cost
_LIFT = 30.0  # size of the added coordinate over that of the others: see `_weights`


class NotConvex(ValueError):
    """A plane that lies above F somewhere; the message says where."""


class _Planes:
    """The planes found so far: points, values and gradients; each new one is held against all others."""

    def __init__(self, F: Callable[[torch.Tensor], torch.Tensor], x0: np.ndarray) -> None:
        self._F = F
        self._gradient = SafeGradient(Problem.from_function(F, torch.from_numpy(x0)))
        self.points, self.values, self.gradients = (np.empty((0, n)) for n in (len(x0), 1, len(x0)))

    def add(self, u: np.ndarray) -> float:
        """Evaluate at u; F(u). Raises NotConvex."""
        at = torch.from_numpy(u.copy())
        value, g = float(self._F(at)), self._gradient(at).numpy()
        if not math.isfinite(value) or not np.isfinite(g).all():
            raise NotConvex(f"F is not finite at {u.tolist()}")
        tolerance = 1e-9 * (1 + abs(value) + np.abs(self.values).max(initial=0.0))
        ahead = self.values[:, 0] + np.einsum("ij,ij->i", self.gradients, u - self.points) - value
        behind = value + (self.points - u) @ g - self.values[:, 0]
        if max(ahead.max(initial=0.0), behind.max(initial=0.0)) > tolerance:
            raise NotConvex(f"F is not convex: a tangent plane lies above it near {u.tolist()}")
        self.points = np.vstack([self.points, u])
        self.values = np.vstack([self.values, [[value]]])
        self.gradients = np.vstack([self.gradients, g])
        return value

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other planes."""
        self.points, self.values, self.gradients = self.points[rows], self.values[rows], self.gradients[rows]


def bundle_flow(
    F: Callable[[torch.Tensor], torch.Tensor], x0: np.ndarray, wanted: Sequence[float], steps: int
) -> Inclusion:
    """Proximal Euler steps for F: (d,) -> scalar from x0: (d,) at increasing times >= 0; `error` bounds the distance.

    Raises NotConvex for a witness against convexity, ValueError for operators that `safe_gradient` does not know.
    Cost: a few gradients and least-norm points a step.
    """
    end = float(wanted[-1])
    h = end / steps if end else 1.0
    planes = _Planes(F, x0)
    start = value = planes.add(x0)
    allowed = _SHARE * h * float(planes.gradients[0] @ planes.gradients[0])
    x, nodes, bound, spent = x0, [x0], 0.0, 0.0
    for _ in range(steps if end else 0):
        new, new_value, eps = _step(planes, x, value, h, allowed)
        squared = float((new - x) @ (new - x)) / h
        bound += h * max(0.0, value - new_value - squared) + 2 * h * eps
        spent += squared
        x, value = new, new_value
        nodes.append(x)
    at = np.array([float(t) for t in wanted])
    grid = np.stack(nodes)
    columns = [np.interp(at, h * np.arange(len(nodes)), grid[:, j]) for j in range(grid.shape[1])]
    return Inclusion(at, np.stack(columns, 1), (), "bundle", True, value - start + spent, math.sqrt(bound))


def _step(planes: _Planes, x: np.ndarray, value: float, h: float, allowed: float) -> tuple[np.ndarray, float, float]:
    """The step from x, its value, and its eps."""
    best: tuple[float, np.ndarray, float] = (math.inf, x, value)
    for _ in range(_MOST_CUTS):
        slack = value - planes.values[:, 0] - np.einsum("ij,ij->i", planes.gradients, x - planes.points)
        slack = np.maximum(slack, 0.0)
        w = _weights(planes.gradients, slack, h)
        g = w @ planes.gradients
        u = x - h * g
        u_value = planes.add(u)
        # the combined plane at u is value - <w, slack> + <g, u - x>
        eps = max(0.0, u_value - value + float(w @ slack) + h * float(g @ g))
        best = min(best, (eps, u, u_value), key=lambda one: one[0])
        if eps <= allowed + 1e-15 * abs(value):
            break
    most = 2 * len(x) + _KEPT
    if len(planes.values) > most:
        used = np.argsort(np.append(w, np.inf))[-most:]  # those that carry the step, and the newest
        planes.keep(np.sort(used))
    return best[1], best[2], best[0]


def _weights(gradients: np.ndarray, slack: np.ndarray, h: float) -> np.ndarray:
    """w >= 0 of sum 1 that minimises h norm(sum w_i g_i)^2 / 2 + sum w_i e_i, as a least-norm point.

    The points (sqrt(h) g_i, a + e_i / a) have squared norm a^2 + twice that, and (sum w_i e_i)^2 / a^2 more: the e_i
    are divided by 1 + (sum w_i e_i) / a^2, which makes the optimality conditions the same.
    """
    lifted = math.sqrt(h) * gradients
    a = _LIFT * max(float(np.abs(lifted).max()), 1e-150)
    scale = 1.0
    w = np.empty(0)
    for _ in range(3):
        w = np.asarray(min_norm(np.column_stack([lifted, a + slack / scale / a])).weights, dtype=float)
        scale = 1.0 + float(w @ slack) / scale / a**2
    return w
