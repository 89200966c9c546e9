"""Block Lanczos against spectra known in closed form, and its diagnoses when something goes wrong."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.curvature.lanczos import ritz_pairs
from tameopt.curvature.tall import STRETCH
from tameopt.linear_operator import SymmetricOperator


def diagonal(values, dtype=torch.float64, name="D"):
    d = torch.as_tensor(values, dtype=torch.float64).to(dtype)
    return SymmetricOperator(d.numel(), lambda block: d[:, None] * block, dtype, torch.device("cpu"), name)


def laplacian(n):
    """1-D Dirichlet Laplacian: eigenvalues 2 - 2 cos(k pi / (n + 1))."""

    def product(block):
        image = 2 * block
        image[1:] -= block[:-1]
        image[:-1] -= block[1:]
        return image

    return SymmetricOperator(n, product, torch.float64, torch.device("cpu"), "Laplacian")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_ends_of_the_laplacian(dtype):
    n = 300
    pairs = ritz_pairs(laplacian(n), 4, max_products=4000, tolerance=1e-8)
    exact = sorted(2 - 2 * math.cos(j * math.pi / (n + 1)) for j in range(1, n + 1))
    expected = torch.tensor(exact[:4] + exact[-4:], dtype=torch.float64)
    assert pairs.converged.all()
    # the error of an eigenvalue is at most its residual
    assert ((pairs.values - expected).abs() <= pairs.errors).all()


@pytest.mark.parametrize("dtype, floor", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_multiplicities_are_seen_and_no_ghosts_appear(dtype, floor):
    """Without reorthogonalisation the top eigenvalue comes back in copies: here it is simple, 7 is sevenfold."""
    values = torch.cat(
        [torch.tensor([100.0]), torch.full((7,), 50.0), torch.rand(400, generator=torch.Generator().manual_seed(0))]
    )
    pairs = ritz_pairs(diagonal(values, dtype), 10, which="largest", block_size=4, max_products=4000)
    found = pairs.values.flip(0)
    assert int((found > 99).sum()) == 1
    assert int(((found - 50).abs() < 1e-2).sum()) == 7
    gram = pairs.vectors.T @ pairs.vectors
    assert float((gram - torch.eye(gram.shape[0], dtype=dtype)).abs().max()) < floor


def test_restarts_keep_what_is_converged():
    values = torch.linspace(-1, 1, 800, dtype=torch.float64)
    pairs = ritz_pairs(diagonal(values), 3, max_basis=24, max_products=5000, tolerance=1e-7)
    assert pairs.converged.all(), pairs.failure
    assert torch.allclose(pairs.values[-3:], values[-3:], atol=1e-9)
    assert torch.allclose(pairs.values[:3], values[:3], atol=1e-9)


@pytest.mark.parametrize("dtype, max_basis", [(torch.float32, 26), (torch.float32, None), (torch.float64, 26)])
def test_residuals_from_the_recurrence_are_those_of_products(dtype, max_basis):
    """Eight orders of magnitude, a double eigenvalue and many restarts: what the recurrence loses is in `noise`."""
    values = torch.cat([torch.logspace(-6, 2, 700), torch.tensor([100.0, 0.0]), -torch.logspace(-5, 0, 98)])
    operator = diagonal(values, dtype)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        pairs = ritz_pairs(operator, 4, max_basis=max_basis, max_products=200, tolerance=1e-9, generator=generator)
        vectors = pairs.vectors.double()
        true = (values.double()[:, None] * vectors - vectors * pairs.values).norm(dim=0)
        assert (true <= pairs.errors).all()
        assert (pairs.residuals <= true + pairs.noise).all()
        # the noise stays rounding: without it the residuals would say nothing
        assert pairs.noise <= 3e3 * torch.finfo(dtype).eps * 100


def test_a_zero_operator_and_one_dimension():
    pairs = ritz_pairs(diagonal(torch.zeros(40)), 3)
    assert pairs.values.abs().max() == 0 and pairs.converged.all()
    alone = ritz_pairs(diagonal([3.0]), 3)
    assert alone.complete and alone.values.tolist() == [3.0]


def test_interlacing_counts_never_exceed_the_truth():
    values = torch.cat(
        [
            -torch.rand(30, generator=torch.Generator().manual_seed(1)),
            torch.rand(200, generator=torch.Generator().manual_seed(2)),
        ]
    )
    pairs = ritz_pairs(diagonal(values), 2, max_products=40)
    for cut in (-0.9, -0.5, -0.1, 0.0, 0.5):
        assert int((pairs.all_ritz < cut - pairs.noise).sum()) <= int((values < cut).sum())
        assert int((pairs.all_ritz > cut + pairs.noise).sum()) <= int((values > cut).sum())


def test_missed_bounds_the_end_that_few_products_leave_out():
    values = torch.cat([torch.zeros(999), torch.tensor([1.0])])
    short = ritz_pairs(diagonal(values), 1, block_size=1, max_products=3)
    assert short.missed() == math.inf or short.all_ritz[-1] + short.missed() >= 1
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        bulk = torch.linspace(-1, 1, 500, dtype=torch.float64)
        pairs = ritz_pairs(diagonal(bulk), 1, block_size=1, max_products=30, tolerance=1e-12, generator=generator)
        assert pairs.all_ritz[-1] <= 1 + pairs.noise
        assert pairs.all_ritz[-1] + pairs.missed() >= 1
    with pytest.raises(ValueError, match=r"probability must lie in \(0, 1\), got 2"):
        pairs.missed(2.0)


def test_warm_start_takes_fewer_products():
    values = torch.cat([torch.linspace(0, 1, 2000, dtype=torch.float64), torch.tensor([1.05, 5.0])])
    cold = ritz_pairs(diagonal(values), 1, tolerance=1e-6)
    warm = ritz_pairs(diagonal(values * 1.01), 1, tolerance=1e-6, start=cold.vectors)
    assert warm.converged.all() and warm.products < cold.products
    assert float(warm.values[-1]) == pytest.approx(5.05, abs=1e-8)


def test_a_nan_product_is_a_diagnosis_and_keeps_what_was_found():
    calls = []

    def product(block):
        calls.append(1)
        return torch.arange(100.0, dtype=torch.float64)[:, None] * block * (float("nan") if len(calls) > 3 else 1)

    broken = SymmetricOperator(100, product, torch.float64, torch.device("cpu"), "broken")
    pairs = ritz_pairs(broken, 1, tolerance=1e-14, block_size=4)
    assert pairs.failure == "a product of broken is not finite"
    assert pairs.all_ritz.numel() == 12


def test_running_out_of_products_is_said():
    pairs = ritz_pairs(diagonal(torch.linspace(0, 1, 1000)), 3, max_products=12, tolerance=1e-9)
    assert "did not converge in 12 products" in pairs.failure
    assert not pairs.converged.all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"which": "top"}, "which must be 'both', 'largest' or 'smallest', got 'top'"),
        ({"tolerance": 0.0}, "tolerance must be > 0, got 0.0"),
        ({"start": torch.ones(3, 1)}, r"start must have shape \(5, s\), got \(3, 1\)"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ritz_pairs(diagonal(torch.ones(5)), **arguments)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-10, 10, allow_nan=False, width=32), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_small_spectra_are_found_whole(values, k, block_size):
    """On the whole space the Ritz values are the eigenvalues: ties, zeros and tiny numbers included."""
    pairs = ritz_pairs(diagonal(values), k, block_size=block_size, tolerance=1e-13)
    exact = torch.tensor(sorted(values), dtype=torch.float64)
    assert pairs.all_ritz[0] >= exact[0] - pairs.noise - 1e-12
    assert pairs.all_ritz[-1] <= exact[-1] + pairs.noise + 1e-12
    if pairs.complete:
        assert torch.allclose(pairs.all_ritz, exact, atol=1e-10)


def test_a_cluster_at_the_end_has_its_true_residuals_and_multiplicity():
    """Fivefold, split by 1e-9, with blocks of two: what is called converged solves A v = value v, counted fresh."""
    values = torch.cat([torch.full((5,), 9.0) + 1e-9 * torch.arange(5.0), torch.linspace(-1, 1, 395)]).double()
    operator = diagonal(values)
    pairs = ritz_pairs(operator, 5, which="largest", tolerance=1e-8, max_products=4000)
    true = (operator @ pairs.vectors - pairs.vectors * pairs.values).norm(dim=0)
    assert (true[pairs.converged] <= 1e-8 * 9.1).all()
    # never more copies than there are
    assert 2 <= int((pairs.values > 8).sum()) <= 5


@pytest.mark.parametrize("width", [1, 3, 8])
def test_a_block_wider_than_the_space_and_a_negative_definite_operator(width):
    pairs = ritz_pairs(diagonal([-5.0, -2.0, -2.0, -1.0]), 4, block_size=width)
    assert pairs.complete
    assert torch.allclose(pairs.values, torch.tensor([-5.0, -2.0, -2.0, -1.0], dtype=torch.float64))


def test_a_start_orthogonal_to_the_wanted_vector_still_finds_it():
    values = torch.cat([torch.linspace(-1, 1, 299), torch.tensor([30.0])]).double()
    start = torch.eye(300, dtype=torch.float64)[:, :3]
    pairs = ritz_pairs(diagonal(values), 2, start=start)
    assert float(pairs.values[-1]) == pytest.approx(30.0, abs=1e-9)


def test_the_basis_stays_orthonormal_where_directions_of_a_block_die():
    """Rank three plus zero: from the second step on most of a block is nothing new, and random columns go on."""
    values = torch.cat([torch.tensor([4.0, -3.0, 2.0]), torch.zeros(197)])
    for dtype in (torch.float64, torch.float32):
        pairs = ritz_pairs(diagonal(values, dtype), 2, block_size=3, max_products=60, tolerance=1e-12)
        gram = pairs.vectors.T @ pairs.vectors
        assert float((gram - torch.eye(gram.shape[0], dtype=dtype)).abs().max()) < 100 * torch.finfo(dtype).eps
        assert pairs.values.tolist() == pytest.approx([-3, 0, 2, 4], abs=1e-4)


@pytest.mark.parametrize("max_basis", [None, 20])
def test_the_basis_is_orthonormal_and_the_residuals_true_in_float32_over_many_stretches(max_basis):
    """One local and one full pass: checked by the vectors' Gram matrix and by products in float64."""
    d = 3 * STRETCH + 17
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(d, generator=generator, dtype=torch.float64) / 10
    values[:6] = torch.tensor([40.0, 39.0, 39.0, -20.0, -19.0, 11.0])
    pairs = ritz_pairs(diagonal(values, torch.float32), 3, max_basis=max_basis, max_products=400)
    assert pairs.converged.all()
    assert pairs.values.tolist()[3:] == pytest.approx([39, 39, 40], abs=1e-4)
    vectors = pairs.vectors.double()
    gram = vectors.T @ vectors - torch.eye(6, dtype=torch.float64)
    assert float(gram.abs().max()) < 2e-5  # an entry near 1 and thousands near 0 in one float32 sum
    residuals = (values[:, None] * vectors - vectors * pairs.values).norm(dim=0)
    assert (residuals <= pairs.errors).all()
