"""Flows of sums of powers against their closed forms and against integration; near misses are not claimed."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from tameopt.nonsmooth.subgradient_flow import inclusion


def _truth(p, c, u0, t):
    """By hand: u^(2-p) = u0^(2-p) - c p (2-p) t, extinct where it reaches 0."""
    return max(0.0, u0 ** (2 - p) - c * p * (2 - p) * t) ** (1 / (2 - p))


SHARES = (0.0, 0.3, 0.9, 1 - 1e-6, 1 - 1e-12, 1.0, 1 + 1e-12, 1.3, 50.0)


@pytest.mark.parametrize("p", [1.2, 1.5, 1.8])
@pytest.mark.parametrize("x0", [1.0, -2.5, 1e-3])
def test_one_power_into_its_extinction(p, x0):
    end = abs(x0) ** (2 - p) / (p * (2 - p))
    times = [share * end for share in SHARES]
    path = inclusion(lambda x: (x.abs() ** p).sum(), [x0], times)
    truth = [np.sign(x0) * _truth(p, 1.0, abs(x0), t) for t in times]
    np.testing.assert_allclose(path.points[:, 0], truth, rtol=1e-12, atol=1e-15)
    assert path.status == "closed form" and path.unique and path.error == 0
    assert path.points[-1, 0] == path.points[-2, 0] == 0
    assert [float(event.t) for event in path.events] == [0, pytest.approx(end, rel=1e-14)]
    assert path.events[1].x == (0,) and path.events[1].velocity == (0,)
    assert abs(path.energy_defect) < 1e-14 and path.chain_rule_defect < 1e-13


def test_an_integrator_agrees_before_extinction():
    F = lambda x: 2 * x[0].abs() ** 1.2 + (x[1] - 3).abs() ** 1.8 / 2  # noqa: E731
    times = np.linspace(0, 0.4, 5)
    path = inclusion(F, [1, -1], times)
    g = lambda _, x: [-2.4 * x[0] ** 0.2, 0.9 * (3 - x[1]) ** 0.8]  # noqa: E731
    other = solve_ivp(g, (0, 0.4), [1, -1], method="DOP853", rtol=1e-13, atol=1e-13, t_eval=times)
    np.testing.assert_allclose(path.points, other.y.T, atol=1e-12)


def test_a_separable_sum_has_an_extinction_for_each_coordinate():
    F = lambda x: 2 * x[0].abs() ** 1.2 + (x[1] - 3).abs() ** 1.8 / 2  # noqa: E731
    ends = [1 / (2 * 1.2 * 0.8), 4**0.2 / (0.5 * 1.8 * 0.2)]
    times = sorted(share * end for share in SHARES for end in ends)
    path = inclusion(F, [1, -1], times)
    truth = [[_truth(1.2, 2.0, 1.0, t), 3 - _truth(1.8, 0.5, 4.0, t)] for t in times]
    np.testing.assert_allclose(path.points, truth, atol=1e-12, rtol=0)
    assert [float(event.t) for event in path.events] == pytest.approx([0, *ends], rel=1e-14)
    assert path.points[-1].tolist() == [0, 3] and path.events[1].x[0] == 0
    assert abs(path.energy_defect) < 1e-13 and path.chain_rule_defect < 1e-12


def test_extinctions_as_near_as_rounding():
    """The second one is where x is rounded too coarsely to compare gradients, and is found all the same."""
    F = lambda x: x[0].abs() ** 1.2 + (x[1] - 3).abs() ** 1.2  # noqa: E731
    path = inclusion(F, [1, Fraction(4) + Fraction(1, 2**40)], [0.5, 2.0])
    assert len(path.events) == 3 and path.points[1].tolist() == [0, 3]


def test_other_powers_and_what_stays():
    """Powers 1, 1.5 and 4, a linear coordinate, a quadratic one, one that F does not read."""
    F = lambda x: 2 * x[0].abs() + (x[1] + 1) ** 4 / 4 + 3 * x[2] + x[3] ** 2 + x[5].abs().pow(1.5)  # noqa: E731
    path = inclusion(F, [1, 1, 0, 1, 7, 0], [0.25, 2.0])
    for t, point in zip(path.times, path.points, strict=True):
        exact = [max(0.0, 1 - 2 * t), (1 / 4 + 2 * t) ** -0.5 - 1, -3 * t, np.exp(-2 * t), 7, 0]
        np.testing.assert_allclose(point, exact, rtol=1e-13)
    assert path.status == "closed form"


def test_away_from_a_top_it_is_followed():
    """-abs(x)^1.5 from 1: u^(1/2) = 1 + 3 t / 4."""
    path = inclusion(lambda x: -(x.abs() ** 1.5).sum(), [-1], [0.5, 2.0])
    np.testing.assert_allclose(path.points[:, 0], [-((1 + 0.375) ** 2), -6.25], rtol=1e-14)
    assert abs(path.energy_defect) < 1e-12


@pytest.mark.parametrize(
    "F,x0",
    [
        (lambda x: -(x.abs() ** 1.5).sum(), [0]),  # many solutions leave a top
        (lambda x: x[0].abs() ** 1.5 - x[1].abs() ** 1.2, [1, 0]),  # in one coordinate only
        (lambda x: (x.abs() ** 0.5).sum(), [1]),  # not Lipschitz at 0
        (lambda x: -(x.abs() ** 3).sum(), [1]),  # leaves every bound at t = 1/3
        (lambda x: (x.abs() ** 1.5 + (x - 1).abs() ** 1.5).sum(), [2]),  # two kinks a coordinate
        (lambda x: x[0].abs() ** 1.5 * x[1].abs() ** 1.5, [1, 1]),  # not a sum
        (lambda x: (x[0] + x[1]).abs() ** 1.5, [1, 1]),  # not separable
        (lambda x: (x.abs().detach() ** 1.5).sum() + x.sum() ** 3, [1]),  # autograd returns something else
        (lambda x: (x**1.5).sum(), [1]),  # not defined on the other side
        (lambda x: (x.abs() ** 1.5).float().sum(), [1]),  # rounded to single precision
    ],
)
def test_what_is_not_claimed(F, x0):
    with pytest.raises(ValueError, match=r"Pass prox=|no exact calculus"):
        inclusion(F, x0, [0.1, 1.0], steps=20)


def test_coefficients_in_a_tensor():
    weights = torch.tensor([1.0, 4.0, 6.0], dtype=torch.float64)
    path = inclusion(lambda x: weights @ x.abs() ** 1.5, [1, 1, 1], [0.1])
    np.testing.assert_allclose(path.points[0], [_truth(1.5, c, 1.0, 0.1) for c in (1, 4, 6)], rtol=1e-13)
