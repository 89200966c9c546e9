"""Inner products and orthonormal bases of long rows, against float64 and against one product of matrices."""

import pytest
import torch

from tameopt.curvature import tall
from tameopt.curvature.tall import STRETCH, combine, inner, orthonormal, subtract


def rows(count, d, dtype=torch.float64, seed=0):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 5, STRETCH, 2 * STRETCH + 3])
def test_the_stretches_add_up_to_one_product(count, d):
    left, right, factors = rows(count, d), rows(4, d, seed=1), rows(count, 4, seed=2)
    expected = left @ right.T
    scale = float(left.norm() * right.norm())
    assert float((inner(left, right) - expected).abs().max()) < 1e-14 * scale
    assert float((tall._inner_at_once(left, right, stretch=1000) - expected).abs().max()) < 1e-14 * scale
    assert torch.allclose(subtract(left.clone(), factors, right), left - factors @ right, atol=1e-12)
    assert torch.allclose(combine(factors, right.clone()), factors @ right, atol=1e-12)


def test_long_float32_rows_are_orthonormal_to_rounding():
    # a norm of 4 million entries in one float32 sum is wrong in the fifth digit
    d = 1 << 22
    given = torch.rand(2, d, generator=torch.Generator().manual_seed(3))
    basis, triangle, lost = orthonormal(given.clone())
    gram = basis.double() @ basis.double().T
    assert float((gram - torch.eye(2)).abs().max()) < 1e-6
    assert float((triangle @ basis.double() - given.double()).norm()) <= lost < 1e-5 * float(given.norm())
    exact = basis.double() @ torch.ones(d, 1, dtype=torch.float64)
    assert float((inner(basis, torch.ones(1, d)) - exact).abs().max()) < 1e-5 * float(exact.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [50, 2 * STRETCH + 1])
@pytest.mark.parametrize("share", [1e-3, 1e-9, 0.0])
def test_nearly_dependent_rows(dtype, d, share):
    """The second row is the first and a share of another: L shows it, and Q is orthonormal all the same."""
    given = rows(2, d, dtype)
    given[1] = given[0] + share * given[1]
    basis, triangle, lost = orthonormal(given.clone())
    eps = torch.finfo(dtype).eps
    gram = basis.double() @ basis.double().T
    assert float((gram - torch.eye(2)).abs().max()) < 30 * eps
    norm = float(given.double().norm())
    assert float((triangle @ basis.double() - given.double()).norm()) <= lost < 1e4 * eps * norm
    smallest = float(torch.linalg.svdvals(triangle)[-1])
    assert smallest == pytest.approx(share * d**0.5 / 2**0.5, rel=0.3, abs=30 * eps * norm)
    assert (triangle.triu(1) == 0).all()
