"""Deep linear networks: the table of index and nullity, at symmetric copies of every critical point."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tameopt import Problem
from tameopt.curvature import classify
from tameopt.curvature.linear_networks import inertia
from tameopt.structure.linear_chain import linear_chain

EXAMPLE = (4.0, 3.0, 2.0, 1.0)


def table(s: Sequence[float], k: int, kept: Sequence[int]) -> tuple[int, int]:
    """Index and nullity: (k-r)(d-r) + card{(s, j): s_j > s_s}, r^2 + 2 r (k-r)."""
    r, d = len(kept), len(s)
    crossed = sum(s[j] > s[i] for i in kept for j in range(d) if j not in kept)
    return (k - r) * (d - r) + crossed, r * r + 2 * r * (k - r)


def critical_point(
    s: Sequence[float], k: int, kept: Sequence[int], *, depth: int = 2, invertible: bool = False, seed: int = 0
) -> Problem:
    """The critical point that keeps these singular values, moved by random rotations of inputs and outputs and by
    orthogonal (or any invertible) maps of the hidden layers; inputs white, or not where invertible."""
    generator = torch.Generator().manual_seed(seed)
    d = len(s)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    U, V = torch.linalg.qr(normal(d, d))[0], torch.linalg.qr(normal(d, d))[0]
    dims = [d, *[k] * (depth - 1), d]
    layers = [torch.zeros(dims[j + 1], dims[j], dtype=torch.float64) for j in range(depth)]
    for channel, j in enumerate(kept):
        for position, W in enumerate(layers):
            W[channel if position < depth - 1 else j, channel if position else j] = s[j] ** (1 / depth)
    layers[0], layers[-1] = layers[0] @ V.T, U @ layers[-1]
    for j in range(depth - 1):
        G = torch.linalg.qr(normal(k, k))[0]
        if invertible:
            G = G + 0.3 * normal(k, k) / k**0.5
        layers[j], layers[j + 1] = G @ layers[j], layers[j + 1] @ torch.linalg.inv(G)
    X = torch.eye(d, dtype=torch.float64)
    target = V @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ U.T
    if invertible:
        X = normal(3 * d, d)
        spread, axes = torch.linalg.eigh(X.T @ X)
        whiten = axes / spread.sqrt() @ axes.T
        layers[0] = layers[0] @ whiten
        target = X @ whiten @ target
    model = nn.Sequential(*[nn.Linear(W.shape[1], W.shape[0], bias=False) for W in layers]).double()
    for layer, W in zip(model, layers, strict=True):
        layer.weight.data.copy_(W)
    return Problem(model, lambda out, y: (out - y).square().sum() / 2, (X, target), reduction="sum")


@pytest.mark.parametrize("invertible", [False, True])
@pytest.mark.parametrize("k", [3, 5])
def test_every_entry_of_the_table(k: int, invertible: bool) -> None:
    for r in range(min(k, 4) + 1):
        for kept in itertools.combinations(range(4), r):
            problem = critical_point(EXAMPLE, k, kept, invertible=invertible, seed=r)
            found = inertia(problem)
            assert found is not None
            negative, null, gap = found.counts(1e-6)
            assert (negative, null) == table(EXAMPLE, k, kept)
            assert gap > 1e6


@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_networks_agree_with_the_dense_hessian(depth: int) -> None:
    for kept in ((), (0,), (1, 2), (0, 1, 2, 3)):
        problem = critical_point(EXAMPLE, 4, kept, depth=depth, seed=depth)
        found = inertia(problem)
        values = torch.linalg.eigvalsh(problem.hessian().dense())
        zero = 1e-9 * max(float(values.abs().max()), 1.0)
        if not kept:
            assert not problem.hessian().dense().any()  # the origin of a deep network: no curvature at all
            continue
        assert found is not None
        assert found.counts(1e-6)[:2] == (int((values < -zero).sum()), int((values.abs() <= zero).sum()))


def test_classify_counts_where_it_does_not_see_all_eigenvalues() -> None:
    problem = critical_point(EXAMPLE, 3, (0, 1))
    point = classify(problem, dense_below=0, max_products=12)
    assert (point.kind, point.index, point.nullity) == ("strict saddle", 2, 8)
    assert point.index_interval == (2, 10) and point.nullity_interval == (0, 8)
    assert "2 of 24 eigenvalues are negative, 8 are 0 to rounding" in point.reason


class Written(nn.Module):
    """The same map, its matrices stored and multiplied in another way."""

    def __init__(self, layers: Sequence[torch.Tensor], way: str) -> None:
        super().__init__()
        self.way = way
        turned = way == "stored by inputs"
        # parameters in another order than they are used
        for j in reversed(range(len(layers))):
            self.register_parameter(f"W{j}", nn.Parameter((layers[j].T if turned else layers[j]).clone()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        W = [getattr(self, f"W{j}") for j in range(len(list(self.parameters())))]
        if self.way == "stored by inputs":
            for one in W:
                x = x @ one
            return x
        if self.way == "the matrices first":
            whole = W[0]
            for one in W[1:]:
                whole = one @ whole
            return x @ whole.T
        if self.way == "samples in columns":
            x = x.T
            for one in W:
                x = one @ x
            return x.T
        for one in W:
            x = nn.functional.linear(x.unsqueeze(1), one).squeeze(1)
        return x


@pytest.mark.parametrize("way", ["stored by inputs", "the matrices first", "samples in columns", "more dimensions"])
@pytest.mark.parametrize("depth, kept", [(2, (0, 2)), (3, (1, 2))])
def test_any_way_to_write_the_product(way: str, depth: int, kept: tuple[int, ...]) -> None:
    plain = critical_point(EXAMPLE, 3, kept, depth=depth, invertible=True)
    data = plain.batches.whole
    model = Written([layer.weight.detach() for layer in plain.model], way)
    for options in ({"reduction": "mean"}, {"reduction": "mean", "batch_size": 8}):
        problem = Problem(model, nn.MSELoss(), data, **options)
        found = inertia(problem)
        assert found is not None
        values = torch.linalg.eigvalsh(problem.hessian().dense())
        zero = 1e-9 * float(values.abs().max())
        counts = int((values < -zero).sum()), int((values.abs() <= zero).sum())
        assert found.counts(1e-6)[:2] == counts
        if depth == 2:
            assert counts == table(EXAMPLE, 3, kept)


def test_a_point_that_is_no_number_has_no_count() -> None:
    problem = critical_point(EXAMPLE, 3, (0, 1))
    assert inertia(problem, torch.full_like(problem.theta, torch.nan)) is None


def test_nothing_is_counted_where_the_bases_do_not_fit() -> None:
    # not critical; a kink between the layers; another loss: the remainder tells, no count is given
    away = critical_point(EXAMPLE, 3, (0, 1))
    theta = away.theta + 0.3 * torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert inertia(away, theta) is None
    torch.manual_seed(0)
    bent = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 4, bias=False)).double()
    data = (torch.randn(9, 4).double(), torch.randn(9, 4).double())
    assert inertia(Problem(bent, nn.functional.mse_loss, data)) is None
    quartic = Problem(away.model, lambda out, y: (out - y).pow(4).sum(), (data[0], data[1]), reduction="sum")
    assert inertia(quartic) is None
    biased = Problem(nn.Linear(4, 4).double(), nn.functional.mse_loss, data)
    assert inertia(biased) is None
    assert inertia(Problem.from_function(lambda t: t.square().sum(), torch.ones(4))) is None


@pytest.mark.slow
def test_a_hundred_thousand_parameters_in_two_minutes() -> None:
    d = 224
    s = [(d - j) / d for j in range(d)]
    for kept in (range(100), range(50, 150)):
        problem = critical_point(s, d, list(kept))
        began = time.perf_counter()
        found = inertia(problem)
        assert found is not None and problem.dim > 100_000
        assert found.counts(1e-6)[:2] == table(s, d, list(kept))
        assert time.perf_counter() - began < 120


class TakesDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["x"] @ self.weight.T


def test_batches_that_are_no_pair_of_tensors_are_no_linear_network() -> None:
    x, y = torch.ones(4, 3), torch.zeros(4, 2)
    problem = Problem(TakesDict(), nn.functional.mse_loss, ({"x": x}, y))
    assert "no single floating tensor" in linear_chain(problem).reason
    assert inertia(problem) is None
    assert classify(problem, dense_below=2).kind == "not critical"
