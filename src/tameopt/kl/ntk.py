"""The empirical neural tangent kernel K = J J^T of the network's outputs, J = d outputs / d theta."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from tameopt.curvature.lanczos import ritz_pairs
from tameopt.kl.jacobian_rows import check_has_outputs, jacobian_rows, kernel_products
from tameopt.kl.structured_kernel import Factors, Layer, add_block, bytes_a_sample, factors, structured_layers
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem
from tameopt.run import Run

Method = Literal["auto", "contraction", "structured", "products"]
METHODS: tuple[Method, ...] = get_args(Method)
LARGEST = 20_000  # rows of a kernel that is formed: 3.2 GB in float64; past it only its ends are computed


@dataclass(frozen=True)
class TangentKernel:
    """K = J J^T at one theta.

    matrix: (n k, n k), sample-major, or None when only products were used. samples: which were used; outputs: k a
    sample. lambda_min, lambda_max: extreme eigenvalues; rounding: the size that rounding errors of either usually
    have (no bound), or the residual of Lanczos when there is no matrix. rank_bound: min(n k, d): above it K is
    singular whatever theta is. method: how it was computed, with the reason.
    """

    matrix: torch.Tensor | None
    samples: torch.Tensor
    outputs: int
    lambda_min: float
    lambda_max: float
    rounding: float
    rank_bound: int
    method: str = "contraction"

    @property
    def size(self) -> int:
        """n k, the number of rows."""
        return len(self.samples) * self.outputs

    def __repr__(self) -> str:
        return (
            f"TangentKernel({self.size} x {self.size}, eigenvalues {self.lambda_min:.3g} .. {self.lambda_max:.3g}, "
            f"{self.method})"
        )


def ntk(
    problem: Problem,
    theta: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    chunk_bytes: int = 256 << 20,
    method: Method = "auto",
) -> TangentKernel:
    """The tangent kernel of the samples `indices` (all by default), in the problem's dtype.

    method: "structured" uses the structure of linear and convolution layers (`structured_kernel`) and contracts the
    Jacobian of the other parameters; two samples are computed the other way as well, and when they disagree (a
    network that mixes samples, weights used in another way) everything is contracted. "contraction" makes the
    Jacobian for as many samples as `chunk_bytes` holds and multiplies chunk by chunk. "products" never forms K and
    finds its two ends by Lanczos: lambda_min then is an upper estimate, with its residual. "auto": products past
    20,000 rows, else structured where layers with structure hold a tenth of the parameters, else contraction.

    Memory: K, two chunks, and for the eigenvalues as much again as K. Cost: structured: a forward and k backward
    passes over the samples, and n^2 (k^2 out + in) a layer; contraction: n k vector-Jacobian products and n^2 k^2 d.

    Raises ValueError when the problem has no outputs, or its samples cannot be picked by number.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    check_has_outputs(problem)
    at = (problem.theta if theta is None else theta).detach()
    chosen = torch.arange(problem.n) if indices is None else torch.as_tensor(indices)
    if not len(chosen):
        raise ValueError("a tangent kernel needs at least one sample, got none.")
    with torch.no_grad():
        k = problem.batch_output(problem.unflatten(at), problem.batches.pick(chosen[:1]), True).numel()
    layers, others = structured_layers(problem)
    share = 1 - sum(torch.Size(problem.shapes[name]).numel() for name in others) / problem.dim
    picked, why = _pick(method, len(chosen) * k, share)
    if picked == "structured" and not layers:
        picked, why = "contraction", "no linear or convolution layer has its structure"
    if picked == "products":
        return _by_products(problem, at, chosen, k, why)
    matrix = None
    if picked == "structured":
        matrix = _structured(problem, at, chosen, k, layers, others, chunk_bytes)
        wrong = _disagreement(problem, at, chosen, k, matrix)
        if wrong:
            matrix, picked, why = None, "contraction", f"the layers' structure does not hold: {wrong}"
    if matrix is None:
        matrix = _contraction(problem, at, chosen, k, chunk_bytes)
    return _with_eigenvalues(problem, matrix, chosen, k, f"{picked}: {why}")


def _pick(method: Method, size: int, share: float) -> tuple[str, str]:
    if method != "auto":
        return method, "as asked"
    if size > LARGEST:
        return "products", f"{size:,} rows are more than {LARGEST:,}"
    if share >= 0.1:
        return "structured", f"linear and convolution layers hold {100 * share:.0f}% of the parameters"
    return "contraction", f"linear and convolution layers hold {100 * share:.0f}% of the parameters only"


def _with_eigenvalues(
    problem: Problem, matrix: torch.Tensor, chosen: torch.Tensor, k: int, method: str
) -> TangentKernel:
    size = matrix.shape[0]
    eigenvalues = torch.linalg.eigvalsh(matrix)
    eps = torch.finfo(matrix.dtype).eps
    # |fl(J J^T) - J J^T| <= d eps |J||J|^T entrywise, so its norm is at most d eps trace K; eigvalsh adds a modest
    # multiple of size eps norm(K). Their usual size goes with the square root of the length (our choice: 8 of it).
    trace_part = math.sqrt(problem.dim) * float(matrix.diagonal().mean())
    rounding = 8 * eps * (trace_part + math.sqrt(size) * float(eigenvalues[-1]))
    return TangentKernel(
        matrix, chosen, k, float(eigenvalues[0]), float(eigenvalues[-1]), rounding, min(size, problem.dim), method
    )


def _symmetrised(matrix: torch.Tensor) -> torch.Tensor:
    """The upper triangle mirrored below, in place, in strips."""
    size = matrix.shape[0]
    for begin in range(0, size, 1024):
        end = min(begin + 1024, size)
        block = matrix[begin:end, begin:end]
        block.copy_(block.triu() + block.triu(1).T)
        matrix[end:, begin:end] = matrix[begin:end, end:].T
    return matrix


def _contraction(problem: Problem, at: torch.Tensor, chosen: torch.Tensor, k: int, chunk_bytes: int) -> torch.Tensor:
    per_chunk = max(1, int(chunk_bytes // max(1, k * problem.dim * at.element_size())))
    pieces = chosen.split(per_chunk)
    matrix = torch.empty(len(chosen) * k, len(chosen) * k, dtype=problem.dtype, device=problem.device)
    for a, left in enumerate(pieces):
        J_left = jacobian_rows(problem, at, left).reshape(-1, problem.dim)
        row = slice(a * per_chunk * k, a * per_chunk * k + J_left.shape[0])
        for b in range(a, len(pieces)):
            J_right = J_left if b == a else jacobian_rows(problem, at, pieces[b]).reshape(-1, problem.dim)
            column = slice(b * per_chunk * k, b * per_chunk * k + J_right.shape[0])
            torch.matmul(J_left, J_right.T, out=matrix[row, column])
    return _symmetrised(matrix)


def _structured(
    problem: Problem,
    at: torch.Tensor,
    chosen: torch.Tensor,
    k: int,
    layers: tuple[Layer, ...],
    others: tuple[str, ...],
    chunk_bytes: int,
) -> torch.Tensor:
    probe, _ = factors(problem, at, chosen[:1], layers)
    rest = sum(torch.Size(problem.shapes[name]).numel() for name in others)
    a_sample = bytes_a_sample(probe) + k * rest * at.element_size()
    per_chunk = max(1, int(chunk_bytes // max(1, a_sample)))
    pieces = chosen.split(per_chunk)
    matrix = torch.zeros(len(chosen) * k, len(chosen) * k, dtype=problem.dtype, device=problem.device)

    def parts(piece: torch.Tensor) -> tuple[list[Factors], torch.Tensor | None]:
        rows = jacobian_rows(problem, at, piece, others).reshape(-1, rest) if others else None
        return factors(problem, at, piece, layers)[0], rows

    for a, left in enumerate(pieces):
        own, own_rows = parts(left)
        row = slice(a * per_chunk * k, (a * per_chunk + len(left)) * k)
        for b in range(a, len(pieces)):
            right, right_rows = (own, own_rows) if b == a else parts(pieces[b])
            block = matrix[row, b * per_chunk * k : (b * per_chunk + len(pieces[b])) * k]
            for mine, theirs in zip(own, right, strict=True):
                add_block(block, mine, theirs)
            if own_rows is not None and right_rows is not None:
                block += own_rows @ right_rows.T
    return _symmetrised(matrix)


def _disagreement(problem: Problem, at: torch.Tensor, chosen: torch.Tensor, k: int, matrix: torch.Tensor) -> str:
    """ "" when the first and the last sample's kernel, from their Jacobians, is that in the matrix."""
    ends = torch.tensor([0, len(chosen) - 1]).unique()
    J = torch.cat([jacobian_rows(problem, at, chosen[end : end + 1]).reshape(k, -1) for end in ends.tolist()])
    places = (ends[:, None] * k + torch.arange(k)).reshape(-1)
    expected, got = J @ J.T, matrix[places][:, places]
    error = float((expected - got).abs().max())
    # rounding of sums of d products, and 1e3 of it for cancellation
    allowed = 1e3 * math.sqrt(problem.dim) * torch.finfo(matrix.dtype).eps * float(expected.abs().max())
    if math.isfinite(error) and error <= max(allowed, 1e-300):
        return ""
    return f"for two samples it is off by {error:.2g}, {allowed:.2g} is rounding"


def _by_products(problem: Problem, at: torch.Tensor, chosen: torch.Tensor, k: int, why: str) -> TangentKernel:
    size = len(chosen) * k
    operator = SymmetricOperator(
        size,
        lambda block: kernel_products(problem, at, chosen, block.contiguous()),
        problem.dtype,
        problem.device,
        "tangent kernel",
    )
    found = ritz_pairs(operator, 1, which="both", max_products=400)
    residual = float(found.residuals.max()) + found.noise
    return TangentKernel(
        None, chosen, k, float(found.values[0]), float(found.values[-1]), residual, min(size, problem.dim),
        f"products: {why}",
    )  # fmt: skip


def kernel_drift(start: TangentKernel, end: TangentKernel) -> float:
    """norm(K_end - K_start)/norm(K_start), Frobenius: near 0 is lazy training.

    Raises ValueError when the kernels are of different samples, or were not formed.
    """
    if start.size != end.size or not torch.equal(start.samples, end.samples):
        raise ValueError("the drift compares kernels of the same samples, these differ: pass the same indices.")
    if start.matrix is None or end.matrix is None:
        raise ValueError(f"the drift needs both kernels as matrices, of at most {LARGEST:,} rows: use fewer samples.")
    change = torch.linalg.matrix_norm(end.matrix - start.matrix)
    return float(change / torch.linalg.matrix_norm(start.matrix))


@dataclass(frozen=True)
class KernelPath:
    """The tangent kernel along a run.

    steps: (m,) where theta was saved. drift: (m,) norm(K - K_0)/norm(K_0). movement: (m,) norm(theta - theta_0) /
    norm(theta_0). lambda_min, lambda_max: (m,).
    """

    steps: np.ndarray
    drift: np.ndarray
    movement: np.ndarray
    lambda_min: np.ndarray
    lambda_max: np.ndarray

    @property
    def lazy(self) -> bool:
        """Whether training was lazy: the kernel never moved by more than a tenth (our choice) of its norm.

        Then the network is, on these samples, its linearisation at the start (Chizat, Oyallon and Bach 2019).
        """
        return bool(self.drift.max() < 0.1)


def kernel_path(problem: Problem, run: Run, indices: torch.Tensor, points: int = 6) -> KernelPath:
    """The kernel of the samples `indices` at `points` saved thetas, spread over the run, the first and last included.

    Raises ValueError when fewer than two thetas were saved.
    """
    saved = run.vector_steps("theta")
    if saved.size < 2:
        raise ValueError(f"the drift needs at least two saved thetas, the run has {saved.size}.")
    steps = saved[np.unique(np.linspace(0, saved.size - 1, min(points, saved.size)).round().astype(int))]
    thetas = [run.vector(int(step)).to(problem.device, problem.dtype) for step in steps]
    first = ntk(problem, thetas[0], indices)
    rows = []
    for theta in thetas:
        kernel = first if theta is thetas[0] else ntk(problem, theta, indices)
        moved = float(torch.linalg.vector_norm(theta - thetas[0]) / torch.linalg.vector_norm(thetas[0]))
        rows.append((kernel_drift(first, kernel), moved, kernel.lambda_min, kernel.lambda_max))
    drift, movement, low, high = np.array(rows).T
    return KernelPath(steps, drift, movement, low, high)
