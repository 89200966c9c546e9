"""Goldstein sampling: an upper bound, and never more than that."""

import pytest
import torch

from tameopt.nonsmooth import goldstein


def test_abs_near_its_kink_is_stationary_at_the_scale_of_the_ball():
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    gradient = lambda x: torch.stack([x[0].sign(), torch.zeros(())])  # noqa: E731
    assert goldstein(gradient, theta, 1e-2, generator=generator).eps < 1e-12
    assert goldstein(gradient, theta, 1e-4, generator=generator).eps == pytest.approx(1.0)


def test_the_bound_is_one_sided():
    """In many dimensions few gradients miss the small element of the l1 norm's hull, and say so by staying large."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(200, dtype=torch.float64)
    few = goldstein(torch.sign, theta, 1.0, samples=20, generator=generator)
    many = goldstein(torch.sign, theta, 1.0, samples=600, generator=generator)
    assert 0 <= many.eps < 1e-10 < few.eps


def test_a_radius_is_required():
    with pytest.raises(ValueError, match="delta must be > 0"):
        goldstein(torch.sign, torch.zeros(2), 0.0, generator=torch.Generator())
