"""Trace, diagonal and log-determinant of an operator from its products, with standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.curvature.finite import not_finite, operator_of
from tameopt.curvature.quadrature import Estimate, density
from tameopt.curvature.tall import orthonormal
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem


@dataclass(frozen=True)
class DiagonalEstimate:
    """(d,) values with (d,) standard errors over `sample_size` random sign vectors."""

    values: torch.Tensor
    standard_errors: torch.Tensor
    sample_size: int


def _signs(operator: SymmetricOperator, count: int, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(0, 2, (operator.dim, count), generator=generator) * 2 - 1
    return drawn.to(operator.device, operator.dtype)


def trace(
    problem: Problem | SymmetricOperator,
    theta: torch.Tensor | None = None,
    *,
    products: int = 60,
    generator: torch.Generator | None = None,
) -> Estimate:
    """The trace of the Hessian (or of any operator) by Hutch++ with its standard error.

    A third of the products finds a basis Q of what dominates, a third gives trace(Q^T A Q) exactly, and sign
    vectors in the complement estimate the rest (Meyer, Musco, Musco and Woodruff 2021). When d products suffice
    the trace is exact, and the standard error 0. products: at least 6.

    >>> A = SymmetricOperator(4, lambda block: 2 * block, torch.float64, torch.device("cpu"))
    >>> trace(A).value
    8.0
    """
    operator = operator_of(problem, theta)
    if products < 6:
        raise ValueError(f"products must be at least 6, two for each third, got {products}.")
    generator = generator or torch.Generator().manual_seed(0)
    if operator.dim <= products:
        exact = float(operator.product(torch.eye(operator.dim).to(operator.device, operator.dtype)).diagonal().sum())
        return Estimate(exact, 0.0 if math.isfinite(exact) else math.nan, operator.dim, operator.dim)
    third = products // 3
    basis = orthonormal(operator.product(_signs(operator, third, generator)).T.contiguous())[0].T
    head = float((basis * operator.product(basis)).sum().double())
    probes = _signs(operator, products - 2 * third, generator)
    probes = probes - basis @ (basis.T @ probes)
    tails = (probes * operator.product(probes)).sum(dim=0).double()
    count = tails.numel()
    return Estimate(head + float(tails.mean()), float(tails.std()) / math.sqrt(count), count, products)


def diagonal(
    problem: Problem | SymmetricOperator,
    theta: torch.Tensor | None = None,
    *,
    num_vectors: int = 60,
    generator: torch.Generator | None = None,
) -> DiagonalEstimate:
    """The diagonal of the Hessian by sign vectors: mean of v * (A v), with standard errors (Bekas et al. 2007).

    The variance of entry j is the sum of the squares of the rest of its row. Exact, by d products, when d <=
    num_vectors. num_vectors: at least 2.
    """
    operator = operator_of(problem, theta)
    if num_vectors < 2:
        raise ValueError(f"num_vectors must be at least 2, got {num_vectors}: one vector has no error.")
    generator = generator or torch.Generator().manual_seed(0)
    if operator.dim <= num_vectors:
        exact = operator.product(torch.eye(operator.dim).to(operator.device, operator.dtype)).diagonal().clone()
        return DiagonalEstimate(exact, torch.where(exact.isfinite(), 0.0, torch.nan).to(exact.dtype), operator.dim)
    probes = _signs(operator, num_vectors, generator)
    samples = probes * operator.product(probes)
    return DiagonalEstimate(samples.mean(dim=1), samples.std(dim=1) / math.sqrt(num_vectors), num_vectors)


def log_determinant(
    problem: Problem | SymmetricOperator,
    theta: torch.Tensor | None = None,
    *,
    shift: float = 0.0,
    num_vectors: int = 10,
    steps: int = 60,
    generator: torch.Generator | None = None,
) -> Estimate:
    """log det(A + shift I) of a positive definite A + shift I by stochastic Lanczos quadrature.

    The standard error covers the random vectors only; where eigenvalues crowd at 0 the quadrature errs too, so
    raise `steps` until the value stands still.

    Raises ValueError when a node is not positive: A + shift I is then not positive definite.

    >>> A = SymmetricOperator(3, lambda block: 2 * block, torch.float64, torch.device("cpu"))
    >>> abs(log_determinant(A).value - 3 * math.log(2)) < 1e-9
    True
    """
    operator = operator_of(problem, theta).shift(shift)
    found = density(operator, num_vectors=num_vectors, steps=steps, generator=generator)
    used = found.weights > 1e-12
    lowest = float(found.nodes[used].min()) if bool(used.any()) else math.nan
    if math.isnan(lowest):
        where = not_finite(problem, theta) if isinstance(problem, Problem) else ""
        raise ValueError(f"log det is not known: {found.failure}{f'; {where}' if where else ''}.")
    if not lowest > 0:
        raise ValueError(
            f"log det needs a positive definite operator, but {operator.name} has an eigenvalue of at most about "
            f"{lowest:.3g}: pass shift > {-lowest:.3g}."
        )
    return found.trace_of(lambda values: values.clamp_min(lowest).log())
