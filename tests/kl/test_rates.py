"""Predicted rates against methods that are run, and desingularising functions against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tameopt.kl import desingularise as ds
from tameopt.kl import pl_constant, rates
from tameopt.kl.pl import path_constants
from tameopt.kl.rates import best_pl_factor
from tameopt.kl.series import LossSeries
from tameopt.problem import Problem

D = torch.float64


def descend(power: float, alpha: float, steps: int) -> np.ndarray:
    """Values of x^power under gradient descent from 1."""
    x, values = 1.0, []
    for _ in range(steps + 1):
        values.append(x**power)
        x -= alpha * power * x ** (power - 1)
    return np.array(values)


@pytest.mark.parametrize("power", [2.0, 4.0, 6.0])
def test_gradient_descent_stays_below_its_curve(power):
    theta, L = 1 - 1 / power, power * (power - 1)  # abs(f') = power * f^theta; f'' <= L on [0, 1]
    predicted = rates(theta, c=power, F0=1.0, L=L, steps=400)
    observed = descend(power, 1 / L, 400)
    assert np.all(observed <= predicted.values * (1 + 1e-12))


@pytest.mark.parametrize("power", [4.0, 6.0])
def test_the_sublinear_order_is_reached(power):
    theta, L = 1 - 1 / power, power * (power - 1)
    predicted = rates(theta, c=power, F0=1.0, L=L, steps=20_000)
    assert predicted.power == pytest.approx(power / (power - 2))
    slope = math.log(predicted.values[20_000] / predicted.values[10_000]) / math.log(2)
    assert slope == pytest.approx(-predicted.power, abs=0.02)
    observed = descend(power, 1 / L, 20_000)
    assert math.log(observed[20_000] / observed[10_000]) / math.log(2) == pytest.approx(-predicted.power, abs=0.02)


@pytest.mark.parametrize("theta", [0.25, 0.5, 0.75])
def test_the_flow_solves_its_equation(theta):
    found = rates(theta, c=1.3, F0=0.8, alpha=1e-3, steps=500, method="gradient flow")
    r = found.values
    middle = (r[1:] + r[:-1]) / 2
    # midpoint rule: error of order h^2 relatively
    np.testing.assert_allclose(np.diff(r), -1e-3 * 1.3**2 * middle ** (2 * theta), rtol=1e-5, atol=1e-12)


def test_the_proximal_point_is_exact_for_the_absolute_value():
    found = rates(0.0, c=1.0, F0=1.0, alpha=0.25, steps=10, method="proximal point")
    assert found.kind == "finite"
    # abs(x) loses alpha a step; the guarantee loses half of it
    assert np.all(np.maximum(1 - 0.25 * np.arange(11), 0) <= found.values + 1e-15)


@pytest.mark.parametrize("gain", [1e-6, 0.3])
def test_an_exponent_just_above_one_half_is_nearly_linear(gain):
    c = math.sqrt(2 * gain)
    close, linear = (rates(theta, c=c, L=1.0, steps=50).values for theta in (0.5 + 1e-9, 0.5))
    np.testing.assert_allclose(close, linear, rtol=1e-5)


def test_linear_factors():
    assert rates(0.5, c=math.sqrt(2 * 0.3), L=1.0).factor == pytest.approx(1 - 0.3)
    assert best_pl_factor(0.3, 1.0) < 1 - 0.3
    assert best_pl_factor(1.0, 1.0) == 0.0


def test_the_best_factor_holds_on_quadratics():
    for mu in (0.1, 0.5, 0.9):
        assert (1 - mu) ** 2 <= best_pl_factor(mu, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"theta": 1.0}, "theta must be in"),
        ({"theta": 0.3, "L": 1.0}, "theta must be at least 1/2"),
        ({"theta": 0.5}, "gradient descent needs L"),
        ({"theta": 0.5, "L": 1.0, "alpha": 1.5}, "alpha must be in"),
        ({"theta": 0.5, "L": 1.0, "c": -1.0}, "must be positive"),
        ({"theta": 0.5, "method": "adam"}, "method must be one of"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rates(**arguments)


def test_best_factor_refuses_an_impossible_mu():
    with pytest.raises(ValueError, match="0 < mu <= L"):
        best_pl_factor(2.0, 1.0)


@pytest.mark.parametrize("phi", [ds.power(0.75, 2.0), ds.polyak_lojasiewicz(0.3), ds.flat()])
def test_phi_its_derivative_and_inverse_agree(phi):
    for t in (1e-6, 1e-3, 0.1):
        h = 1e-6 * t
        assert (phi.phi(t + h) - phi.phi(t - h)) / (2 * h) == pytest.approx(phi.derivative(t), rel=1e-6)
        assert phi.inverse(phi.phi(t)) == pytest.approx(t, rel=1e-9)
    assert phi.phi(0.0) == 0.0


def test_quartic_is_desingularised_exactly():
    # abs(f') = 4 x^3 = 4 f^(3/4), so phi o f = abs(x)
    phi = ds.power(0.75, 4.0)
    assert phi.phi(0.3**4) == pytest.approx(0.3)
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.zeros(1, dtype=D))
    found = ds.check_on_samples(problem, phi, problem.theta, 0.5, torch.Generator().manual_seed(0))
    assert found.least == pytest.approx(1.0, abs=1e-9)


def test_too_small_a_phi_is_caught_by_samples():
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.zeros(1, dtype=D))
    found = ds.check_on_samples(problem, ds.power(0.5, 1.0), problem.theta, 0.5, torch.Generator().manual_seed(0))
    assert not found.holds


def test_the_flat_function_has_a_phi_and_no_power():
    def F(x):
        return torch.exp(-1 / x**2).sum()

    problem = Problem.from_function(F, torch.full((1,), 1e-30, dtype=D))
    found = ds.check_on_samples(problem, ds.flat(), problem.theta, 0.4, torch.Generator().manual_seed(0))
    # phi o F = abs(x): slope 1 exactly; rounding of exp(-1/x^2) is relative 1/x^2 * 1e-16
    assert found.least == pytest.approx(1.0, abs=1e-6)
    assert not ds.check_on_samples(problem, ds.power(0.9), problem.theta, 0.4, torch.Generator().manual_seed(0)).holds


def test_the_picture_shows_both():
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.zeros(1, dtype=D))
    drawn = ds.picture(problem, ds.of_polynomial("x**4", 4.0), [-0.5, 0.0, 0.5])
    assert drawn.series[1].y == pytest.approx((0.5, 0.0, 0.5))


def test_wrong_phi_parameters_are_refused():
    with pytest.raises(ValueError, match="0 <= theta < 1"):
        ds.power(1.0)
    with pytest.raises(ValueError, match="mu must be > 0"):
        ds.polyak_lojasiewicz(0.0)
    with pytest.raises(ValueError, match="only known to lie between"):
        ds.of_polynomial("x**2 + y**3*z + z**5 + x*y*z")


def quadratic_series() -> tuple[LossSeries, np.ndarray]:
    k = np.arange(60)
    x = np.stack([0.9**k, 0.5**k])
    curvature = np.array([[0.2], [1.0]])
    values = 0.5 * (curvature * x**2).sum(axis=0)
    norms = np.sqrt(((curvature * x) ** 2).sum(axis=0))
    return LossSeries(k, k.astype(float), values, norms), np.sqrt((x**2).sum(axis=0))


def test_pl_constant_of_a_quadratic_is_its_least_curvature():
    series, distances = quadratic_series()
    assert pl_constant(series, F_star=0.0).mu == pytest.approx(0.2, rel=1e-6)
    constants = path_constants(series, distances, 0.0)
    # for a quadratic all three are the least eigenvalue in the long run
    assert constants.pl == pytest.approx(0.2, rel=1e-6)
    assert constants.error_bound == pytest.approx(0.2, rel=1e-6)
    assert constants.growth == pytest.approx(0.2, rel=1e-6)


def test_pl_constant_needs_a_limit():
    k = np.arange(40)
    series = LossSeries(k, k.astype(float), 1 - 1e-3 * k, np.ones(40))
    with pytest.raises(ValueError, match="F_star must be given"):
        pl_constant(series)
    with pytest.raises(ValueError, match="it has none"):
        pl_constant(series, F_star=2.0)
