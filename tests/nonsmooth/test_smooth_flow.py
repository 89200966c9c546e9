"""Flows integrated from kink to kink against closed forms; what several solutions leave, or two kinks end, is not."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from tameopt.nonsmooth.graph import trace_function
from tameopt.nonsmooth.smooth_flow import smooth_flow
from tameopt.nonsmooth.subgradient_flow import inclusion


def _checks(path, truth, events):
    assert path.status == "integrated" and path.unique and len(path.events) == events
    assert np.abs(path.points - truth).max() <= 1e-12
    assert path.error < 1e-9 and abs(path.energy_defect) < 1e-12 and path.chain_rule_defect < 1e-12


def _exp(x0, t):
    """x' = -exp(x)."""
    return -math.log(math.exp(-x0) + t)


def test_a_smooth_function():
    _checks(inclusion(lambda x: x.exp().sum(), [1], [0, 1.0]), [[1], [_exp(1, 1)]], 1)


def test_a_coordinate_is_extinct_and_the_other_slides_on():
    path = inclusion(lambda x: x[0].exp() + 2 * x[1].abs(), [1, 1], [0.2, 0.5, 3.0])
    _checks(path, [[_exp(1, 0.2), 0.6], [_exp(1, 0.5), 0], [_exp(1, 3), 0]], 2)
    assert path.events[1].t == pytest.approx(0.5, abs=1e-12)


def test_a_kink_is_crossed():
    """x' = -exp(x) - 1, so (exp(-x) + 1)' = exp(-x) + 1, until x = 0, then x' = -exp(x)."""
    hit = math.log(2 / (math.exp(-1) + 1))
    first = -math.log((math.exp(-1) + 1) * math.exp(0.1) - 1)
    path = inclusion(lambda x: (x.exp() + torch.relu(x)).sum(), [1], [0.1, hit, 1.0])
    _checks(path, [[first], [0], [_exp(0, 1 - hit)]], 2)


def test_a_slide_along_a_circle():
    """relu(norm(x)^2 - 1) + x_0 from (0, 2): on the circle the angle obeys phi' = sin phi."""
    first = lambda t: np.array([(np.exp(-2 * t) - 1) / 2, 2 * np.exp(-2 * t)])  # noqa: E731
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if first(middle) @ first(middle) > 1 else (low, middle)
    angle = 2 * np.arctan(np.tan(np.arctan2(*first(low)[::-1]) / 2) * np.exp(2 - low))
    path = inclusion(lambda x: torch.relu(x.square().sum() - 1) + x[0], [0, 2], [0.2, 2.0])
    _checks(path, [first(0.2), [np.cos(angle), np.sin(angle)]], 2)


def test_a_slide_ends_where_one_side_turns():
    """abs(y) + exp(x) y - x slides along x' = 1 until exp(x) = 1; then y < 0."""
    F = lambda z: z[1].abs() + z[0].exp() * z[1] - z[0]  # noqa: E731
    path = inclusion(F, [-1, 0.5], [0.2, 0.8, 1.5])
    assert path.status == "integrated" and len(path.events) == 3
    at, x = float(path.events[1].t), float(path.events[1].x[0])
    assert path.points[1] == pytest.approx([x + 0.8 - at, 0], abs=1e-12)
    assert path.events[2].t == pytest.approx(at - x, abs=1e-12)
    below = lambda _, z: [1 - np.exp(z[0]) * z[1], 1 - np.exp(z[0])]  # noqa: E731
    rest = solve_ivp(below, (at - x, 1.5), [0, 0], method="DOP853", rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(path.points[2], rest.y[:, -1], atol=1e-11)
    assert path.points[2, 1] < -0.01 and abs(path.energy_defect) < 1e-11


def test_max_and_min_and_a_repelling_kink_that_is_not_met():
    F = lambda z: torch.maximum(z[0].exp(), z[1]) - torch.minimum(z[1], z[0] - 9) / 2 - (z[1] - 20).abs()  # noqa: E731
    path = inclusion(F, [1, 1], [0.25])
    _checks(path, [[_exp_half(1, 0.25), 1 - 0.25]], 1)


def _exp_half(x0, t):
    """x' = 1/2 - exp(x), u = exp(-x): u' = 1 - u / 2."""
    return -math.log(2 + (math.exp(-x0) - 2) * math.exp(-t / 2))


@pytest.mark.parametrize(
    "F,x0",
    [
        (lambda z: z[0].exp() - z[1].abs(), [0, 0]),  # a start on a kink that several solutions leave
        (lambda z: z[0].exp() + z[1].abs() + z[2].abs(), [0, 1, 1]),  # two kinks at once
        (lambda z: z[0].exp() + z[1].abs() + (2 * z[1]).abs(), [0, 1]),  # the same twice
        (lambda z: z[0].exp() + z[1].abs() + z[2].abs(), [0, 0.5, 1]),  # a second one during a slide
        (lambda z: z[0].exp() + (z[1] * z[1]).abs().sqrt(), [0, 1]),  # a root
        (lambda z: z[0].exp() + z[1].abs() ** 1.5, [0, 1]),  # a power that is not Lipschitz at 0
        pytest.param(lambda z: -z[0].exp() - z[1].abs(), [0, 1], marks=pytest.mark.slow),  # unbounded at t = 1
        (lambda z: z[0].exp() + z.detach().square().sum(), [0, 1]),  # autograd returns something else
        (lambda z: (z * 3000).exp().sum() * 1e3, [0, 0]),  # not within the work allowed, or stiff
    ],
)
def test_what_is_not_claimed(F, x0):
    x = torch.tensor(x0, dtype=torch.float64)
    assert smooth_flow(trace_function(F, x), tuple(x.tolist()), [2.0], 1000) is None


def test_many_events_are_not_followed():
    F = lambda x: x.exp().sum() + torch.relu(x).sum()  # noqa: E731
    graph = trace_function(F, torch.ones(1, dtype=torch.float64))
    assert smooth_flow(graph, (1.0,), [1.0], 1) is None and smooth_flow(graph, (1.0,), [1.0], 2) is not None
