"""The subgradient flow against closed forms: extinction, sliding, non-uniqueness, and the energy identity."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt import dynamics
from tameopt.nonsmooth import prox
from tameopt.nonsmooth.subgradient_flow import inclusion


def test_abs_is_extinct_at_its_distance():
    t = np.linspace(0, 4, 9)
    path = inclusion(lambda x: x.abs().sum(), [Fraction(5, 2), -1], t)
    np.testing.assert_allclose(path.points[:, 0], np.maximum(2.5 - t, 0), atol=1e-15)
    np.testing.assert_allclose(path.points[:, 1], -np.maximum(1 - t, 0), atol=1e-15)
    assert path.unique and path.status == "exact" and path.energy_defect == 0
    assert [event.t for event in path.events] == [0, 1, Fraction(5, 2)]


@pytest.mark.parametrize("a,b,y0", [(2, 1, 3), (3, -1, 2), (2, 1, -3)])
def test_sliding(a, b, y0):
    """F = a abs(y) + b y + x: y reaches 0 at abs(y0) / (a + b sgn y0), then the solution slides along (-1, 0)."""
    path = inclusion(lambda z: a * z[1].abs() + b * z[1] + z[0], [0, y0], [0.0, 10.0])
    hit = Fraction(abs(y0), a + b * (1 if y0 > 0 else -1))
    assert path.events[1].t == hit
    assert path.events[1].velocity == (-1, 0)
    assert path.points[-1].tolist() == [-10.0, 0.0]
    assert path.unique and path.energy_defect == 0


def test_minus_abs_from_its_top_is_not_unique():
    """It may stay, or leave to either side; the chain rule holds on each."""
    F = lambda x: -x.abs().sum()  # noqa: E731
    stay = inclusion(F, [0], [0.0, 2.0])
    assert not stay.unique
    assert stay.points.ravel().tolist() == [0.0, 0.0]
    ends = {float(inclusion(F, [0], [0.0, 2.0], branch=k).points[-1, 0]) for k in (1, 2)}
    assert ends == {-2.0, 2.0}
    assert all(inclusion(F, [0], [2.0], branch=k).energy_defect == 0 for k in (0, 1, 2))


def test_a_saddle_of_abs_leaves_along_its_descent():
    path = inclusion(lambda x: x[0].abs() - x[1].abs(), [1, 0], [0.0, 3.0], branch=5)
    assert abs(path.points[-1][1]) == 3.0
    assert path.points[-1][0] == 0.0


def test_norm2_by_proximal_euler_is_exact_and_says_so():
    x0 = np.array([3.0, 4.0])
    t = np.array([0.0, 2.0, 6.0])
    path = inclusion(lambda x: x.norm(), x0, t, prox=prox.l2, steps=600)
    np.testing.assert_allclose(path.points, x0 * np.maximum(1 - t / 5, 0)[:, None], atol=1e-12)
    assert path.error < 1e-6


def test_the_a_posteriori_bound_holds():
    """F = x^2 / 2: the solution is x0 e^-t, proximal Euler is (1 + h)^-n."""
    path = inclusion(lambda x: x.square().sum() / 2, [1.0], [1.0], prox=prox.l2_squared, steps=50)
    true = abs(path.points[0, 0] - np.exp(-1))
    assert 0 < true <= path.error < 10 * true


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_random_piecewise_linear_flows_descend_with_the_exact_energy(seed):
    rng = np.random.default_rng(seed)
    A, c = torch.tensor(rng.integers(-3, 4, (3, 2))).double(), torch.tensor(rng.integers(-1, 4, 3)).double()
    b = torch.tensor(rng.integers(-2, 3, 3)).double()

    def F(x):
        return (c * (A @ x + b).abs()).sum() + torch.relu(x[0] - x[1])

    path = inclusion(F, rng.integers(-4, 5, 2).tolist(), [0.0, 1.0, 2.0])
    assert path.energy_defect == 0
    values = [float(F(torch.tensor(point))) for point in path.points]
    assert values[0] >= values[1] - 1e-12 >= values[2] - 2e-12


def test_it_agrees_with_small_explicit_steps():
    """Explicit subgradient steps chatter at O(h) around the exact curve."""
    F = lambda x: 2 * x[0].abs() + (x[1] - x[0]).abs()  # noqa: E731
    exact = inclusion(F, [2, -1], [1.0]).points[0]
    x = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    h = 1e-3
    for _ in range(1000):
        (g,) = torch.autograd.grad(F(x), x)
        x = (x - h * g).detach().requires_grad_()
    np.testing.assert_allclose(x.detach().numpy(), exact, atol=20 * h)


def test_it_is_reached_from_dynamics():
    assert dynamics.inclusion(lambda x: x.abs().sum(), [1], [2.0]).points[0, 0] == 0
    assert dynamics.inclusion(lambda x: x.abs().sum(), [1], [2.0]).status == "exact"


def test_bad_input():
    with pytest.raises(ValueError, match=r"piecewise linear or quadratic near the curve: F is neither.*Pass prox="):
        inclusion(lambda x: x.cos().sum(), [1], [4.0], steps=50)
    with pytest.raises(ValueError, match="a point must be finite"):
        inclusion(lambda x: x.abs().sum(), [float("inf")], [1.0])
    with pytest.raises(ValueError, match="times must be finite"):
        inclusion(lambda x: x.abs().sum(), [1], [float("nan")])
    with pytest.raises(ValueError, match="branch must be >= 0"):
        inclusion(lambda x: x.abs().sum(), [1], [1.0], branch=-1)
    with pytest.raises(ValueError, match="times must be >= 0"):
        inclusion(lambda x: x.abs().sum(), [1], [1.0, 0.5])
