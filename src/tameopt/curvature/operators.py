"""Other curvature matrices of a Problem as operators: Gauss-Newton and the covariance of sample gradients.

The Hessian is `problem.hessian(theta)`. All obey the algebra of `SymmetricOperator`: sums, multiples, shifts,
restrictions to coordinates, `.to_scipy()`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch.func import grad, jvp, vjp, vmap

from tameopt.batches import Batch, size_of
from tameopt.hessian_modes import exact_attention
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem

_HELD_BYTES = 1 << 30  # our choice: up to 1 GiB the sample gradients are computed once and held


def coordinates(problem: Problem, names: str | Iterable[str]) -> torch.Tensor:
    """(m,) int64 coordinates of theta that belong to the named parameters; patterns such as "*.weight" are allowed.

    Use with `SymmetricOperator.restrict`: the Hessian of a layer, say. Raises ValueError when nothing matches.

    >>> problem = Problem(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (torch.ones(4, 2), torch.zeros(4, 1)))
    >>> coordinates(problem, "bias").tolist()
    [2]
    """
    patterns = [names] if isinstance(names, str) else list(names)
    found, start = [], 0
    for key, shape in problem.shapes.items():
        size = int(torch.Size(shape).numel())
        if any(fnmatchcase(key, pattern) for pattern in patterns):
            found.append(torch.arange(start, start + size))
        start += size
    if not found:
        raise ValueError(
            f"names must match parameters of {problem.name}, got {patterns}: it has {list(problem.shapes)}."
        )
    return torch.cat(found).to(problem.device)


def _require_problem(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(f"a tameopt.Problem is required, got {type(problem).__name__}: wrap a model as one.")


def gauss_newton(problem: Problem, theta: torch.Tensor | None = None) -> SymmetricOperator:
    """G = 1/n sum_i J_i^T (grad^2 loss) J_i, J_i the Jacobian of the outputs for sample i: (d, d), as an operator.

    Positive semidefinite where the loss is convex in the outputs; equal to the Hessian where the outputs are
    linear in theta (Schraudolph 2002). Weighted by batch size as F is; a product costs about a Hessian product.

    Raises ValueError when the problem has no outputs and loss apart (a plain function, or `forward`).
    """
    _require_problem(problem)
    problem.require_outputs()
    at = problem.at(theta).clone()
    parameters = problem.unflatten(at)

    def batch_product(batch: Batch, block: torch.Tensor) -> torch.Tensor:
        target = batch[-1]

        def outputs(parts: dict[str, torch.Tensor]) -> torch.Tensor:
            return problem.batch_output(parts, batch, True)

        def loss_sum(output: torch.Tensor) -> torch.Tensor:
            assert problem.loss is not None
            loss = problem.loss(output, target)
            return loss.sum() if problem.reduction != "mean" else loss.reshape(()) * size_of(batch)

        output, pull = vjp(outputs, parameters)[:2]

        def product(vector: torch.Tensor) -> torch.Tensor:
            moved = jvp(outputs, (parameters,), (problem.unflatten(vector),))[1]
            # reverse over reverse: torch has no forward derivative of the gradient of mse_loss
            (curved,) = vjp(grad(loss_sum), output)[1](moved)
            (back,) = pull(curved)
            return torch.cat([back[key].reshape(-1) for key in problem.shapes])

        return vmap(product, in_dims=1, out_dims=1)(block.contiguous())

    def product(block: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(block)
        with exact_attention():
            for batch in problem.batches:
                total = total + batch_product(batch, block)
        return total * problem.scale

    return SymmetricOperator(problem.dim, product, problem.dtype, problem.device, f"Gauss-Newton of {problem.name}")


def gradient_covariance(
    problem: Problem, theta: torch.Tensor | None = None, *, centered: bool = True, chunk: int = 256
) -> SymmetricOperator:
    """C = 1/n sum_i (g_i - g)(g_i - g)^T with g_i = grad l_i(theta): (d, d), as an operator.

    The covariance of a one-sample stochastic gradient, that of a batch of b is C / b. centered=False leaves g in:
    the second moment, which is the empirical Fisher matrix for a log-likelihood. chunk: samples whose gradients
    are held at once where n * d numbers exceed 1 GiB; they are then recomputed at each product.

    Raises ValueError for a plain function. Cost: n sample gradients once, or at each product.
    """
    _require_problem(problem)
    if problem.is_function:
        raise ValueError("a plain function has no samples: build a Problem from a model, a loss and data.")
    at = problem.at(theta).clone()
    # l_i is the sample's own loss whatever the reduction: "mean" and "sum" problems share one covariance
    bytes_needed = problem.n * problem.dim * torch.finfo(problem.dtype).bits // 8
    held = problem.sample_gradients(at) if bytes_needed <= _HELD_BYTES else None

    def product(block: torch.Tensor) -> torch.Tensor:
        total, mean = torch.zeros_like(block), torch.zeros_like(at)
        for start in range(0, problem.n, problem.n if held is not None else chunk):
            indices = torch.arange(start, min(start + chunk, problem.n))
            gradients = held if held is not None else problem.sample_gradients(at, indices)
            total = total + gradients.T @ (gradients @ block)
            mean = mean + gradients.sum(dim=0)
        total, mean = total / problem.n, mean / problem.n
        return total - mean[:, None] * (mean @ block) if centered else total

    name = "gradient covariance" if centered else "gradient second moment"
    return SymmetricOperator(problem.dim, product, problem.dtype, problem.device, f"{name} of {problem.name}")
