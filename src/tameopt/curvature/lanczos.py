"""Block Lanczos for the ends of a spectrum, with thick restarts and residuals that are computed, not recurred.

A V = V T + Q B E^T is kept with V: (d, m) orthonormal to rounding (two full passes of reorthogonalisation, each
one product of matrices, so a GPU is asked for one number a block and not one a projection) and with W = A V
stored. Storing W doubles the memory and buys three things: true residuals with no further products, restarts with
no loss of accuracy, and the asymmetry of V^T W, which measures how noisy the operator's products are.

Sources: Golub and Underwood 1977 (block Lanczos); Wu and Simon 2000 (thick restart); Parlett 1980, section 13
(residual bounds); Kuczynski and Wozniakowski 1992, Theorem 4.2 (what a random start may have missed).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from tameopt.linear_operator import SymmetricOperator

Which = Literal["both", "largest", "smallest"]

_BASIS_BYTES = 4 << 30  # our choice: V and W together stay below 4 GiB unless max_basis says otherwise


@dataclass(frozen=True)
class RitzPairs:
    """Approximate eigenpairs of a symmetric operator, with what is known about their errors.

    values: (p,) float64, ascending: the wanted Ritz values. vectors: (d, p), orthonormal to rounding.
    residuals: (p,) norm(A v - value v), computed from products. There is an eigenvalue of A within
        residual + noise of each value.
    converged: (p,) bool, residual <= tolerance * max abs(value).
    all_ritz: (m,) every Ritz value of the last subspace, float64 ascending. By Cauchy's interlacing, A has at
        least as many eigenvalues below c as all_ritz has (to within noise), converged or not.
    noise: size of rounding in the products, from the asymmetry of V^T A V and the dtype.
    complete: the subspace is the whole space, so that `values` are all the wanted eigenvalues, with multiplicity.
    degree: block Lanczos steps from the random start before the first restart; enters `missed`.
    products: operator products, counted by column. failure: "" or what stopped the iteration early.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    residuals: torch.Tensor
    converged: torch.Tensor
    all_ritz: torch.Tensor
    noise: float
    complete: bool
    degree: int
    products: int
    dim: int
    failure: str = ""

    @property
    def errors(self) -> torch.Tensor:
        """(p,) for each value, a radius that holds an eigenvalue: residual + noise."""
        return self.residuals + self.noise

    def missed(self, probability: float = 0.01) -> float:
        """How far an end of the spectrum may lie beyond the outermost Ritz value, except with this probability.

        With a start vector uniform on the sphere, the largest eigenvalue exceeds the largest Ritz value of
        `degree` Lanczos steps by more than eps (lambda_max - lambda_min) with probability at most
        1.648 sqrt(d) exp(-sqrt(eps) (2 degree - 1)); likewise at the other end. Both ends together: twice that.
        Returns inf when too few steps were done to say anything, the noise when the subspace is complete.
        """
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie in (0, 1), got {probability}.")
        if self.complete:
            return self.noise
        root = math.log(2 * 1.648 * math.sqrt(self.dim) / probability) / max(2 * self.degree - 1, 1)
        share = root**2
        if 2 * share >= 1 or self.all_ritz.numel() == 0:
            return math.inf
        spread = float(self.all_ritz[-1] - self.all_ritz[0])
        return share * spread / (1 - 2 * share) + self.noise


def ritz_pairs(
    operator: SymmetricOperator,
    k: int = 10,
    *,
    which: Which = "both",
    tolerance: float | None = None,
    block_size: int = 4,
    max_basis: int | None = None,
    max_products: int | None = None,
    start: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> RitzPairs:
    """The k eigenpairs at one or both ends of a symmetric operator.

    k: pairs at each end, >= 1 (fewer when d is smaller). which: the end, or "both" in one run.
    tolerance: residual wanted, relative to the largest abs(Ritz value); by default 1e-6 (float64), 1e-4 (else).
    block_size: columns a step. An eigenvalue's multiplicity is seen up to the block size at once, and past it
        when an invariant subspace is found and a fresh random vector goes on.
    max_basis: columns of V before a restart. max_products: columns of operator products in all.
    start: (d, s) vectors to begin with, e.g. the Ritz vectors of a nearby theta; one random column at least is
        added, so that a direction they all miss is still found.
    generator: CPU generator of the random start; a fresh one seeded 0 when None.

    Raises ValueError on bad arguments. Not reaching the tolerance, or a NaN in a product, is no error:
    `converged` and `failure` say so, and what was found is kept. Cost: `products` columns, plus 4 d m^2 flops.

    >>> diagonal = torch.arange(1.0, 201.0, dtype=torch.float64)
    >>> A = SymmetricOperator(200, lambda block: diagonal[:, None] * block, torch.float64, torch.device("cpu"))
    >>> [round(float(value), 6) for value in ritz_pairs(A, 2).values]
    [1.0, 2.0, 199.0, 200.0]
    """
    _check(operator, k, which, tolerance, block_size, max_basis, max_products, start)
    if tolerance is None:
        tolerance = 1e-6 if operator.dtype == torch.float64 else 1e-4
    generator = generator or torch.Generator().manual_seed(0)
    iteration = _Iteration(operator, k, which, tolerance, generator)
    block = iteration.first_block(block_size, start)
    capacity = _capacity(operator, k, which, block.shape[1], max_basis)
    limit = max_products if max_products is not None else 10 * capacity
    return iteration.run(block, capacity, limit, notify)


def _check(
    operator: SymmetricOperator,
    k: int,
    which: str,
    tolerance: float | None,
    block_size: int,
    max_basis: int | None,
    max_products: int | None,
    start: torch.Tensor | None,
) -> None:
    if which not in ("both", "largest", "smallest"):
        raise ValueError(f"which must be 'both', 'largest' or 'smallest', got {which!r}.")
    for name, number in (
        ("k", k),
        ("block_size", block_size),
        ("max_basis", max_basis),
        ("max_products", max_products),
    ):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}: a residual is never exactly 0.")
    if start is not None and (start.ndim != 2 or start.shape[0] != operator.dim):
        raise ValueError(f"start must have shape ({operator.dim}, s), got {tuple(start.shape)}.")


def _capacity(operator: SymmetricOperator, k: int, which: Which, width: int, max_basis: int | None) -> int:
    """Columns of V: enough for the wanted pairs twice over and a few blocks, within the memory bound."""
    wanted = k * (2 if which == "both" else 1)
    least = wanted + 2 * width
    if max_basis is None:
        column_bytes = 2 * operator.dim * torch.finfo(operator.dtype).bits // 8
        max_basis = min(max(4 * wanted, 160), _BASIS_BYTES // column_bytes)
    return min(max(max_basis, least), operator.dim)


class _Iteration:
    """The state of one run: the basis V, its products W = A V and their projection T = V^T W, as computed."""

    def __init__(
        self, operator: SymmetricOperator, k: int, which: Which, tolerance: float, generator: torch.Generator
    ) -> None:
        self.operator = operator
        self.k = k
        self.which = which
        self.tolerance = tolerance
        self.generator = generator
        self.products = 0
        self.degree = 0
        self.restarts = 0
        self.degree_before_restart = 0
        self.scale = torch.finfo(operator.dtype).tiny
        self.basis = torch.empty(operator.dim, 0, dtype=operator.dtype, device=operator.device)
        self.images = self.basis
        self.projected = torch.empty(0, 0, dtype=torch.float64)

    def random(self, columns: int) -> torch.Tensor:
        # drawn on the CPU in float64, so that a seed means the same vectors on every device and dtype
        drawn = torch.randn(self.operator.dim, columns, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.operator.device, self.operator.dtype)

    def first_block(self, block_size: int, start: torch.Tensor | None) -> torch.Tensor:
        dim = self.operator.dim
        width = min(block_size, dim)
        if start is None:
            return torch.linalg.qr(self.random(width))[0]
        warm = start.to(self.operator.device, self.operator.dtype)[:, : max(dim - 1, 1)]
        fresh = self.random(max(width - warm.shape[1], 1))
        return torch.linalg.qr(torch.cat([warm, fresh], dim=1)[:, :dim])[0]

    def wanted(self, m: int, k: int) -> list[int]:
        """Positions of the wanted values among m ascending ones."""
        low = range(min(k, m)) if self.which in ("both", "smallest") else range(0)
        high = range(max(m - k, 0), m) if self.which in ("both", "largest") else range(0)
        return sorted({*low, *high})

    def run(self, block: torch.Tensor, capacity: int, limit: int, notify: Callable[[str], None]) -> RitzPairs:
        dim, name = self.operator.dim, self.operator.name
        next_check = 2
        while True:
            image = self.operator.product(block)
            self.products += block.shape[1]
            if not bool(torch.isfinite(image).all()):
                return self._result(f"a product of {name} is not finite")
            rest = self.expand(block, image)
            full = self.basis.shape[1] >= dim
            crowded = self.basis.shape[1] + block.shape[1] > capacity
            spent = self.products + block.shape[1] > limit
            if full or crowded or spent or self.degree >= next_check:
                next_check = self.degree + max(2, self.degree // 5)
                pairs = self.rayleigh_ritz()
                converged = bool(pairs.converged.all())
                notify(f"{name}: {self.products} products, {int(pairs.converged.sum())} pairs converged")
                if full or (converged and pairs.values.numel() >= len(self.wanted(dim, self.k))):
                    return pairs
                if spent:
                    return self._result(
                        f"{int((~pairs.converged).sum())} of {pairs.values.numel()} pairs did not converge in "
                        f"{self.products} products"
                    )
                if crowded:
                    self.restart(capacity, block.shape[1])
            block = self.orthonormalised(rest, block.shape[1])

    def expand(self, block: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Take a block and its image in; return what of the image lies outside the span of V."""
        old = self.basis.shape[1]
        self.basis = torch.cat([self.basis, block], dim=1)
        rows = block.T @ self.images
        self.images = torch.cat([self.images, image], dim=1)
        columns = self.basis.T @ image
        grown = torch.empty(old + block.shape[1], old + block.shape[1], dtype=torch.float64)
        grown[:old, :old] = self.projected
        grown[old:, :old] = rows.double().cpu()
        grown[:, old:] = columns.double().cpu()
        self.projected = grown
        self.degree += 1
        if self.restarts == 0:
            self.degree_before_restart = self.degree
        self.scale = max(self.scale, float(image.norm(dim=0).max()))
        return image - self.basis @ columns

    def orthonormalised(self, rest: torch.Tensor, width: int) -> torch.Tensor:
        """The next block: orthonormal, orthogonal to V, its span holding what is new in `rest`.

        Directions in which nothing new is left are replaced by random ones: the subspace is invariant there, and
        only a fresh vector can find what it misses, multiplicities above all. "Nothing" is relative to the
        operator's size; an absolute threshold would stop early on flat landscapes and late on steep ones.
        """
        room = self.operator.dim - self.basis.shape[1]
        eps = torch.finfo(self.operator.dtype).eps
        first, triangle = torch.linalg.qr(rest)
        # the rank that plain QR does not reveal; the SVD of a triangle of `width` columns costs nothing
        left, sizes, _ = torch.linalg.svd(triangle)
        block = (first @ left)[:, : sizes.numel()][:, sizes > 100 * eps * self.scale]
        missing = width - block.shape[1]
        if missing > 0:
            block = torch.cat([block, self.random(missing)], dim=1)
        block = block[:, :room]
        for _ in range(2):
            block = torch.linalg.qr(block - self.basis @ (self.basis.T @ block))[0]
        return block

    def rayleigh_ritz(self) -> RitzPairs:
        asymmetry = float((self.projected - self.projected.T).abs().max())
        values, small = torch.linalg.eigh((self.projected + self.projected.T) / 2)
        chosen = self.wanted(values.numel(), self.k)
        vectors = self.basis @ small[:, chosen].to(self.basis)
        difference = self.images @ small[:, chosen].to(self.basis) - vectors * values[chosen].to(self.basis)
        residuals = difference.norm(dim=0).double().cpu()
        norm = float(values.abs().max())
        # the asymmetry shows what rounding does to the products; 10 and 8 are our safety factors
        noise = 10 * asymmetry + 8 * torch.finfo(self.operator.dtype).eps * norm
        return RitzPairs(
            values=values[chosen],
            vectors=vectors,
            residuals=residuals,
            converged=residuals <= max(self.tolerance * norm, noise),
            all_ritz=values,
            noise=noise,
            complete=self.basis.shape[1] >= self.operator.dim,
            degree=self.degree_before_restart,
            products=self.products,
            dim=self.operator.dim,
        )

    def _result(self, failure: str) -> RitzPairs:
        if self.basis.shape[1] == 0:
            none = torch.zeros(0, dtype=torch.float64)
            return RitzPairs(
                none,
                self.basis,
                none,
                none.bool(),
                none,
                math.inf,
                False,
                0,
                self.products,
                self.operator.dim,
                failure,
            )
        return dataclasses.replace(self.rayleigh_ritz(), failure=failure)

    def restart(self, capacity: int, width: int) -> None:
        """Keep the wanted Ritz vectors and some neighbours, which keep the inner wanted ones converging."""
        values, small = torch.linalg.eigh((self.projected + self.projected.T) / 2)
        spare = capacity - len(self.wanted(values.numel(), self.k)) - 2 * width
        ends = 2 if self.which == "both" else 1
        chosen = self.wanted(values.numel(), self.k + max(spare // (2 * ends), 0))[: capacity - width]
        rotation = small[:, chosen]
        self.basis = self.basis @ rotation.to(self.basis)
        self.images = self.images @ rotation.to(self.images)
        self.projected = rotation.T @ self.projected @ rotation
        self.restarts += 1
