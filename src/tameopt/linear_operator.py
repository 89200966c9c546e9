"""A symmetric linear operator known by its products, and its algebra.

`Problem.hessian` returns one; `curvature` computes with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class SymmetricOperator:
    """A symmetric (d, d) matrix A as the map V -> A V on blocks of columns.

    dim: d. product: (d, m) tensor -> (d, m) tensor, linear; called with 2-d input only.
    dtype, device: of what the product takes and returns.
    name: in messages and plots.
    products_per_column: cost of a column in Hessian-vector products over the whole data set.
    """

    dim: int
    product: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype
    device: torch.device
    name: str = "operator"
    products_per_column: float = 1.0

    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        """A v for v of shape (d,) or A V for V of shape (d, m).

        Raises ValueError on any other shape, TypeError for what is no tensor.
        """
        if not isinstance(vectors, torch.Tensor):
            raise TypeError(f"{self.name} takes tensors, got {type(vectors).__name__}: use torch.as_tensor.")
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.dim:
            raise ValueError(
                f"{self.name} takes vectors of shape ({self.dim},) or ({self.dim}, m), got {tuple(vectors.shape)}."
            )
        block = vectors.to(dtype=self.dtype, device=self.device)
        if block.ndim == 1:
            return self.product(block[:, None])[:, 0]
        return self.product(block)

    def __add__(self, other: SymmetricOperator) -> SymmetricOperator:
        if not isinstance(other, SymmetricOperator):
            raise TypeError(
                f"an operator takes another one in + and -, got {type(other).__name__}: A + sigma I is "
                "A.shift(sigma)."
            )
        if other.dim != self.dim:
            raise ValueError(f"operators must have equal dimensions, got {self.dim} and {other.dim}.")
        return SymmetricOperator(
            self.dim,
            lambda block: self.product(block) + (other @ block),
            self.dtype,
            self.device,
            f"{self.name} + {other.name}",
            self.products_per_column + other.products_per_column,
        )

    def __mul__(self, factor: float) -> SymmetricOperator:
        factor = _number(factor, "the factor of an operator")
        return SymmetricOperator(
            self.dim,
            lambda block: factor * self.product(block),
            self.dtype,
            self.device,
            f"{factor:g} {self.name}",
            self.products_per_column,
        )

    __rmul__ = __mul__

    def __neg__(self) -> SymmetricOperator:
        return self * -1.0

    def __sub__(self, other: SymmetricOperator) -> SymmetricOperator:
        return self + (-other if isinstance(other, SymmetricOperator) else other)

    def shift(self, sigma: float) -> SymmetricOperator:
        """A + sigma I."""
        sigma = _number(sigma, "the shift of an operator")
        return SymmetricOperator(
            self.dim,
            lambda block: self.product(block) + sigma * block,
            self.dtype,
            self.device,
            f"{self.name} + {sigma:g} I",
            self.products_per_column,
        )

    def restrict(self, indices: torch.Tensor) -> SymmetricOperator:
        """The principal submatrix on the coordinates `indices`: (m,) int64, each once and in [0, d); or (d,) bool.

        Raises ValueError for others.
        """
        indices = self._coordinates(indices)

        def product(block: torch.Tensor) -> torch.Tensor:
            full = torch.zeros(self.dim, block.shape[1], dtype=self.dtype, device=self.device)
            full[indices] = block
            return self.product(full)[indices]

        return SymmetricOperator(
            int(indices.numel()),
            product,
            self.dtype,
            self.device,
            f"{self.name} on {indices.numel()} coordinates",
            self.products_per_column,
        )

    def _coordinates(self, indices: torch.Tensor) -> torch.Tensor:
        chosen = torch.as_tensor(indices, device=self.device)
        if chosen.dtype is torch.bool and chosen.shape == (self.dim,):
            chosen = chosen.nonzero()[:, 0]
        if chosen.ndim != 1 or chosen.numel() == 0 or chosen.is_floating_point() or chosen.dtype is torch.bool:
            raise ValueError(
                f"indices must be a non-empty vector of whole numbers, or one bool for each of {self.dim} "
                f"coordinates; got {chosen.dtype} of shape {tuple(chosen.shape)}."
            )
        chosen = chosen.to(torch.int64)
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= self.dim or chosen.unique().numel() != chosen.numel():
            raise ValueError(
                f"indices must be different coordinates in [0, {self.dim}), got {low} to {high}"
                f"{'' if chosen.unique().numel() == chosen.numel() else ', some more than once'}."
            )
        return chosen

    def dense(self) -> torch.Tensor:
        """The (d, d) matrix, by d products, symmetrised (rounding alone makes it unsymmetric)."""
        matrix = self.product(torch.eye(self.dim, dtype=self.dtype, device=self.device))
        return (matrix + matrix.T) / 2

    def to_scipy(self) -> Any:
        """The same as a scipy.sparse.linalg.LinearOperator."""
        from scipy.sparse.linalg import LinearOperator

        from tameopt.extras import numpy_dtype

        def product(block: Any) -> Any:
            return (self @ torch.as_tensor(block)).detach().cpu().numpy()

        return LinearOperator(
            (self.dim, self.dim),
            matvec=lambda vector: product(vector.reshape(-1)),
            matmat=product,
            rmatvec=lambda vector: product(vector.reshape(-1)),
            dtype=numpy_dtype(self.dtype),
        )


def _number(given: float, what: str) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a real number, got {type(given).__name__}.") from None
