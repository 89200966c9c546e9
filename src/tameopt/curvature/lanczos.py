"""Block Lanczos for the ends of a spectrum, with thick restarts and residuals that are computed, not recurred.

A V = V T + Q C + E is kept with V: (d, m) orthonormal to rounding (two full passes of reorthogonalisation, each
one product of matrices, so a GPU is asked for one number a block and not one a projection), Q the next block and
C = Q^T A V small. A V is not stored, which would double the memory: what the recurrence loses, E, is measured by norm
block by block instead, and a Ritz pair's residual follows from T and C with no further products. The asymmetry of
T = V^T A V as computed measures how noisy the operator's products are.

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
from tameopt.memory import available_bytes

Which = Literal["both", "largest", "smallest"]

# our choice: V takes at most half of the memory that is available, unless max_basis says otherwise
_BASIS_SHARE = 0.5
# our choice: entries of d-vectors taken at once. No second V is held at a restart, and float32 sums stay short: over
# d = 1e7 entries a norm in one sum, as QR takes it, is wrong by 3e-4
_CHUNK = 1 << 16


@dataclass(frozen=True)
class RitzPairs:
    """Approximate eigenpairs of a symmetric operator, with what is known about their errors.

    values: (p,) float64, ascending: the wanted Ritz values. vectors: (d, p), orthonormal to rounding.
    residuals: (p,) norm(A v - value v), but for what `noise` holds. There is an eigenvalue of A within
        residual + noise of each value.
    converged: (p,) bool, residual <= tolerance * max abs(value).
    all_ritz: (m,) every Ritz value of the last subspace, float64 ascending. By Cauchy's interlacing, A has at
        least as many eigenvalues below c as all_ritz has (to within noise), converged or not.
    noise: size of rounding: in the products, from the asymmetry of V^T A V and the dtype, and in the recurrence.
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
    block_size: int = 2,
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
    width = min(block_size, operator.dim)
    block = _first_block(operator, width, start, generator)
    capacity = _capacity(operator, k, which, block.shape[1], max_basis)
    limit = max_products if max_products is not None else 10 * capacity
    return _Iteration(operator, k, which, tolerance, generator, capacity).run(block, limit, notify)


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
        column_bytes = operator.dim * torch.finfo(operator.dtype).bits // 8
        max_basis = min(max(4 * wanted, 160), int(_BASIS_SHARE * available_bytes(operator.device)) // column_bytes)
    return min(max(max_basis, least), operator.dim)


def _random(operator: SymmetricOperator, columns: int, generator: torch.Generator) -> torch.Tensor:
    # drawn on the CPU in float64, so that a seed means the same vectors on every device and dtype
    drawn = torch.randn(operator.dim, columns, generator=generator, dtype=torch.float64)
    return drawn.to(operator.device, operator.dtype)


def _inner(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """rows others^T in float64, from short sums in their own precision."""
    total = torch.zeros(rows.shape[0], others.shape[0], dtype=torch.float64, device=rows.device)
    for left, right in zip(rows.split(_CHUNK, dim=1), others.split(_CHUNK, dim=1), strict=True):
        total += left @ right.T
    return total


def _orthonormal(block: torch.Tensor) -> torch.Tensor:
    """(d, s) an orthonormal basis of the columns: QR, and for long ones a second time by Cholesky of short sums."""
    block = torch.linalg.qr(block)[0]
    if block.shape[0] <= _CHUNK:
        return block
    rows = block.T.contiguous()
    factor = torch.linalg.cholesky(_inner(rows, rows))
    inverse = torch.linalg.inv(factor)
    return (inverse.to(rows) @ rows).T


def _first_block(
    operator: SymmetricOperator, width: int, start: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    if start is None:
        return _orthonormal(_random(operator, width, generator))
    warm = start.to(operator.device, operator.dtype)[:, : max(operator.dim - 1, 1)]
    fresh = _random(operator, max(width - warm.shape[1], 1), generator)
    return _orthonormal(torch.cat([warm, fresh], dim=1)[:, : operator.dim])


class _Iteration:
    """The state of one run: the basis V, T = V^T A V and C = Q^T A V as computed, Q the block to come.

    V is the rows of a buffer of the final size: growing it would copy all of it at every step.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        k: int,
        which: Which,
        tolerance: float,
        generator: torch.Generator,
        capacity: int,
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
        self.size = 0
        self._basis = torch.empty(capacity, operator.dim, dtype=operator.dtype, device=operator.device)
        self.projected = torch.empty(0, 0, dtype=torch.float64)
        self.coupling = torch.empty(0, 0, dtype=torch.float64)
        self.lost = 0.0

    @property
    def basis(self) -> torch.Tensor:
        """(d, m) V."""
        return self._basis[: self.size].T

    def wanted(self, m: int, k: int) -> list[int]:
        """Positions of the wanted values among m ascending ones."""
        low = range(min(k, m)) if self.which in ("both", "smallest") else range(0)
        high = range(max(m - k, 0), m) if self.which in ("both", "largest") else range(0)
        return sorted({*low, *high})

    def run(self, block: torch.Tensor, limit: int, notify: Callable[[str], None]) -> RitzPairs:
        dim, name, capacity, width = self.operator.dim, self.operator.name, self._basis.shape[0], block.shape[1]
        enough = min(len(self.wanted(dim, self.k)), capacity)
        while True:
            image = self.operator.product(block)
            self.products += block.shape[1]
            if not bool(torch.isfinite(image.norm(dim=0)).all()):
                return self._result(f"a product of {name} is not finite")
            rest = self.expand(block, image)
            full = self.size >= dim
            spent = self.products + width > limit
            block = self.next_block(rest, min(width, dim - self.size))
            # a last, narrower block may just complete the space: a restart there leads nowhere
            crowded = self.size + block.shape[1] > capacity
            if full or spent or (self.size >= enough and self.seems_converged()):
                pairs = self.rayleigh_ritz()
                converged = bool(pairs.converged.all())
                notify(f"{name}: {self.products} products, {int(pairs.converged.sum())} pairs converged")
                if full or (converged and pairs.values.numel() >= enough):
                    return pairs
                if spent:
                    return self._result(
                        f"{int((~pairs.converged).sum())} of {pairs.values.numel()} pairs did not converge in "
                        f"{self.products} products"
                    )
            if crowded:
                self.restart(capacity, width)

    def seems_converged(self) -> bool:
        """Whether all wanted pairs reach the tolerance. Costs no d-vectors; asked for at every step while that is
        cheap, since a step too many is `width` products too many."""
        if self.size > 200 and self.degree % 2:
            return False
        values, _, residuals = self.ritz()
        return bool((residuals <= self.tolerance * float(values.abs().max())).all())

    def ritz(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(m,) all Ritz values, (m, p) coefficients of the wanted vectors, (p,) their residuals but for `lost`."""
        symmetric = (self.projected + self.projected.T) / 2
        values, small = torch.linalg.eigh(symmetric)
        small = small[:, self.wanted(values.numel(), self.k)]
        inside = ((self.projected - symmetric) @ small).norm(dim=0)
        return values, small, torch.hypot(inside, (self.coupling @ small).norm(dim=0))

    def expand(self, block: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Take a block and its image in; return what of the image lies outside the span of V."""
        old, new = self.size, self.size + block.shape[1]
        self._basis[old:new] = block.T
        self.size = new
        # as rows: with two tall columns in place of them the same products take two to seven times as long (MKL)
        rows = image.T.contiguous()
        inner = _inner(rows, self._basis[:new])
        grown = torch.empty(new, new, dtype=torch.float64)
        grown[:old, :old] = self.projected
        if old:
            grown[old:, :old] = self.coupling
        grown[:, old:] = inner.T.cpu()
        self.projected = grown
        self.degree += 1
        if self.restarts == 0:
            self.degree_before_restart = self.degree
        self.scale = max(self.scale, float(rows.norm(dim=1).max()))
        return rows.addmm_(inner.to(rows), self._basis[:new], alpha=-1).T

    def next_block(self, rest: torch.Tensor, width: int) -> torch.Tensor:
        """The next block: orthonormal, orthogonal to V, its span holding what is new in `rest`.

        Directions in which nothing new is left are replaced by random ones: the subspace is invariant there, and
        only a fresh vector can find what it misses, multiplicities above all. "Nothing" is relative to the
        operator's size; an absolute threshold would stop early on flat landscapes and late on steep ones.
        """
        eps = torch.finfo(self.operator.dtype).eps
        # the rank that plain QR does not reveal; the SVD of a triangle of `width` columns costs nothing
        block, triangle = torch.linalg.qr(rest)
        left, sizes, _ = torch.linalg.svd(triangle)
        new = sizes > 100 * eps * self.scale
        if not bool(new.all()):
            block = (left[:, new].T @ block.T).T
        missing = width - block.shape[1]
        if missing > 0:
            block = torch.cat([block, _random(self.operator, missing, self.generator)], dim=1)
        block = block[:, :width]
        # `rest` has had its first pass
        for _ in range(2 if missing > 0 else 1):
            rows, known = block.T.contiguous(), self._basis[: self.size]
            block = _orthonormal(rows.addmm_(_inner(rows, known).to(rows), known, alpha=-1).T)
        inner = _inner(block.T, rest.T)
        self.coupling = torch.zeros(block.shape[1], self.size, dtype=torch.float64)
        self.coupling[:, self.size - rest.shape[1] :] = inner.cpu()
        left_over = rest.T.contiguous().addmm_(inner.T.to(rest), block.T, alpha=-1)
        self.lost = math.hypot(self.lost, float(left_over.norm()))
        return block

    def rayleigh_ritz(self) -> RitzPairs:
        asymmetry = float((self.projected - self.projected.T).abs().max())
        values, small, residuals = self.ritz()
        chosen = self.wanted(values.numel(), self.k)
        vectors = (small.T.to(self.basis) @ self._basis[: self.size]).T
        norm = float(values.abs().max())
        # the asymmetry shows what rounding does to the products; 10 and 8 are our safety factors
        noise = 10 * asymmetry + 8 * torch.finfo(self.operator.dtype).eps * norm + self.lost
        return RitzPairs(
            values=values[chosen],
            vectors=vectors,
            residuals=residuals,
            converged=residuals <= max(self.tolerance * norm, noise),
            all_ritz=values,
            noise=noise,
            complete=self.size >= self.operator.dim,
            degree=self.degree_before_restart,
            products=self.products,
            dim=self.operator.dim,
        )

    def _result(self, failure: str) -> RitzPairs:
        if self.size == 0:
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
        symmetric = (self.projected + self.projected.T) / 2
        values, small = torch.linalg.eigh(symmetric)
        spare = capacity - len(self.wanted(values.numel(), self.k)) - 2 * width
        ends = 2 if self.which == "both" else 1
        chosen = self.wanted(values.numel(), self.k + max(spare // (2 * ends), 0))[: capacity - width]
        rotation = small[:, chosen]
        kept = rotation.to(self.basis).T
        for columns in self._basis.split(_CHUNK, dim=1):
            columns[: kept.shape[0]] = kept @ columns[: self.size]
        # rounding of a rotation, times A: each vector is a sum of `size` products; and what T's asymmetry leaves over
        rounding = torch.finfo(self.operator.dtype).eps * math.sqrt(self.size) * float(values.abs().max())
        self.lost = math.hypot(self.lost, rounding, float(((self.projected - symmetric) @ rotation).norm()))
        self.size = kept.shape[0]
        self.projected = rotation.T @ self.projected @ rotation
        self.coupling = self.coupling @ rotation
        self.restarts += 1
