"""The gradient's Lipschitz constant as a run meets it: the largest curvature at recorded points, and secants.

Both are lower bounds of the constant on the path: at a point, L >= abs(eigenvalue); between two points,
L >= norm(g - g') / norm(theta - theta'). The secants also see kinks, where the Hessian is not to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tameopt.curvature.eigenvalues import Spectrum, spectrum
from tameopt.problem import Problem


@dataclass(frozen=True)
class Sharpness:
    """Curvature along recorded points.

    steps: (m,) labels of the points. lambda_max, lambda_min: (m,) the largest and smallest Hessian eigenvalue
        found at each; they lie inside the true spectrum. errors: (m,) residual bounds of the outermost values.
    missed: (m,) how far either end may lie beyond the value found, except with probability 1% each; inf where
        too few products were done to say.
    secants: (m - 1,) norm(g - g') / norm(theta - theta') of neighbours; empty for one point.
    products: Hessian products in all, by column. failures: what went wrong, by step.
    """

    steps: tuple[int, ...]
    lambda_max: tuple[float, ...]
    lambda_min: tuple[float, ...]
    errors: tuple[float, ...]
    missed: tuple[float, ...]
    secants: tuple[float, ...]
    products: int
    failures: tuple[tuple[int, str], ...] = ()

    @property
    def at_points(self) -> tuple[float, ...]:
        """(m,) the largest abs(eigenvalue) found at each point."""
        return tuple(max(abs(low), abs(high)) for low, high in zip(self.lambda_min, self.lambda_max, strict=True))

    @property
    def L(self) -> float:
        """The largest lower bound found: the gradient's Lipschitz constant on the path is at least this."""
        return max((*self.at_points, *self.secants), default=float("nan"))

    @property
    def sharpest_step(self) -> int:
        """The step at which the largest abs(eigenvalue) was found."""
        values = self.at_points
        return self.steps[max(range(len(values)), key=lambda j: values[j])]

    def __repr__(self) -> str:
        return f"Sharpness(L >= {self.L:.6g} from {len(self.steps)} points, {self.products} products)"


def lipschitz(
    problem: Problem,
    thetas: torch.Tensor | Sequence[torch.Tensor] | None = None,
    *,
    steps: Sequence[int] | None = None,
    tolerance: float = 1e-3,
    dense_below: int = 50,
    block_size: int = 2,
    max_products: int = 200,
    generator: torch.Generator | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Sharpness:
    """The largest curvature at points of a path, each warm-started from the one before, and the secants between.

    thetas: (m, d) or m vectors (d,), in order; the model's parameters now by default. steps: m labels.
    tolerance: relative residual of the outermost eigenvalues. max_products: Hessian products a point.

    A measured lower bound of L, sharp where the path is sampled densely; `Sharpness.missed` says what Lanczos
    may have overlooked at a point, nothing bounds what happens between points. Cost: m gradients and `products`
    Hessian products (some 40 at the first point, 20 at each later one, for a trained network).

    >>> F = lambda t: t[0] ** 2 - 3 * t[1] ** 2
    >>> lipschitz(Problem.from_function(F, torch.zeros(2, dtype=torch.float64)))
    Sharpness(L >= 6 from 1 points, 2 products)
    """
    points = [problem.theta] if thetas is None else [theta.to(problem.device, problem.dtype) for theta in thetas]
    labels = tuple(range(len(points))) if steps is None else tuple(int(step) for step in steps)
    if len(labels) != len(points) or not points:
        raise ValueError(
            f"steps must name each of at least one theta, got {len(labels)} steps, {len(points)} thetas."
        )
    found: list[Spectrum] = []
    failures: list[tuple[int, str]] = []
    start: torch.Tensor | None = None
    for step, theta in zip(labels, points, strict=True):
        one = spectrum(
            problem, theta, 1, tolerance=tolerance, dense_below=dense_below, block_size=block_size,
            max_products=max_products, start=start, generator=generator,
        )  # fmt: skip
        if one.failure:
            failures.append((step, one.failure))
        if one.eigenvalues.numel():
            start = None if one.complete else one.vectors
        found.append(one)
        notify(f"step {step}: {one!r}")
    return Sharpness(
        steps=labels,
        lambda_max=tuple(one.lambda_max if one.all_ritz.numel() else float("nan") for one in found),
        lambda_min=tuple(one.lambda_min if one.all_ritz.numel() else float("nan") for one in found),
        errors=tuple(float(one.errors.max()) if one.errors.numel() else float("nan") for one in found),
        missed=tuple(one.missed for one in found),
        secants=_secants(problem, points),
        products=sum(one.products for one in found),
        failures=tuple(failures),
    )


def _secants(problem: Problem, points: Sequence[torch.Tensor]) -> tuple[float, ...]:
    if len(points) < 2:
        return ()
    gradients = [problem.gradient(theta) for theta in points]
    slopes = []
    for j in range(len(points) - 1):
        distance = float((points[j + 1] - points[j]).double().norm())
        slopes.append(float((gradients[j + 1] - gradients[j]).double().norm()) / distance if distance > 0 else 0.0)
    return tuple(slopes)
