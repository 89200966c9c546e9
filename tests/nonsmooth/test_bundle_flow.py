"""Flows that slide along curved kinks, or are not quadratic: within their bound; refused where not convex."""

import numpy as np
import pytest
import torch

from tameopt.nonsmooth.bundle_flow import NotConvex, bundle_flow
from tameopt.nonsmooth.subgradient_flow import inclusion


def _circle(times):
    """relu(norm(x)^2 - 1) + x_0 from (0, 2): a linear flow to the circle, on it the angle obeys phi' = sin phi."""
    first = lambda t: np.array([(np.exp(-2 * t) - 1) / 2, 2 * np.exp(-2 * t)])  # noqa: E731
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if first(middle) @ first(middle) > 1 else (low, middle)
    phi = np.arctan2(*first(low)[::-1])
    angles = [2 * np.arctan(np.tan(phi / 2) * np.exp(t - low)) for t in times]
    return [first(t) if t <= low else [np.cos(a), np.sin(a)] for t, a in zip(times, angles, strict=True)]


def test_a_slide_along_a_circle_stays_within_its_bound_and_converges():
    F = lambda x: torch.relu(x.square().sum() - 1) + x[0]  # noqa: E731
    times, errors = [0.2, 0.5, 1.0, 2.0], []
    for steps in (40, 160):
        flow = inclusion(F, [0, 2], times, steps=steps)
        assert flow.status == "bundle"
        errors.append(float(np.linalg.norm(flow.points - _circle(times), axis=1).max()))
        assert errors[-1] <= flow.error
    assert flow.error < 0.03
    assert errors[1] < 0.4 * errors[0]  # first order in the step


def test_a_function_that_is_not_quadratic():
    """exp: x(1) = -log(exp(-1) + 1) from 1."""
    flow = inclusion(lambda x: x.exp().sum(), [1], [1.0], steps=200)
    assert abs(flow.points[0, 0] + np.log(np.exp(-1) + 1)) <= flow.error < 0.01


def test_kinks_that_are_dependent_and_curved():
    F = lambda x: x.abs().sum() + torch.relu(x.square().sum() - 1) + (x[0] - x[1] - 0.2).abs()  # noqa: E731
    coarse, fine = (bundle_flow(F, np.array([1.0, 2.0]), [0.1, 0.5, 1.0], steps) for steps in (40, 300))
    assert np.linalg.norm(coarse.points - fine.points, axis=1).max() <= coarse.error + fine.error


@pytest.mark.parametrize("F", [lambda x: x.cos().sum() + x[0].abs(), lambda x: (x.square().sum() - 1).abs().sqrt()])
def test_what_is_not_convex_is_refused(F):
    with pytest.raises(ValueError, match="Pass prox="):
        inclusion(F, [2.0, 0.5], [3.0], steps=40)


def test_a_witness_against_convexity():
    with pytest.raises(NotConvex, match="a tangent plane lies above it"):
        bundle_flow(lambda x: x.cos().sum(), np.array([1.0]), [3.0], 20)


def test_backprop_that_is_no_subgradient_does_not_enter():
    """relu(x) - relu(-x) + 2 abs(x) = x + 2 abs(x), whose backprop at 0 is 0 without the gradient of x."""
    flow = bundle_flow(
        lambda x: (torch.relu(x) - torch.relu(-x) + 2 * x.abs()).sum(), np.array([1.0]), [0.1, 1.0], 20
    )
    assert abs(flow.points[0, 0] - 0.7) <= flow.error
    assert abs(flow.points[1, 0]) <= flow.error
