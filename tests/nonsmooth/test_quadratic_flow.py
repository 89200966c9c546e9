"""Piecewise quadratic flows against closed forms by hand: extinction, sliding, leaving, crossing, branching."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tameopt.nonsmooth.exponential_sums import ExponentialSum
from tameopt.nonsmooth.subgradient_flow import inclusion


def _checks(path):
    """Both identities, to a few hundred roundings of numbers of size 10."""
    assert path.status == "closed form"
    assert abs(path.energy_defect) < 1e-12
    assert path.chain_rule_defect < 1e-12


def test_smooth_quadratics_are_exponentials():
    H = torch.tensor([[2.0, 1.0], [1.0, -1.0]]).double()
    path = inclusion(lambda x: (H @ x) @ x / 2, [1, 2], [0.0, 0.7, 2.0])
    for t, point in zip(path.times, path.points, strict=True):
        exact = torch.linalg.matrix_exp(-t * H) @ torch.tensor([1.0, 2.0]).double()
        np.testing.assert_allclose(point, exact.numpy(), rtol=1e-13)
    _checks(path)
    assert path.unique and len(path.events) == 1


def test_the_elastic_net_is_extinct_in_finite_time():
    """x' = -sgn x - x: x = (x0 + 1) e^-t - 1 until log(1 + x0)."""
    t = np.linspace(0, 2, 9)
    path = inclusion(lambda x: x.abs().sum() + x.square().sum() / 2, [2, Fraction(-1, 2)], t)
    np.testing.assert_allclose(path.points[:, 0], np.maximum(3 * np.exp(-t) - 1, 0), atol=1e-15)
    np.testing.assert_allclose(path.points[:, 1], -np.maximum(1.5 * np.exp(-t) - 1, 0), atol=1e-15)
    np.testing.assert_allclose([float(event.t) for event in path.events], [0, np.log(1.5), np.log(3)], rtol=1e-15)
    _checks(path)
    assert path.unique


def test_sliding_follows_the_projected_flow():
    """F = 2 abs(y) + y + x^2 / 2: y reaches 0 at t = 1 from 3, then x alone decays."""
    path = inclusion(lambda z: 2 * z[1].abs() + z[1] + z[0].square() / 2, [1, 3], [0.5, 4.0])
    np.testing.assert_allclose(path.points, [[np.exp(-0.5), 1.5], [np.exp(-4.0), 0]], atol=1e-15)
    assert float(path.events[1].t) == 1
    _checks(path)


def test_a_slide_ends_when_0_leaves_the_hull():
    """F = abs(y) + x y - x: it slides along x' = 1 to x = 1; there x - 1 = sinh(t - 1), y = 1 - cosh(t - 1)."""
    path = inclusion(lambda z: z[1].abs() + z[0] * z[1] - z[0], [0, 0], [0.5, 1.0, 1.5, 3.0])
    assert float(path.events[1].t) == pytest.approx(1, abs=1e-13)
    for t, (x, y) in zip(path.times[2:], path.points[2:], strict=True):
        assert x == pytest.approx(1 + np.sinh(t - 1), rel=1e-13)
        assert y == pytest.approx(1 - np.cosh(t - 1), rel=1e-12)
    _checks(path)
    assert path.unique


def test_a_kink_is_crossed():
    """F = relu(x) + x^2 / 2 + x: -2 - x above 0, -1 - x below: x = 3 e^-t - 2, then e^-(t - log 3/2) - 1."""
    path = inclusion(lambda x: (torch.relu(x) + x.square() / 2 + x).sum(), [1], [0.2, 3.0])
    hit = np.log(1.5)
    assert float(path.events[1].t) == pytest.approx(hit, rel=1e-14)
    np.testing.assert_allclose(path.points[:, 0], [3 * np.exp(-0.2) - 2, np.exp(hit - 3) - 1], rtol=1e-13)
    _checks(path)


def test_a_clarke_critical_point_has_many_solutions():
    """F = x^2 / 2 - abs(x) from its top: it may stay, or leave as +-(1 - e^-t)."""
    F = lambda x: (x.square() / 2 - x.abs()).sum()  # noqa: E731
    ends = [inclusion(F, [0], [2.0], branch=branch) for branch in range(3)]
    assert ends[0].points[0, 0] == 0
    assert sorted(float(path.points[0, 0]) for path in ends[1:]) == pytest.approx([np.exp(-2) - 1, 1 - np.exp(-2)])
    for path in ends:
        _checks(path)
        assert not path.unique and len(path.events[0].alternatives) == 2


def test_a_repelling_slide_says_that_it_is_not_unique():
    """F = x^2 / 2 - abs(y) + y^2 on y = 0: the slide is a solution, and so is falling off to either side."""
    F = lambda z: z[0].square() / 2 - z[1].abs() + z[1].square()  # noqa: E731
    slide = inclusion(F, [1, 0], [1.0])
    assert not slide.unique
    np.testing.assert_allclose(slide.points[0], [np.exp(-1), 0], rtol=1e-14)
    falls = {round(float(inclusion(F, [1, 0], [1.0], branch=k).points[0, 1]), 12) for k in (1, 2)}
    assert falls == {round(s * (1 - np.exp(-2)) / 2, 12) for s in (-1, 1)}


def test_a_curved_kink_is_crossed_and_ends_a_curve():
    """abs(x^2 - 1): x = 2 e^-2t until it rests at 1."""
    path = inclusion(lambda x: (x.square() - 1).abs().sum(), [2], [0.1, 1.0])
    np.testing.assert_allclose(path.points[:, 0], [2 * np.exp(-0.2), 1], rtol=1e-14)
    assert float(path.events[1].t) == pytest.approx(np.log(2) / 2, rel=1e-14)


def test_two_kinks_at_once_are_an_equilibrium():
    path = inclusion(lambda x: 3 * x.abs().sum() + x[0] * x[1], [1, 1], [5.0])
    assert path.points.tolist() == [[0.0, 0.0]]
    _checks(path)


def test_a_slide_in_three_dimensions_leaves_an_edge():
    """F = abs(y) + abs(z) + x (y + z / 2) - x: x' = 1 on y = z = 0 until x = 1 lets y go, z stays until x = 2."""
    F = lambda p: p[1].abs() + p[2].abs() + p[0] * (p[1] + p[2] / 2) - p[0]  # noqa: E731
    path = inclusion(F, [0, 0, 0], [0.5, 1.5])
    assert float(path.events[1].t) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(path.points[0], [0.5, 0, 0], atol=1e-15)
    np.testing.assert_allclose(path.points[1], [1 + np.sinh(0.5), 1 - np.cosh(0.5), 0], atol=1e-12)
    _checks(path)


@pytest.mark.parametrize("seed", range(8))
def test_random_flows_keep_the_identities_and_agree_with_small_steps(seed):
    rng = np.random.default_rng(seed)
    d = 1 + seed % 3
    A, b = rng.integers(-3, 4, (2, d)), rng.integers(-2, 3, 2)
    c, R = rng.integers(0, 4, 2), rng.integers(-2, 3, (d, d))
    H = R @ R.T if seed % 2 else (R + R.T) / 2
    tA, tb, tc, tH = (torch.tensor(np.asarray(part, dtype=float)) for part in (A, b, c, H))
    x0 = rng.integers(-3, 4, d)
    path = inclusion(lambda x: (tc * (tA @ x + tb).abs()).sum() + (tH @ x) @ x / 4, x0.tolist(), [0.3])
    assert abs(path.energy_defect) < 1e-11 and path.chain_rule_defect < 1e-11
    x, h = x0.astype(float), 1e-4
    for _ in range(3000):
        x = x - h * (A.T @ (c * np.sign(A @ x + b)) + H @ x / 2)
    if path.unique:  # explicit steps chatter at O(h) times the size of the gradients, some tens
        np.testing.assert_allclose(path.points[0], x, atol=300 * h)


def test_many_events_end_as_zeno_and_say_so():
    F = lambda x: sum((x - k / 10).abs().sum() for k in range(10)) + x.square().sum()  # noqa: E731
    path = inclusion(F, [2], [5.0], most_events=3)
    assert path.status == "zeno" and len(path.events) == 3
    linear = inclusion(lambda x: torch.relu(x).sum() + torch.relu(x - 1).sum() + x.sum(), [2], [9.0], most_events=1)
    assert linear.status == "zeno" and linear.energy_defect == 0


def test_no_zero_of_an_exponential_sum_is_missed():
    """(t - a) e^-t and three close zeros of a sum of four exponentials."""
    assert ExponentialSum.of([(1.0, [-0.5, 1.0])]).zeros(3.0) == [pytest.approx(0.5)]
    z = np.exp(-np.array([0.3, 0.31, 0.9]))
    cubic = np.poly(z)[::-1]  # in powers of e^-t
    found = ExponentialSum.of([(float(k), [float(c)]) for k, c in enumerate(cubic)]).zeros(2.0)
    np.testing.assert_allclose(found, [0.3, 0.31, 0.9], atol=1e-11)
    assert ExponentialSum.of([(0.0, [1.0]), (700.0, [1.0])]).zeros(1e3) == []
