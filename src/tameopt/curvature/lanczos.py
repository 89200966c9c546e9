"""Block Lanczos for the ends of a spectrum, with thick restarts and residuals that are computed, not recurred.

A V = V T + Q C + E is kept with V: (d, m) orthonormal to rounding, Q the next block and C = Q^T A V small. An image
is made orthogonal first to the few blocks that it meets by symmetry, then to all of V, where rounding is left, and
once more where much cancels. Each pass is one product of matrices, so a GPU is asked for one number a block and not
one a projection. A V is not stored, which would double the memory: what the recurrence loses, E, is measured by norm
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

from tameopt.curvature.tall import combine, inner, orthonormal, subtract
from tameopt.linear_operator import SymmetricOperator
from tameopt.memory import available_bytes

Which = Literal["both", "largest", "smallest"]

# our choice: V takes at most half of the memory that is available, unless max_basis says otherwise
_BASIS_SHARE = 0.5
# our choice: a full pass is repeated where less than this share of a direction is left after it; rounding grows by
# the inverse
_LEFT = 0.1


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
    capacity = _capacity(operator, k, which, block.shape[0], max_basis)
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


def _random(operator: SymmetricOperator, rows: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, d), drawn on the CPU in float64, so that a seed means the same vectors on every device and dtype."""
    drawn = torch.randn(operator.dim, rows, generator=generator, dtype=torch.float64)
    return drawn.T.to(operator.device, operator.dtype).contiguous()


def _first_block(
    operator: SymmetricOperator, width: int, start: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """(s, d) orthonormal rows to begin with."""
    if start is None:
        return orthonormal(_random(operator, width, generator))[0]
    warm = start.to(operator.device, operator.dtype)[:, : max(operator.dim - 1, 1)].T
    fresh = _random(operator, max(width - warm.shape[0], 1), generator)
    return orthonormal(torch.cat([warm, fresh])[: operator.dim])[0]


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
        self.removed = 0.0  # norm of what the last pass took from the image

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
        dim, name, capacity, width = self.operator.dim, self.operator.name, self._basis.shape[0], block.shape[0]
        enough = min(len(self.wanted(dim, self.k)), capacity)
        while True:
            # as rows: with two tall columns in place of them the same products take two to seven times as long (MKL)
            image = self.operator.product(block.T).T.contiguous()
            self.products += block.shape[0]
            self.scale = max(self.scale, length := float(image.norm(dim=1).max()))
            if not math.isfinite(length):
                return self._result(f"a product of {name} is not finite")
            rest = self.expand(block, image)
            full = self.size >= dim
            spent = self.products + width > limit
            block = self.next_block(rest, min(width, dim - self.size))
            # a last, narrower block may just complete the space: a restart there leads nowhere
            crowded = self.size + block.shape[0] > capacity
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
        """Take a block (s, d) and its image in; return what of the image lies outside the span of V, (s, d)."""
        old, new = self.size, self.size + block.shape[0]
        self._basis[old:new] = block
        self.size = new
        grown = torch.zeros(new, new, dtype=torch.float64)
        grown[:old, :old] = self.projected
        if old:
            grown[old:, :old] = self.coupling
        self.degree += 1
        if self.restarts == 0:
            self.degree_before_restart = self.degree
        # by symmetry the image meets what met the block: the block before it, or all of V after a restart
        met = int(self.coupling.any(dim=0).int().argmax()) if old else 0
        for first in (met, 0) if met else (0,):
            known = self._basis[first:new]
            coefficients = inner(image, known).cpu()
            grown[first:, old:] += coefficients.T
            self.removed = float(coefficients.norm())
            subtract(image, coefficients, known)
        self.projected = grown
        return image

    def next_block(self, rest: torch.Tensor, width: int) -> torch.Tensor:
        """The next block (s, d): orthonormal, orthogonal to V, its span holding what is new in `rest`.

        Directions in which nothing new is left are replaced by random ones: the subspace is invariant there, and
        only a fresh vector can find what it misses, multiplicities above all. "Nothing" is relative to the
        operator's size; an absolute threshold would stop early on flat landscapes and late on steep ones.
        """
        eps = torch.finfo(self.operator.dtype).eps
        width_before = rest.shape[0]
        block, triangle, lost = orthonormal(rest)
        # the rank that a triangle does not reveal; its SVD costs nothing
        left, sizes, _ = torch.linalg.svd(triangle.T)
        new = sizes > 100 * eps * self.scale
        missing = width - int(new.sum())
        cancelled = not float(sizes[-1]) > _LEFT * math.hypot(float(sizes[0]), self.removed)
        coupling = triangle.T
        if missing or cancelled:
            rest = triangle.to(block) @ block
            if not bool(new.all()):
                block = left[:, new].T.to(block) @ block
            if missing > 0:
                block = torch.cat([block, _random(self.operator, missing, self.generator)])
            block = block[:width]
            for _ in range(2 if missing > 0 else 1):
                known = self._basis[: self.size]
                block = orthonormal(subtract(block, inner(block, known), known))[0]
            coupling = inner(block, rest).cpu()
            lost += float(subtract(rest, coupling.T, block).norm())
        self.coupling = torch.zeros(block.shape[0], self.size, dtype=torch.float64)
        self.coupling[:, self.size - width_before :] = coupling
        self.lost = math.hypot(self.lost, lost)
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
        self.size = combine(rotation.T, self._basis[: self.size]).shape[0]
        # rounding of a rotation, times A: each vector is a sum of `size` products; and what T's asymmetry leaves over
        rounding = torch.finfo(self.operator.dtype).eps * math.sqrt(values.numel()) * float(values.abs().max())
        self.lost = math.hypot(self.lost, rounding, float(((self.projected - symmetric) @ rotation).norm()))
        self.projected = rotation.T @ self.projected @ rotation
        self.coupling = self.coupling @ rotation
        self.restarts += 1
