"""Where stochastic gradient settles with a constant step, and what averaging its iterates gives.

Near a minimum with Hessian H and noise covariance S, theta_{k+1} = theta_k - alpha (H theta_k + xi_k) has the
stationary covariance V = (I - alpha H) V (I - alpha H) + alpha^2 S; the average of K iterates has covariance
H^-1 S H^-1 / K (Polyak and Juditsky 1992), the least there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.noise._display import HtmlText
from tameopt.problem import Problem


def stationary_variance(alpha: float, curvature: float, noise_variance: float) -> float:
    """alpha s^2 / (lambda (2 - alpha lambda)): the variance that a constant step settles at in one dimension.

    alpha > 0, curvature lambda > 0 with alpha lambda < 2, noise_variance s^2 >= 0; exact for a quadratic.

    >>> round(stationary_variance(0.1, 2.0, 3.0), 12)
    0.083333333333
    """
    if not (alpha > 0 and curvature > 0 and noise_variance >= 0):
        raise ValueError(
            f"alpha and curvature must be > 0 and noise_variance >= 0, got {alpha}, {curvature}, {noise_variance}."
        )
    if alpha * curvature >= 2:
        raise ValueError(
            f"alpha * curvature must be < 2, got {alpha * curvature:.4g}: at 2 and above the steps diverge and "
            "nothing is stationary."
        )
    return alpha * noise_variance / (curvature * (2.0 - alpha * curvature))


def stationary_covariance(alpha: float, hessian: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """(d, d) float64: V = (I - alpha H) V (I - alpha H) + alpha^2 S, for H: (d, d) positive definite, S: (d, d).

    Exact up to rounding for a quadratic; costs one symmetric eigendecomposition. The floor of F is tr(H V)/2.

    Raises ValueError unless 0 < alpha lambda < 2 for every eigenvalue.
    """
    eigenvalues, vectors = torch.linalg.eigh(hessian.to(torch.float64))
    least, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if not (least > 0 and 0 < alpha * largest < 2):
        raise ValueError(
            "alpha * lambda must be in (0, 2) for every eigenvalue, got "
            f"{alpha * least:.4g} to {alpha * largest:.4g}: otherwise nothing is stationary."
        )
    rotated = vectors.T @ noise.to(torch.float64) @ vectors
    contraction = 1.0 - alpha * eigenvalues
    return vectors @ (alpha**2 * rotated / (1.0 - torch.outer(contraction, contraction))) @ vectors.T


@dataclass(frozen=True)
class AverageConfidence(HtmlText):
    """Confidence intervals for numbers <v_j, theta*> from the average of K iterates.

    estimates: (m,) <v_j, theta_bar>; standard_errors: (m,) of the central limit theorem. level: of the intervals.
    residuals: (m,) norm(H u_j - v_j)/norm(v_j) of the linear systems that were solved.
    """

    estimates: torch.Tensor
    standard_errors: torch.Tensor
    level: float
    residuals: torch.Tensor

    @property
    def intervals(self) -> torch.Tensor:
        """(m, 2) lower and upper ends."""
        z = math.sqrt(2.0) * float(torch.erfinv(torch.tensor(self.level, dtype=torch.float64)))
        half = z * self.standard_errors
        return torch.stack([self.estimates - half, self.estimates + half], dim=1)

    def __repr__(self) -> str:
        shown = ", ".join(f"[{low:.4g}, {high:.4g}]" for low, high in self.intervals[:3].tolist())
        more = ", …" if self.estimates.numel() > 3 else ""
        return f"AverageConfidence({self.level:.0%} of {self.estimates.numel()} directions: {shown}{more})"


def average_confidence(
    problem: Problem,
    theta_bar: torch.Tensor,
    directions: torch.Tensor,
    *,
    num_steps: int,
    batch_size: int,
    level: float = 0.95,
    tolerance: float = 1e-8,
) -> AverageConfidence:
    """Intervals for <v_j, theta*> from theta_bar: (d,), the average of the last `num_steps` iterates of stochastic
    gradient with batches of `batch_size` uniform draws with replacement.

    directions: (d, m), the v_j. The standard error is root(Var_i <u, grad l_i> / (b K)) with H u = v, H and the
    gradients at theta_bar. Valid near a minimum with a positive definite Hessian, for steps a/k^p with 1/2 < p < 1
    and K large; a constant step adds a bias of order alpha. Costs one conjugate-gradient solve a direction (its
    Hessian products) and n sample gradients.

    Raises ValueError when the Hessian is seen not to be positive definite, or the system is not solved.
    """
    if directions.ndim != 2 or directions.shape[0] != problem.dim:
        raise ValueError(f"directions must be ({problem.dim}, m), got {tuple(directions.shape)}.")
    if num_steps < 2 or batch_size < 1 or not 0 < level < 1:
        raise ValueError(
            f"num_steps must be >= 2, batch_size >= 1, level in (0, 1), got {num_steps}, {batch_size}, {level}."
        )
    precise = problem.to(torch.float64)
    theta, columns = theta_bar.to(torch.float64), directions.to(torch.float64)
    solved = torch.stack([_solve(precise, theta, column, tolerance) for column in columns.T], dim=1)
    residual = precise.hessian_product(theta, solved) - columns
    gradients = [
        precise.sample_gradients(theta, part) @ solved for part in torch.arange(problem.n).split(_chunk(problem.dim))
    ]
    variance = torch.cat(gradients).var(0, correction=0)
    return AverageConfidence(
        columns.T @ theta,
        torch.sqrt(variance / (batch_size * num_steps)),
        level,
        residual.norm(dim=0) / columns.norm(dim=0),
    )


def _chunk(dim: int) -> int:
    return max(1, (64 << 20) // (8 * dim))


def _solve(problem: Problem, theta: torch.Tensor, right: torch.Tensor, tolerance: float) -> torch.Tensor:
    """u with H u = right by conjugate gradients; ValueError at a direction of curvature <= 0."""
    u, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), float(residual.square().sum())
    start = square
    for _ in range(4 * right.numel()):
        if square <= (tolerance**2) * start:
            return u
        product = problem.hessian_product(theta, direction[:, None])[:, 0]
        curvature = float(direction @ product)
        if curvature <= 0:
            raise ValueError(
                f"the Hessian must be positive definite, got a direction of curvature {curvature:.3g}: the central "
                "limit theorem for averages holds near a non-degenerate minimum only."
            )
        step = square / curvature
        u, residual = u + step * direction, residual - step * product
        following = float(residual.square().sum())
        direction, square = residual + (following / square) * direction, following
    raise ValueError(
        f"the system H u = v must be solved to {tolerance:g}, it reached {math.sqrt(square / start):.2g}: the "
        "Hessian is too ill-conditioned for an interval."
    )


def batch_means_error(numbers: torch.Tensor, blocks: int = 20) -> float:
    """Standard error of the mean of (m,) dependent numbers, from the means of `blocks` equal blocks.

    Right when the numbers forget themselves within a block; else too small. m >= 2 blocks.

    Raises ValueError for fewer numbers than two a block.
    """
    if numbers.ndim != 1 or numbers.numel() < 2 * blocks or blocks < 2:
        raise ValueError(f"at least {2 * blocks} numbers are needed for {blocks} blocks, got {numbers.numel()}.")
    length = numbers.numel() // blocks
    means = numbers[numbers.numel() - length * blocks :].to(torch.float64).view(blocks, length).mean(1)
    return float(means.std() / math.sqrt(blocks))


def lyapunov_residual(alpha: float, hessian: torch.Tensor, noise: torch.Tensor, V: torch.Tensor) -> float:
    """norm(V - (I - alpha H) V (I - alpha H) - alpha^2 S) / norm(V), to check a stationary covariance."""
    contraction = torch.eye(hessian.shape[0], dtype=torch.float64) - alpha * hessian.to(torch.float64)
    right = contraction @ V @ contraction + alpha**2 * noise.to(torch.float64)
    return float((V - right).norm() / V.norm())
