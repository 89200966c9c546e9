"""The empirical neural tangent kernel K = J J^T of the network's outputs, J = d outputs / d theta."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import jacrev, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from tameopt.batches import rows
from tameopt.problem import Problem


@dataclass(frozen=True)
class TangentKernel:
    """K = J J^T at one theta.

    matrix: (n k, n k), sample-major. samples: which were used; outputs: k a sample. lambda_min, lambda_max:
    extreme eigenvalues; rounding: the size that rounding errors of either usually have (no bound).
    rank_bound: min(n k, d): above it K is singular whatever theta is.
    """

    matrix: torch.Tensor
    samples: torch.Tensor
    outputs: int
    lambda_min: float
    lambda_max: float
    rounding: float
    rank_bound: int

    def __repr__(self) -> str:
        size = self.matrix.shape[0]
        return f"TangentKernel({size} x {size}, eigenvalues {self.lambda_min:.3g} .. {self.lambda_max:.3g})"


def jacobian_rows(problem: Problem, theta: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(m, k, d) Jacobian of the outputs of the samples `indices` (m,), flattened to k numbers each.

    Raises ValueError when the problem has no outputs (a plain function, or forward(model, batch)).
    """
    if problem.is_function or problem.forward is not None:
        raise ValueError(
            "a tangent kernel needs a problem given as model, loss(output, target) and (input, target) batches; "
            f"{problem.name} was given as {'a plain function' if problem.is_function else 'forward(model, batch)'}."
        )
    batch = problem.batches.pick(indices)
    leaves, form = tree_flatten(batch)
    axes = [0 if isinstance(leaf, torch.Tensor) and leaf.ndim else None for leaf in leaves]

    def output(flat: torch.Tensor, sample: list[Any]) -> torch.Tensor:
        one = [leaf if axis is None else leaf[None] for leaf, axis in zip(sample, axes, strict=True)]
        return problem.batch_output(problem.unflatten(flat), tree_unflatten(one, form), True).reshape(-1)

    try:
        return vmap(jacrev(output), in_dims=(None, axes))(theta, leaves)
    except (RuntimeError, NotImplementedError):
        # an operator without a batching rule: one sample at a time
        parts = []
        for i in range(len(indices)):
            leaf = theta.detach().clone().requires_grad_()
            one = problem.batch_output(problem.unflatten(leaf), rows(batch, slice(i, i + 1)), True).reshape(-1)
            parts.append(
                torch.stack([torch.autograd.grad(number, leaf, retain_graph=True)[0] for number in one]).detach()
            )
        return torch.stack(parts)


def ntk(
    problem: Problem,
    theta: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    chunk_bytes: int = 256 << 20,
) -> TangentKernel:
    """The tangent kernel of the samples `indices` (all by default), in the problem's dtype.

    Jacobians are made for as many samples as `chunk_bytes` holds and contracted pair by pair, so memory is two
    chunks and K. Cost: n k vector-Jacobian products, each once for a pair of chunks.

    Raises ValueError when the problem has no outputs, or its samples cannot be picked by number.
    """
    at = problem.theta if theta is None else theta
    chosen = torch.arange(problem.n) if indices is None else torch.as_tensor(indices)
    if not len(chosen):
        raise ValueError("a tangent kernel needs at least one sample, got none.")
    first = jacobian_rows(problem, at, chosen[:1])
    k = first.shape[1]
    size = len(chosen) * k
    per_chunk = max(1, int(chunk_bytes // max(1, k * problem.dim * first.element_size())))
    pieces = chosen.split(per_chunk)
    matrix = torch.zeros(size, size, dtype=problem.dtype, device=problem.device)
    offsets = [0, *torch.tensor([len(piece) * k for piece in pieces]).cumsum(0).tolist()]
    for a, left in enumerate(pieces):
        J_left = jacobian_rows(problem, at, left).reshape(-1, problem.dim)
        for b in range(a, len(pieces)):
            J_right = J_left if b == a else jacobian_rows(problem, at, pieces[b]).reshape(-1, problem.dim)
            block = J_left @ J_right.T
            matrix[offsets[a] : offsets[a + 1], offsets[b] : offsets[b + 1]] = block
            if b != a:
                matrix[offsets[b] : offsets[b + 1], offsets[a] : offsets[a + 1]] = block.T
    matrix = (matrix + matrix.T) / 2
    eigenvalues = torch.linalg.eigvalsh(matrix)
    eps = torch.finfo(matrix.dtype).eps
    # |fl(J J^T) - J J^T| <= d eps |J||J|^T entrywise, so its norm is at most d eps trace K; eigvalsh adds a modest
    # multiple of size eps norm(K). Their usual size goes with the square root of the length (our choice: 8 of it).
    trace_part = math.sqrt(problem.dim) * float(matrix.diagonal().mean())
    rounding = 8 * eps * (trace_part + math.sqrt(size) * float(eigenvalues[-1]))
    return TangentKernel(
        matrix,
        chosen,
        k,
        float(eigenvalues[0]),
        float(eigenvalues[-1]),
        rounding,
        min(size, problem.dim),
    )


def kernel_drift(start: TangentKernel, end: TangentKernel) -> float:
    """norm(K_end - K_start)/norm(K_start), Frobenius: near 0 is lazy training.

    Raises ValueError when the kernels are of different samples.
    """
    if start.matrix.shape != end.matrix.shape or not torch.equal(start.samples, end.samples):
        raise ValueError("the drift compares kernels of the same samples, these differ: pass the same indices.")
    change = torch.linalg.matrix_norm(end.matrix - start.matrix)
    return float(change / torch.linalg.matrix_norm(start.matrix))
