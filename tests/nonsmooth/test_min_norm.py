"""The least-norm point against closed forms, an independent QP solver, and exact rationals."""

import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from tameopt.nonsmooth import min_norm

_FILE = Path(__file__).parents[2] / "benchmarks" / "nonsmooth_min_norm.py"
BENCHMARK = runpy.run_path(str(_FILE))


def _by_nnls(points):
    """The same by non-negative least squares with a heavy row for sum w = 1 (Lawson & Hanson's ldp form)."""
    m = len(points)
    heavy = 1e4 * max(np.abs(points).max(), 1.0)
    weights, _ = nnls(np.vstack([points.T, heavy * np.ones((1, m))]), np.r_[np.zeros(points.shape[1]), heavy])
    weights = weights / weights.sum()
    return np.linalg.norm(weights @ points)


def test_known_answers():
    assert min_norm([[1, 0], [0, 1]]).point == [Fraction(1, 2)] * 2
    assert min_norm([[1, 1, 0], [1, 0, 1], [0, 1, 1]]).point == [Fraction(2, 3)] * 3
    assert min_norm([[-1, 3], [2, 0], [0, -2]]).squared_distance == 0
    assert min_norm(torch.tensor([[1.0, 1.0], [-1.0, 1.0]])).distance == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("m,d", [(16, 4), (64, 32), (30, 500), (256, 64)])
def test_relative_error_at_a_known_distance(m, d, distance):
    """Points on a hyperplane <e, p> = distance around its foot: the answer is known."""
    rng = np.random.default_rng(m + d)
    e = rng.standard_normal(d)
    e /= np.linalg.norm(e)
    cloud = rng.standard_normal((m, d))
    cloud -= np.outer(cloud @ e, e)
    weights = rng.dirichlet(np.ones(m))
    cloud -= weights @ cloud
    result = min_norm(cloud + distance * e)
    assert result.distance == pytest.approx(distance, rel=1e-8)
    assert result.lower_bound == pytest.approx(distance, rel=1e-6)
    assert result.lower_bound <= distance * (1 + 1e-9)
    np.testing.assert_allclose(result.weights.sum(), 1.0, atol=1e-12)
    assert result.weights.min() >= 0


@pytest.mark.parametrize(
    "m,d", [(32, 100), (40, 500), pytest.param(256, 2000, marks=pytest.mark.slow)]
)  # fmt: skip
@pytest.mark.parametrize("distance", [0.0, 1e-12])
def test_absolute_error_near_zero_against_integers(m, d, distance):
    """The distance of the points as rounded, which is not the one that they were made for, to 1e-15 of their size."""
    rng = np.random.default_rng(m)
    cloud = rng.standard_normal((m, d)) * 10.0 ** -rng.uniform(0, 2, d)
    cloud -= rng.dirichlet(np.full(m, 5.0)) @ cloud
    cloud[:, 0] = distance
    result = min_norm(cloud)
    above, below = BENCHMARK["exact_distance"](cloud, np.asarray(result.weights))
    assert above == pytest.approx(below, rel=1e-9)
    assert above != distance
    assert abs(result.distance - above) < 1e-15


def test_zero_inside_is_found():
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((200, 20))
    cloud -= cloud.mean(0)
    assert min_norm(cloud).distance < 1e-14


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_float_rational_and_qp_agree(m, d, seed):
    rng = np.random.default_rng(seed)
    whole = rng.integers(-4, 5, (m, d))  # repeated and degenerate points are common here
    exact = min_norm(whole)
    assert exact.exact
    inexact = min_norm(whole.astype(float))
    assert inexact.distance == pytest.approx(exact.distance, rel=1e-9, abs=1e-13)
    assert _by_nnls(whole.astype(float)) == pytest.approx(exact.distance, rel=1e-5, abs=1e-5)
    # the optimality certificate, exactly
    products = [sum(Fraction(int(a)) * b for a, b in zip(row, exact.point, strict=True)) for row in whole]
    assert min(products) == exact.squared_distance


def test_bad_points():
    with pytest.raises(ValueError, match=r"must be \(m, d\)"):
        min_norm(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="must be finite, row 1"):
        min_norm(np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match=r"must be \(m, d\)"):
        min_norm([[1, 2], [1]])
