"""Stable and unstable manifolds of a fixed point of a map, by the parameterisation method.

W: R^m -> R^d and a polynomial p: R^m -> R^m are found order by order with T(W(s)) = W(p(s)), W(0) the fixed
point, DW(0) an eigenbasis and Dp(0) its eigenvalues (Cabre, Fontich and de la Llave 2003, 2005; Haro et al. 2016).
Terms of p beyond the linear ones are taken only where a resonance lambda^k = lambda_i forbids solving for W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.curvature.tape import tape_of
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.iterate import Map, batched, jacobian
from tameopt.dynamics.series import Series, run
from tameopt.problem import Problem

Exponents = tuple[int, ...]


class NotHyperbolicError(ValueError):
    """The point is no fixed point, or has an eigenvalue too close to the unit circle; the message says which."""


@dataclass(frozen=True)
class InvariantManifold:
    """W(s) = sum_k W_k s^k, a local invariant manifold of T through a fixed point.

    fixed_point: (d,). eigenvalues: (m,) those of DT along it. exponents: K multi-indices. coefficients: (K, d) W_k.
    inner: (K, m), the coefficients of p, the dynamics on the manifold. order: of the polynomial.
    radius: for norm(s)_inf <= radius the sampled residual norm(T(W(s)) - W(p(s))) is at most `residual`; with the
        scaling of the eigenvectors chosen here. kind: "stable" or "unstable".
    """

    fixed_point: torch.Tensor
    eigenvalues: torch.Tensor
    exponents: tuple[Exponents, ...]
    coefficients: torch.Tensor
    inner: torch.Tensor
    order: int
    radius: float
    residual: float
    kind: str

    @property
    def dimension(self) -> int:
        """m."""
        return int(self.eigenvalues.numel())

    def __call__(self, s: torch.Tensor) -> torch.Tensor:
        """W(s) for s: (m,) or (n, m), in the fixed point's dtype."""
        block = torch.atleast_2d(s.to(self.coefficients))
        points = _monomials(block, self.exponents) @ self.coefficients
        return points[0] if s.ndim == 1 else points

    def dynamics(self, s: torch.Tensor) -> torch.Tensor:
        """p(s): where T takes the point with parameter s."""
        block = torch.atleast_2d(s.to(self.inner))
        moved = _monomials(block, self.exponents) @ self.inner
        return moved[0] if s.ndim == 1 else moved

    def tangent(self) -> torch.Tensor:
        """(d, m) DW(0), eigenvectors of DT."""
        units = [tuple(int(i == j) for j in range(self.dimension)) for i in range(self.dimension)]
        return self.coefficients[[self.exponents.index(unit) for unit in units]].T

    def __repr__(self) -> str:
        return (
            f"InvariantManifold({self.kind}, dimension {self.dimension}, order {self.order}, "
            f"radius {self.radius:.3g}, residual {self.residual:.1e})"
        )


def stable_manifold(
    T: GradientMap | Map, fixed_point: torch.Tensor, order: int = 10, *, residual: float = 1e-10
) -> InvariantManifold:
    """The local stable manifold of a hyperbolic fixed point of T, as a polynomial of the given order.

    T: a GradientMap or a map of a (d,) tensor, smooth at the point and made of the operators that a tape holds
    (`curvature.tape`): its Taylor series is computed by arithmetic on series, to rounding.
    residual: the largest invariance error allowed on the box whose `radius` is reported.

    The point is polished by Newton's method. Raises NotHyperbolicError when it is not fixed (norm(T(x) - x) > 1e-8)
    or an eigenvalue lies within 1e-6 of the unit circle, ValueError for order < 1, for complex eigenvalues or a
    Jordan block along the manifold, or naming the operator that has no series here. Cost: order^(2m + 1) operations
    for each entry of the tape, m the dimension of the manifold (1 or 2, 3 at most).

    >>> T = lambda x: torch.stack([0.5 * x[0], 2.0 * x[1] + (0.25 - 2.0) * x[0] ** 2])
    >>> W = stable_manifold(T, torch.zeros(2, dtype=torch.float64), 4)
    >>> x, y = W(torch.tensor([0.3], dtype=torch.float64)).tolist()
    >>> abs(y - x**2) < 1e-12
    True
    """
    return _manifold(T, fixed_point, order, residual, "stable")


def unstable_manifold(
    T: GradientMap | Map, fixed_point: torch.Tensor, order: int = 10, *, residual: float = 1e-10
) -> InvariantManifold:
    """The local unstable manifold; as `stable_manifold`, with the eigenvalues of modulus above 1."""
    return _manifold(T, fixed_point, order, residual, "unstable")


def _monomials(s: torch.Tensor, exponents: tuple[Exponents, ...]) -> torch.Tensor:
    """(n, K) the values of s^k."""
    powers = torch.tensor(exponents, dtype=s.dtype, device=s.device)
    return (s[:, None, :] ** powers[None]).prod(dim=2)


def _manifold(
    T: GradientMap | Map, fixed_point: torch.Tensor, order: int, allowed: float, kind: str
) -> InvariantManifold:
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}.")
    if fixed_point.ndim != 1:
        raise ValueError(f"a fixed point must have shape (d,), got {tuple(fixed_point.shape)}.")
    center = fixed_point.detach().double()
    distance = float((T(center) - center).norm())
    if not distance <= 1e-8 * max(1.0, float(center.norm())):
        raise NotHyperbolicError(
            f"norm(T(x) - x) must be 0 at a fixed point, got {distance:.3g}: find one with "
            "tame.curvature.find_critical_points first."
        )
    values, vectors = _eigen(T, center)
    nearest = float(np.abs(np.abs(values) - 1).min())
    if nearest < 1e-6:
        raise NotHyperbolicError(
            f"no eigenvalue of DT may lie on the unit circle, one has modulus 1 to within {nearest:.1e}: the fixed "
            "point is not hyperbolic, and its stable set need not be a manifold."
        )
    inside = np.abs(values) < 1 if kind == "stable" else np.abs(values) > 1
    if not inside.any():
        raise ValueError(
            f"the fixed point has no {kind} direction: all moduli are {'above' if kind == 'stable' else 'below'} 1."
        )
    if np.abs(values[inside].imag).max() > 1e-12:
        raise ValueError("complex eigenvalues along the manifold are not covered: gradient maps have none.")
    condition = float(np.linalg.cond(vectors))
    if condition > 1e8:
        raise ValueError(
            "DT must have independent eigenvectors at the fixed point, the condition of their basis is "
            f"{condition:.1e}: a Jordan block is not covered; gradient maps have none."
        )
    center = _polished(T, center)
    values, vectors = _eigen(T, center)
    solver = _Parameterisation(
        _SeriesMap(T, center), batched(T, center[None]), center, values, vectors, inside, order
    )
    return solver.solve(allowed, kind)


def _eigen(T: GradientMap | Map, point: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of DT: orthonormal ones of a gradient map, whose DT is symmetric."""
    matrix = jacobian(T, point).detach().double().cpu().numpy()
    if isinstance(T, GradientMap):
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return values, vectors
    values, vectors = np.linalg.eig(matrix)
    return values, vectors


def _polished(T: GradientMap | Map, point: torch.Tensor) -> torch.Tensor:
    """Two Newton steps on T(x) - x, whose Jacobian is regular at a hyperbolic point."""
    for _ in range(2):
        rest = T(point) - point
        point = point - torch.linalg.solve(jacobian(T, point) - torch.eye(point.numel()).to(point), rest).detach()
    return point


class _SeriesMap:
    """T on power series: by the gradient of F's tape, or by the tapes of T's components."""

    def __init__(self, T: GradientMap | Map, center: torch.Tensor) -> None:
        self.alpha: float | None = None
        if isinstance(T, GradientMap):
            self.alpha = T.alpha
            self.tapes = [tape_of(T.problem(center), center)]
            return
        self.tapes = [
            tape_of(Problem.from_function(lambda x, i=i: T(x)[i], center), center)  # type: ignore[misc]
            for i in range(center.numel())
        ]

    def __call__(self, ring: Series, point: list[np.ndarray]) -> list[np.ndarray]:
        if self.alpha is None:
            return [run(tape, ring, point)[0] for tape in self.tapes]
        gradient = run(self.tapes[0], ring, point)[1]
        return [x - self.alpha * g for x, g in zip(point, gradient, strict=True)]


class _Parameterisation:
    """Order by order in eigencoordinates: (DT - lambda^k) W_k = - [T(W_{<k}) - W_{<k}(p)]_k."""

    def __init__(
        self,
        on_series: _SeriesMap,
        step: Callable[[torch.Tensor], torch.Tensor],
        center: torch.Tensor,
        values: np.ndarray,
        vectors: np.ndarray,
        inside: np.ndarray,
        order: int,
    ) -> None:
        self.on_series = on_series
        self.step = step
        self.center = center
        self.order = order
        self.values = values
        self.vectors = vectors
        self.inside = np.flatnonzero(inside)
        self.m = int(inside.sum())
        self.ring = Series(self.m, order)
        self.exponents = tuple(self.ring.exponents)
        self.place = {k: j for j, k in enumerate(self.exponents)}
        K, d = len(self.exponents), center.numel()
        self.W = torch.zeros(K, d, dtype=torch.float64)
        self.p = torch.zeros(K, self.m, dtype=torch.float64)

    def solve(self, allowed: float, kind: str) -> InvariantManifold:
        self.W[0] = self.center.cpu()
        linear = [k for k in self.exponents if sum(k) == 1]
        for k in linear:
            i = k.index(1)
            self.W[self.place[k]] = torch.from_numpy(self.vectors[:, self.inside[i]].real.copy())
            self.p[self.place[k], i] = float(self.values[self.inside[i]].real)
        inverse = np.linalg.inv(self.vectors)
        for degree in range(2, self.order + 1):
            terms = [k for k in self.exponents if sum(k) == degree]
            rest = self._defect(degree)
            for k in terms:
                self._term(k, inverse @ rest[self.place[k]].numpy().astype(complex))
        radius, residual = self._radius(allowed)
        return InvariantManifold(
            fixed_point=self.center,
            eigenvalues=torch.from_numpy(self.values[self.inside].real.copy()),
            exponents=self.exponents,
            coefficients=self.W,
            inner=self.p,
            order=self.order,
            radius=radius,
            residual=residual,
            kind=kind,
        )

    def _term(self, k: Exponents, defect: np.ndarray) -> None:
        """Solve for one coefficient, in eigencoordinates; a resonant component goes into p instead."""
        product = math.prod(float(self.values[self.inside[i]].real) ** power for i, power in enumerate(k))
        solution = np.zeros_like(defect)
        for j, value in enumerate(self.values):
            gap = value - product
            if abs(gap) < 1e-8 * max(1.0, abs(value)):
                if j in self.inside:
                    # lambda^k = lambda_j: W_k keeps 0 there and the inner dynamics takes the term
                    self.p[self.place[k], int(np.flatnonzero(self.inside == j)[0])] += float(defect[j].real)
                    continue
                raise NotHyperbolicError(f"lambda^{k} meets an eigenvalue outside the manifold: gap {abs(gap):.1e}.")
            solution[j] = -defect[j] / gap
        self.W[self.place[k]] = torch.from_numpy((self.vectors @ solution).real.copy())

    def _as_series(self, table: torch.Tensor) -> list[np.ndarray]:
        """Columns of a (K, q) table of coefficients as q series."""
        columns = []
        for column in table.T.tolist():
            series = np.zeros(self.ring.shape)
            for k, number in zip(self.exponents, column, strict=True):
                series[k] = number
            columns.append(series)
        return columns

    def _defect(self, degree: int) -> torch.Tensor:
        """(K, d) the Taylor coefficients of T(W(s)) - W(p(s)); W and p are known below this degree."""
        moved = self.on_series(self.ring, self._as_series(self.W))
        inner = self._as_series(self.p)
        composed = [np.zeros(self.ring.shape) for _ in moved]
        for k, row in zip(self.exponents, self.W.tolist(), strict=True):
            if sum(k) > degree or not any(row):
                continue
            monomial = self.ring.constant(1.0)
            for series, power in zip(inner, k, strict=True):
                monomial = self.ring.times(monomial, self.ring.power(series, power))
            composed = [total + number * monomial for total, number in zip(composed, row, strict=True)]
        table = [[float(a[k] - b[k]) for a, b in zip(moved, composed, strict=True)] for k in self.exponents]
        return torch.tensor(table, dtype=torch.float64)

    def _invariance(self, s: torch.Tensor) -> torch.Tensor:
        """T(W(s)) - W(p(s)) for s: (n, m)."""
        inner = _monomials(s, self.exponents) @ self.p
        points = _monomials(s, self.exponents) @ self.W
        return self.step(points.to(self.center)).detach().double().cpu() - _monomials(inner, self.exponents) @ self.W

    def _radius(self, allowed: float) -> tuple[float, float]:
        """The largest of the radii 4 * 2^-j on whose sampled box the invariance error is allowed, and that error."""
        sides = torch.linspace(-1, 1, 41 if self.m == 1 else 13, dtype=torch.float64)
        unit = torch.cartesian_prod(*([sides] * self.m)).reshape(-1, self.m)
        size = max(1.0, float(self.center.norm()))
        worst = math.inf
        for exponent in range(30):
            radius = 4 * 2.0 ** (-exponent / 2)
            worst = float(self._invariance(radius * unit).norm(dim=1).nan_to_num(math.inf).max())
            if worst <= allowed * size:
                return radius, worst
        return 0.0, worst
