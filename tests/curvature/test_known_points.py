"""Every entry of the table of known critical points, each at random copies of it under the function's symmetries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch

from tameopt import Problem
from tameopt.curvature import classify

F64 = torch.float64


@dataclass(frozen=True)
class Known:
    """A critical point and what is known about it."""

    name: str
    F: Callable[[torch.Tensor], torch.Tensor]
    theta: torch.Tensor
    value: float | None  # None: the table has none
    index: int
    nullity: int


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def rotation(generator: torch.Generator, size: int) -> torch.Tensor:
    return torch.linalg.qr(normal(generator, size, size))[0]


def subsets(size: int, largest: int) -> Iterator[tuple[int, ...]]:
    for r in range(min(size, largest) + 1):
        yield from itertools.combinations(range(size), r)


def plane_points() -> Iterator[Known]:
    def wells(t: torch.Tensor) -> torch.Tensor:
        return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2

    yield Known("wells, saddle", wells, torch.zeros(2, dtype=F64), 0, 1, 0)
    for sign in (1.0, -1.0):
        yield Known(f"wells, minimum {sign}", wells, torch.tensor([0, sign], dtype=F64), -0.25, 0, 0)

    a, b, k, alpha = 1.0, 0.5, 0.7, 0.3
    c = k * (1 - (1 - alpha * a) ** 2) / alpha

    def curved(t: torch.Tensor) -> torch.Tensor:
        x, y = t
        return a * x**2 / 2 - k * c * x**4 / 2 + c * x**2 * y - b * (y - k * x**2) ** 2 / 2

    yield Known("curved stable manifold", curved, torch.zeros(2, dtype=F64), 0, 1, 0)
    yield Known("half of the starts", lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3, torch.zeros(2, dtype=F64), 0, 0, 1)

    def himmelblau(t: torch.Tensor) -> torch.Tensor:
        return (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2

    for index, value, near in (
        (0, 0, (3.0, 2.0)), (0, 0, (3.58, -1.85)), (0, 0, (-3.78, -3.28)), (0, 0, (-2.81, 3.13)),
        (1, None, (3.39, 0.07)), (1, None, (0.09, 2.88)), (1, None, (-3.07, -0.08)),
        (1, None, (-0.13, -1.95)), (2, 181.616522, (-0.27, -0.92)),
    ):  # fmt: skip
        at = torch.tensor(near, dtype=F64)
        for _ in range(20):  # Newton's method from the literature's two digits
            at = at - torch.linalg.solve(torch.func.hessian(himmelblau)(at), torch.func.grad(himmelblau)(at))
        yield Known(f"Himmelblau {near}", himmelblau, at, value, index, 0)


def two_layers(s: Sequence[float], k: int) -> Iterator[Known]:
    """norm(W2 W1 - Y)^2 / 2, Y = U diag(s) V^T: any invertible map of the hidden layer gives a critical point."""
    d = len(s)
    for number, kept in enumerate(subsets(d, k)):
        generator = torch.Generator().manual_seed(100 * k + number)
        U, V = rotation(generator, d), rotation(generator, d)
        G = rotation(generator, k) + 0.4 * normal(generator, k, k) / math.sqrt(k)
        W2, W1 = torch.zeros(d, k, dtype=F64), torch.zeros(k, d, dtype=F64)
        for unit, j in enumerate(kept):
            W2[j, unit] = W1[unit, j] = math.sqrt(s[j])
        theta = torch.cat([(U @ W2 @ G).reshape(-1), torch.linalg.solve(G, W1 @ V.T).reshape(-1)])
        Y = U @ torch.diag(torch.tensor(s, dtype=F64)) @ V.T

        def F(t: torch.Tensor, Y: torch.Tensor = Y) -> torch.Tensor:
            return (t[: d * k].view(d, k) @ t[d * k :].view(k, d) - Y).square().sum() / 2

        r, left = len(kept), [j for j in range(d) if j not in kept]
        crossed = sum(s[j] > s[i] for i in kept for j in left)
        loss = sum(s[j] ** 2 for j in left) / 2
        yield Known(f"two layers {k}, {kept}", F, theta, loss, (k - r) * (d - r) + crossed, r * r + 2 * r * (k - r))


def factorisations(mu: Sequence[float], k: int) -> Iterator[Known]:
    """norm(X X^T - M)^2 / 4: X times any orthogonal matrix is a critical point again."""
    d = len(mu)
    for number, kept in enumerate(subsets(d, k)):
        generator = torch.Generator().manual_seed(200 * k + number)
        U, Q = rotation(generator, d), rotation(generator, k)
        X = torch.zeros(d, k, dtype=F64)
        for column, j in enumerate(kept):
            X[j, column] = math.sqrt(mu[j])
        M = U @ torch.diag(torch.tensor(mu, dtype=F64)) @ U.T

        def F(t: torch.Tensor, M: torch.Tensor = M) -> torch.Tensor:
            return (t.view(d, k) @ t.view(d, k).T - M).square().sum() / 4

        r, left = len(kept), [j for j in range(d) if j not in kept]
        crossed = sum(mu[j] > mu[i] for i in kept for j in left)
        value = sum(mu[j] ** 2 for j in left) / 4
        theta = (U @ X @ Q).reshape(-1)
        index, nullity = (k - r) * (d - r) + crossed, r * (r - 1) // 2 + r * (k - r)
        yield Known(f"X X^T {k}, {kept}", F, theta, value, index, nullity)


def products(n: int, y: float) -> Iterator[Known]:
    """(prod w_i - y)^2 / 2: minima up to scalings of product 1 and pairs of signs; the origin, flat for n >= 3."""

    def F(t: torch.Tensor) -> torch.Tensor:
        return (t.prod() - y) ** 2 / 2

    generator = torch.Generator().manual_seed(n)
    for copy in range(4):
        scales = torch.exp(0.4 * normal(generator, n))
        signs = torch.sign(normal(generator, n))
        signs[0] = math.copysign(1.0, y) * signs[1:].prod()
        w = signs * scales / scales.prod() ** (1 / n) * abs(y) ** (1 / n)
        yield Known(f"product of {n}, minimum {copy}", F, w, 0, 0, n - 1)
    origin = torch.zeros(n, dtype=F64)
    # two weights: y times the antidiagonal, a strict saddle
    index, nullity = (1, 0) if n == 2 else (0, n)
    yield Known(f"product of {n}, origin", F, origin, y * y / 2, index, nullity)
    if n >= 3:
        once = origin.clone()
        once[0] = 1.5  # n - 2 other zeros hold the Hessian flat, for n = 3 but two directions
        flat = (1, 1) if n == 3 else (0, n)
        yield Known(f"product of {n}, one weight not 0", F, once, y * y / 2, *flat)


ENTRIES = [
    *plane_points(),
    *two_layers((4.0, 3.0, 2.0, 1.0), 3),
    *two_layers((4.0, 3.0, 2.0, 1.0), 5),
    *factorisations((3.0, 2.0, 1.0), 2),
    *factorisations((4.0, 3.0, 2.0, 1.0), 3),
    *factorisations((3.0, 2.0, 1.0), 4),
    *[known for n in (2, 3, 4) for known in products(n, 2.0)],
    *products(3, -1.5),
]


@pytest.mark.parametrize("known", ENTRIES, ids=lambda known: known.name)
def test_index_and_nullity(known: Known) -> None:
    point = classify(Problem.from_function(known.F, known.theta))
    assert known.value is None or point.value == pytest.approx(known.value, abs=1e-6)
    assert (point.index, point.nullity) == (known.index, known.nullity)
    least, most = point.index_interval
    assert least <= known.index <= most
    if known.index:
        assert point.kind == ("maximum" if known.index == known.theta.numel() else "strict saddle")
    else:
        assert point.kind == ("degenerate" if known.nullity else "minimum")
