"""Exactness and working accuracy are different things: a minimum in floating point is no refutation."""

from __future__ import annotations

import tameopt as tame


def test_a_point_critical_to_rounding_is_critical_although_its_gradient_is_not_exactly_zero() -> None:
    problem = tame.problems.load("deep-linear")
    theta = problem.theta
    for _ in range(1500):
        theta = theta - 0.05 * problem.gradient(theta)
    assert 0 < float(problem.gradient(theta).norm()) < 1e-12
    point = tame.curvature.classify(problem, theta)
    assert point.kind != "not critical"
    assert point.nullity == 9  # r^2 + 2 r (k - r) with r = k = 3
