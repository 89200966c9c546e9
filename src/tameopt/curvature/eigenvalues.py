"""The Hessian's eigenvalues at theta, each with its residual: dense where that is cheap, else block Lanczos."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from tameopt.curvature.finite import not_finite, operator_of
from tameopt.curvature.lanczos import RitzPairs, Which, ritz_pairs
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem

# our choice: up to here all eigenvalues cost about as many products as a few at both ends
DENSE_BELOW = 200


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a symmetric operator, ascending, with error bars.

    eigenvalues: (p,) float64. vectors: (d, p) orthonormal. residuals: (p,) norm(A v - lambda v).
    errors: (p,) radius around each value in which an eigenvalue lies: residual plus rounding.
    converged: (p,) bool. complete: these are all d eigenvalues.
    all_ritz: (m,) every Ritz value; A has at least as many eigenvalues below any c (above any c) as these.
    noise: rounding of the products. missed: how far an end of the spectrum may lie beyond the outermost value,
        except with probability 1%; inf when unknown.
    products: Hessian products, by column. failure: "" or what went wrong; partial results are kept.
    """

    eigenvalues: torch.Tensor
    vectors: torch.Tensor
    residuals: torch.Tensor
    errors: torch.Tensor
    converged: torch.Tensor
    all_ritz: torch.Tensor
    noise: float
    missed: float
    complete: bool
    products: int
    dim: int
    name: str = "operator"
    failure: str = ""

    @property
    def lambda_min(self) -> float:
        """The smallest value found; lambda_min of the operator is at most this, to rounding."""
        return float(self.all_ritz[0])

    @property
    def lambda_max(self) -> float:
        """The largest value found; lambda_max of the operator is at least this, to rounding."""
        return float(self.all_ritz[-1])

    @property
    def norm(self) -> float:
        """The largest absolute value found."""
        return max(abs(self.lambda_min), abs(self.lambda_max))

    def rows(self) -> list[dict[str, float | bool]]:
        """Eigenvalue, error, residual and converged flag of each pair, as plain data."""
        return [
            {
                "eigenvalue": float(self.eigenvalues[j]),
                "error": float(self.errors[j]),
                "residual": float(self.residuals[j]),
                "converged": bool(self.converged[j]),
            }
            for j in range(self.eigenvalues.numel())
        ]

    def __repr__(self) -> str:
        if self.eigenvalues.numel() == 0:
            return f"Spectrum({self.name}: nothing found, {self.failure})"
        how_many = "all" if self.complete else f"{self.eigenvalues.numel()} of"
        tail = f"; {self.failure}" if self.failure else ""
        return (
            f"Spectrum({self.name}: {how_many} {self.dim:,} eigenvalues, {self.lambda_min:.6g} to "
            f"{self.lambda_max:.6g}, errors <= {float(self.errors.max()):.1e}, {self.products} products{tail})"
        )

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<tr><td>{row['eigenvalue']:.6g}</td><td>{row['error']:.1e}</td>"
            f"<td>{'yes' if row['converged'] else 'no'}</td></tr>"
            for row in self.rows()
        )
        return (
            f"<p>{html.escape(repr(self))}</p><table><tr><th>eigenvalue</th><th>error</th>"
            f"<th>converged</th></tr>{lines}</table>"
        )


def spectrum(
    problem: Problem | SymmetricOperator,
    theta: torch.Tensor | None = None,
    k: int = 10,
    *,
    which: Which = "both",
    tolerance: float | None = None,
    dense_below: int = DENSE_BELOW,
    block_size: int = 2,
    max_basis: int | None = None,
    max_products: int | None = None,
    start: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Spectrum:
    """The k smallest and k largest eigenvalues of grad^2 F(theta), with errors; all of them when d is small.

    problem: a Problem (its Hessian at theta is meant) or any symmetric operator. theta: (d,), by default the
    model's parameters now. dense_below: up to this d the whole matrix is formed by d products and every
    eigenvalue returned. The other arguments are those of `lanczos.ritz_pairs`.

    Accuracy: `errors`, for each value, holds an eigenvalue; nothing says it is the next one in order, except
    `missed` at the two ends. Cost: d products when dense, else `products`.

    >>> problem = Problem.from_function(lambda t: 3 * t[0] ** 2 + t[0] * t[1], torch.zeros(2).double())
    >>> [round(value, 6) for value in spectrum(problem).eigenvalues.tolist()]
    [-0.162278, 6.162278]
    """
    operator = operator_of(problem, theta)
    if operator.dim <= dense_below:
        return _diagnosed(_dense(operator), problem, theta)
    pairs = ritz_pairs(
        operator,
        k,
        which=which,
        tolerance=tolerance,
        block_size=block_size,
        max_basis=max_basis,
        max_products=max_products,
        start=start,
        generator=generator,
        notify=notify,
    )
    return _diagnosed(_from_pairs(operator, pairs), problem, theta)


def _diagnosed(found: Spectrum, problem: Problem | SymmetricOperator, theta: torch.Tensor | None) -> Spectrum:
    """The same, with what is not finite named."""
    if isinstance(problem, SymmetricOperator):
        return found
    # products may be finite where F is not: the logarithm of a negative number has a second derivative for autograd
    if not found.failure and bool(torch.isfinite(problem.value(theta))):
        return found
    where = not_finite(problem, theta)
    return replace(found, failure="; ".join(part for part in (found.failure, where) if part))


def _from_pairs(operator: SymmetricOperator, pairs: RitzPairs) -> Spectrum:
    every = pairs.complete and pairs.values.numel() == operator.dim
    return Spectrum(
        eigenvalues=pairs.values,
        vectors=pairs.vectors,
        residuals=pairs.residuals,
        errors=pairs.errors,
        converged=pairs.converged,
        all_ritz=pairs.all_ritz,
        noise=pairs.noise,
        missed=pairs.missed(),
        complete=every,
        products=pairs.products,
        dim=operator.dim,
        name=operator.name,
        failure=pairs.failure,
    )


def _dense(operator: SymmetricOperator) -> Spectrum:
    matrix = operator.product(torch.eye(operator.dim, dtype=operator.dtype, device=operator.device))
    empty = torch.zeros(0, dtype=torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        where = (~torch.isfinite(matrix)).nonzero()[0].tolist()
        return Spectrum(
            empty, matrix[:, :0], empty, empty, empty.bool(), empty, float("inf"), float("inf"), False,
            operator.dim, operator.dim, operator.name, f"entry {where} of {operator.name} is not finite",
        )  # fmt: skip
    matrix = matrix.double().cpu()
    asymmetry = float((matrix - matrix.T).abs().max())
    symmetric = (matrix + matrix.T) / 2
    values, vectors = torch.linalg.eigh(symmetric)
    residuals = (symmetric @ vectors - vectors * values).norm(dim=0)
    norm = float(values.abs().max())
    # as in lanczos: the asymmetry shows what rounding does to the products; 10 and 8 are our safety factors
    noise = 10 * asymmetry + 8 * torch.finfo(operator.dtype).eps * norm
    return Spectrum(
        eigenvalues=values,
        vectors=vectors.to(operator.device, operator.dtype),
        residuals=residuals,
        errors=residuals + noise,
        converged=torch.ones(operator.dim, dtype=torch.bool),
        all_ritz=values,
        noise=noise,
        missed=noise,
        complete=True,
        products=operator.dim,
        dim=operator.dim,
        name=operator.name,
    )
