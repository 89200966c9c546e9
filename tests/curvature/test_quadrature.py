"""Densities, traces, diagonals and log-determinants against spectra known in closed form."""

import math

import pytest
import torch

import tameopt as tame
from tameopt.curvature.quadrature import Estimate
from tameopt.linear_operator import SymmetricOperator


def diagonal_operator(values, dtype=torch.float64):
    d = torch.as_tensor(values, dtype=torch.float64).to(dtype)
    return SymmetricOperator(d.numel(), lambda block: d[:, None] * block, dtype, torch.device("cpu"), "D")


def rotated(values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(values.numel(), values.numel(), generator=generator, dtype=torch.float64))[0]
    matrix = Q @ torch.diag(values) @ Q.T
    matrix = (matrix + matrix.T) / 2
    return SymmetricOperator(
        values.numel(), lambda block: matrix @ block, torch.float64, torch.device("cpu"), "R"
    ), matrix


def test_m_steps_are_exact_for_polynomials_of_degree_2m_minus_1():
    operator, matrix = rotated(torch.linspace(-1, 2, 40))
    generator = torch.Generator().manual_seed(3)
    found = tame.curvature.density(operator, num_vectors=3, steps=4, generator=generator)
    drawn = torch.randn(40, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    vectors = drawn / drawn.norm(dim=0)
    for degree in range(8):
        exact = (vectors * (torch.linalg.matrix_power(matrix, degree) @ vectors)).sum(dim=0)
        by_quadrature = (found.weights * found.nodes**degree).sum(dim=1)
        assert torch.allclose(by_quadrature, exact, atol=1e-10)
    # and no longer for degree 8
    exact = (vectors * (torch.linalg.matrix_power(matrix, 8) @ vectors)).sum(dim=0)
    assert not torch.allclose((found.weights * found.nodes**8).sum(dim=1), exact, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_and_density_with_their_bands(dtype):
    values = torch.cat([torch.zeros(700), torch.ones(250), torch.full((50,), 5.0)])
    found = tame.curvature.density(diagonal_operator(values, dtype), num_vectors=20, steps=20)
    share = found.share_below(0.5)
    assert abs(share.value - 0.7) < 5 * share.standard_error and share.standard_error < 0.02
    grid, height, error = found.on_grid()
    assert float(torch.trapezoid(height, grid)) == pytest.approx(1.0, abs=1e-3)
    assert bool((error >= 0).all())
    assert float(grid[height.argmax()]) == pytest.approx(0.0, abs=0.1)
    # three distinct eigenvalues: the rest of the steps must carry no weight and no ghosts
    heavy = found.nodes[found.weights > 1e-4]
    assert all(min(abs(float(node) - c) for c in (0, 1, 5)) < 1e-3 for node in heavy)


def test_the_errors_cover_the_truth():
    """The trace by quadrature lies within 4 standard errors, 40 times out of 40."""
    operator, matrix = rotated(torch.cat([torch.linspace(0, 1, 80), torch.tensor([10.0, 20.0])]))
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        found = tame.curvature.density(operator, num_vectors=12, steps=10, generator=generator)
        estimate = found.trace_of(lambda values: values)
        assert abs(estimate.value - float(matrix.trace())) < 4.5 * estimate.standard_error + 1e-9


def test_hutch_plus_plus_and_the_exact_case():
    operator, matrix = rotated(
        torch.cat([torch.rand(300, generator=torch.Generator().manual_seed(0)) * 0.01, torch.tensor([50.0, 30.0])])
    )
    found = tame.curvature.trace(operator, products=60)
    assert abs(found.value - float(matrix.trace())) < 5 * found.standard_error + 1e-9
    # the two big eigenvalues are found exactly, so that the error is that of the rest
    assert found.standard_error < 0.1
    small, exact = rotated(torch.arange(5.0))
    assert tame.curvature.trace(small).value == pytest.approx(float(exact.trace()))
    assert tame.curvature.trace(small).standard_error == 0
    with pytest.raises(ValueError, match="products must be at least 6"):
        tame.curvature.trace(small, products=5)


def test_the_diagonal_with_its_errors():
    operator, matrix = rotated(torch.linspace(1, 2, 200))
    found = tame.curvature.diagonal(operator, num_vectors=100)
    distance = (found.values - matrix.diagonal()).abs() / found.standard_errors
    assert float(distance.max()) < 5 and float(distance.mean()) < 1.2
    small, exact = rotated(torch.arange(4.0))
    assert torch.allclose(tame.curvature.diagonal(small).values, exact.diagonal())
    with pytest.raises(ValueError, match="at least 2"):
        tame.curvature.diagonal(small, num_vectors=1)


def test_log_determinant_and_its_domain():
    values = torch.linspace(0.5, 3, 150, dtype=torch.float64)
    operator, _ = rotated(values)
    found = tame.curvature.log_determinant(operator, num_vectors=20, steps=30)
    assert abs(found.value - float(values.log().sum())) < 5 * found.standard_error
    shifted = tame.curvature.log_determinant(rotated(values - 1)[0], shift=1.0, num_vectors=20, steps=30)
    assert abs(shifted.value - float(values.log().sum())) < 5 * shifted.standard_error
    with pytest.raises(ValueError, match="log det needs a positive definite operator"):
        tame.curvature.log_determinant(rotated(values - 1)[0])


def test_diagnoses():
    broken = SymmetricOperator(5, lambda block: block * math.nan, torch.float64, torch.device("cpu"), "broken")
    assert "a product of broken is not finite at step 0" in tame.curvature.density(broken).failure
    with pytest.raises(ValueError, match="num_vectors and steps must be at least 1"):
        tame.curvature.density(broken, steps=0)
    one = tame.curvature.density(diagonal_operator([1.0, 2.0]), num_vectors=1)
    assert one.mean_of(lambda values: values).standard_error == math.inf
    with pytest.raises(ValueError, match="width must be > 0"):
        one.on_grid(width=0.0)


def test_intervals_are_students():
    # the 97.5% quantile for 9 degrees of freedom is 2.262 (any table)
    low, high = Estimate(3.0, 0.5, 10, 600).interval
    assert (high - 3.0) / 0.5 == pytest.approx(2.262, abs=5e-4) and high + low == pytest.approx(6.0)
    assert Estimate(3.0, 0.0, 50, 50).interval == (3.0, 3.0)
    assert Estimate(3.0, math.inf, 1, 60).interval == (-math.inf, math.inf)
