"""Stochastic Lanczos quadrature: the spectral density of an operator, and traces of functions of it.

For a random unit vector v, v^T f(A) v is a Gauss quadrature in the eigenvalues of a small tridiagonal matrix whose
weights are the squared first components of its eigenvectors; its mean over v is trace f(A) / d. With m steps it is
exact for polynomials of degree 2m - 1 (Golub and Meurant 2010). The spread over vectors gives the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tameopt.curvature.finite import not_finite, operator_of
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem
from tameopt.student import student_quantile

_BASIS_BYTES = 2 << 30  # our choice: Lanczos bases of the vectors that run side by side


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error over random vectors, and the number of products that it cost."""

    value: float
    standard_error: float
    sample_size: int
    products: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval by Student's t: with ten vectors 2.26 standard errors to each side."""
        if self.standard_error == 0:
            return self.value, self.value
        half = math.inf if self.sample_size < 2 else student_quantile(self.sample_size - 1) * self.standard_error
        return self.value - half, self.value + half

    def __repr__(self) -> str:
        return f"Estimate({self.value:.6g} +- {self.standard_error:.2g}, {self.sample_size} vectors)"


@dataclass(frozen=True)
class SpectralDensity:
    """Where the eigenvalues of a (d, d) operator lie.

    nodes, weights: (v, m) float64, the quadrature of each of v random vectors; weights of a vector sum to 1.
    dim: d. products: operator products. failure: "" or what stopped some vectors.
    """

    nodes: torch.Tensor
    weights: torch.Tensor
    dim: int
    products: int
    name: str = "operator"
    failure: str = ""

    def mean_of(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Estimate:
        """The mean of f over the eigenvalues, trace f(A) / d, with its standard error.

        function: elementwise on a tensor of eigenvalues. Accuracy: the standard error covers the random vectors;
        the quadrature itself is exact for polynomials of degree 2m - 1 and good for smooth f.
        """
        each = (self.weights * function(self.nodes)).sum(dim=1)
        count = each.numel()
        error = float(each.std()) / math.sqrt(count) if count > 1 else math.inf
        return Estimate(float(each.mean()), error, count, self.products)

    def trace_of(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Estimate:
        """trace f(A), with its standard error: d times `mean_of`."""
        mean = self.mean_of(function)
        return Estimate(self.dim * mean.value, self.dim * mean.standard_error, mean.sample_size, mean.products)

    def share_below(self, threshold: float) -> Estimate:
        """The share of eigenvalues below a threshold; a step function, so m steps blur it by about spread / m."""
        return self.mean_of(lambda values: (values < threshold).double())

    def on_grid(
        self, points: int = 400, width: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(grid, density, standard error) with each node drawn as a Gaussian of standard deviation `width`.

        width: by default 1% of the spread (our choice). The density integrates to 1. Isolated eigenvalues show as
        spikes of area 1/d, which a linear plot hides: draw it on a logarithmic axis.
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"no density is known: {self.failure or 'the nodes are not finite'}.")
        if points < 2:
            raise ValueError(f"points must be at least 2, got {points}.")
        sigma = width if width is not None else 0.01 * max(high - low, 1e-12 * max(abs(low), abs(high), 1.0))
        if not sigma > 0:
            raise ValueError(f"width must be > 0, got {sigma}.")
        grid = torch.linspace(low - 4 * sigma, high + 4 * sigma, points, dtype=torch.float64)
        each = torch.zeros(self.nodes.shape[0], points, dtype=torch.float64)
        for j in range(self.nodes.shape[1]):
            bell = torch.exp(-(((grid[None] - self.nodes[:, j : j + 1]) / sigma) ** 2) / 2)
            each += self.weights[:, j : j + 1] * bell / (sigma * math.sqrt(2 * math.pi))
        count = each.shape[0]
        error = each.std(dim=0) / math.sqrt(count) if count > 1 else torch.full_like(grid, math.inf)
        return grid, each.mean(dim=0), error

    def __repr__(self) -> str:
        tail = f"; {self.failure}" if self.failure else ""
        return (
            f"SpectralDensity({self.name}: {self.nodes.shape[0]} vectors of {self.nodes.shape[1]} steps, "
            f"{float(self.nodes.min()):.4g} to {float(self.nodes.max()):.4g}, {self.products} products{tail})"
        )


def density(
    problem: Problem | SymmetricOperator,
    theta: torch.Tensor | None = None,
    *,
    num_vectors: int = 10,
    steps: int = 60,
    generator: torch.Generator | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> SpectralDensity:
    """The spectral density of the Hessian at theta (or of any operator) by stochastic Lanczos quadrature.

    num_vectors: random directions, >= 2 for an error. steps: Lanczos steps of each, at most d.
    Cost: num_vectors * steps Hessian products, run side by side in blocks; memory d * steps numbers a vector.

    Raises ValueError on bad arguments. A product that is not finite ends the run early and is told in `failure`.

    >>> diagonal = torch.linspace(0, 1, 50, dtype=torch.float64)
    >>> A = SymmetricOperator(50, lambda block: diagonal[:, None] * block, torch.float64, torch.device("cpu"))
    >>> abs(density(A, steps=20).mean_of(lambda x: x).value - 0.5) < 0.1
    True
    """
    operator = operator_of(problem, theta)
    if num_vectors < 1 or steps < 1:
        raise ValueError(f"num_vectors and steps must be at least 1, got {num_vectors} and {steps}.")
    generator = generator or torch.Generator().manual_seed(0)
    steps = min(steps, operator.dim)
    basis_bytes = operator.dim * steps * torch.finfo(operator.dtype).bits // 8
    together = max(1, min(num_vectors, _BASIS_BYTES // max(basis_bytes, 1)))
    nodes, weights, products, failure = [], [], 0, ""
    for begun in range(0, num_vectors, together):
        count = min(together, num_vectors - begun)
        drawn = torch.randn(operator.dim, count, generator=generator, dtype=torch.float64)
        start = (drawn / drawn.norm(dim=0)).to(operator.device, operator.dtype)
        diagonals, couplings, done = _tridiagonals(operator, start, steps)
        products += count * done
        if done < steps:
            failure = f"a product of {operator.name} is not finite at step {done}"
            if isinstance(problem, Problem) and (where := not_finite(problem, theta)):
                failure += f"; {where}"
            break
        for alpha, beta in zip(diagonals, couplings, strict=True):
            values, vectors = torch.linalg.eigh(torch.diag(alpha) + torch.diag(beta, 1) + torch.diag(beta, -1))
            nodes.append(values)
            weights.append(vectors[0].square())
        notify(f"{operator.name}: {begun + count} of {num_vectors} vectors")
    if not nodes:
        nothing = torch.full((1, 1), math.nan, dtype=torch.float64)
        return SpectralDensity(nothing, nothing, operator.dim, products, operator.name, failure)
    return SpectralDensity(torch.stack(nodes), torch.stack(weights), operator.dim, products, operator.name, failure)


def _tridiagonals(
    operator: SymmetricOperator, start: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Lanczos from each column of `start`, side by side, with two full passes of reorthogonalisation.

    Returns diagonals (v, steps), couplings (v, steps - 1), float64 on the CPU, and the steps done.
    """
    dim, count = start.shape
    eps = torch.finfo(operator.dtype).eps
    basis = torch.zeros(count, dim, steps, dtype=operator.dtype, device=operator.device)
    diagonals = torch.zeros(count, steps, dtype=torch.float64)
    couplings = torch.zeros(count, max(steps - 1, 0), dtype=torch.float64)
    current = start
    scale = torch.zeros(count, dtype=operator.dtype, device=operator.device)
    for step in range(steps):
        basis[:, :, step] = current.T
        image = operator.product(current)
        if not bool(torch.isfinite(image).all()):
            return diagonals, couplings, step
        diagonals[:, step] = (current * image).sum(dim=0).double().cpu()
        if step + 1 == steps:
            break
        rest = image.T[:, :, None]
        known = basis[:, :, : step + 1]
        for _ in range(2):
            rest = rest - known @ (known.transpose(1, 2) @ rest)
        # a sum by halves: torch's norm of 1e7 float32 entries is wrong by 3e-4
        size = rest.square().sum(dim=1)[:, 0].sqrt()
        scale = torch.maximum(scale, image.norm(dim=0))
        # an invariant subspace: the quadrature is exact there, and a coupling of 0 keeps what follows at weight 0
        alive = size > 100 * eps * scale
        couplings[:, step] = torch.where(alive, size, torch.zeros_like(size)).double().cpu()
        current = torch.where(alive, rest[:, :, 0].T / torch.where(alive, size, torch.ones_like(size)), current)
    return diagonals, couplings, steps
