"""How often do the 95% intervals of trace, diagonal, log-determinant and density hold the truth?

python benchmarks/curvature_coverage.py [SEEDS]

A known matrix, 300 x 300: eigenvalues from a power law, three spikes, in random position. An interval is the estimate
+- Student's quantile of standard errors, `Estimate.interval`. A row an estimator: coverage found over seeds, and the
mean error in standard errors (bias).
The diagonal and the bands of the density are covered entry by entry. Products are counted for one call.
"""

from __future__ import annotations

import math
import sys

import torch

from tameopt import curvature
from tameopt.curvature.quadrature import Estimate
from tameopt.linear_operator import SymmetricOperator
from tameopt.student import student_quantile

D = 300


def known() -> tuple[SymmetricOperator, torch.Tensor, torch.Tensor]:
    """The operator, its matrix and its eigenvalues."""
    generator = torch.Generator().manual_seed(1)
    values = torch.cat(
        [torch.tensor([30.0, 15.0, 8.0]), 0.1 + 2 * torch.rand(D - 3, generator=generator) ** 3]
    ).double()
    turned = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
    matrix = (turned * values) @ turned.T
    return SymmetricOperator(D, lambda block: matrix @ block, torch.float64, torch.device("cpu")), matrix, values


def main(seeds: int) -> None:
    operator, matrix, values = known()
    scores: dict[str, list[torch.Tensor]] = {}
    products: dict[str, int] = {}
    samples: dict[str, int] = {}

    def note(name: str, value: torch.Tensor, error: torch.Tensor, truth: torch.Tensor, spent: int, size: int) -> None:
        scores.setdefault(name, []).append(((value - truth) / error).reshape(-1))
        products[name], samples[name] = spent, size

    def note_number(name: str, one: Estimate, truth: torch.Tensor) -> None:
        numbers = map(torch.tensor, (one.value, one.standard_error))
        note(name, *numbers, truth, one.products, one.sample_size)

    for seed in range(seeds):

        def fresh(offset: int, seed: int = seed) -> torch.Generator:
            return torch.Generator().manual_seed(10 * seed + offset)

        for spent in (30, 60):
            one = curvature.trace(operator, products=spent, generator=fresh(1))
            note_number(f"trace, {spent} products", one, values.sum())
        many = curvature.diagonal(operator, num_vectors=30, generator=fresh(2))
        note("diagonal, 30 vectors", many.values, many.standard_errors, matrix.diagonal(), 30, 30)
        for vectors in (10, 30):
            found = curvature.log_determinant(operator, num_vectors=vectors, generator=fresh(3))
            note_number(f"log det, {vectors} vectors", found, values.log().sum())
            bulk = curvature.density(operator, num_vectors=vectors, generator=fresh(4))
            note_number(f"share below 1, {vectors} vectors", bulk.share_below(1.0), (values < 1.0).double().mean())
            grid, height, error = bulk.on_grid(60, width=0.3)
            bell = torch.exp(-(((grid[:, None] - values) / 0.3) ** 2) / 2).mean(1) / (0.3 * math.sqrt(2 * math.pi))
            seen = bell > 1e-3
            note(f"density's bands, {vectors} vectors", height[seen], error[seen], bell[seen], bulk.products, vectors)
    print(f"{seeds} seeds, d = {D}, torch {torch.__version__}")
    for name, parts in scores.items():
        z = torch.cat(parts)
        covered = (z.abs() <= student_quantile(samples[name] - 1)).double().mean()
        print(
            f"{name:32s} {products[name]:5d} products  covered {float(covered):6.1%}"
            f"  bias {float(z.mean()):+.2f} standard errors"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
