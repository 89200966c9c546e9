"""The checker's arithmetic against exact and ball arithmetic: every stated bound must hold."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.kl import check_activations as ca
from tameopt.kl import check_arithmetic as ar

flint = pytest.importorskip("flint")


def ball(number: float):
    return flint.arb(number)


def error_of(values: np.ndarray, points: np.ndarray, function) -> float:
    with flint.ctx.workprec(160):
        return max(
            float(abs(function(ball(float(x))) - ball(float(v))).upper()) for x, v in zip(points, values, strict=True)
        )


POINTS = np.concatenate(
    [
        np.random.default_rng(0).uniform(-9, 9, 300),
        np.random.default_rng(1).normal(0, 1e-3, 50),
        [0.0, -0.0, 1e-300, 5.999999, 6.0, 6.0000001, -6.5, 20.0, -30.0, 300.0, -750.0],
    ]
)


def exact_pair(name: str):
    one = flint.arb(1)
    half = flint.arb("0.5")

    def phi(x):
        return (-x * x / 2).exp() / (2 * flint.arb.pi()).sqrt()

    def Phi(x):
        return half * (1 + (x / flint.arb(2).sqrt()).erf())

    return {
        "tanh": (lambda x: x.tanh(), lambda x: 1 / x.cosh() ** 2),
        "sigmoid": (lambda x: one / (1 + (-x).exp()), lambda x: one / (2 + x.exp() + (-x).exp())),
        "softplus": (lambda x: (1 + x.exp()).log(), lambda x: one / (1 + (-x).exp())),
        "gelu": (lambda x: x * Phi(x), lambda x: Phi(x) + x * phi(x)),
        "sin": (lambda x: x.sin(), lambda x: x.cos()),
    }[name]


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "gelu", "sin"])
def test_activation_errors_are_within_their_bounds(name):
    sigma = ca.ACTIVATIONS[name]
    values, slopes = sigma.evaluate(POINTS)
    value, slope = exact_pair(name)
    with flint.ctx.workprec(1500):
        for x, v, s in zip(POINTS.tolist(), values.tolist(), slopes.tolist(), strict=True):
            allowed = sigma.absolute + sigma.relative * abs(x)
            assert float(abs(value(ball(x)) - ball(v)).upper()) <= allowed, x
            assert float(abs(slope(ball(x)) - ball(s)).upper()) <= sigma.absolute, x


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "gelu", "sin"])
def test_slope_and_curvature_bounds_are_upper_bounds(name):
    sigma = ca.ACTIVATIONS[name]
    x = np.linspace(-8, 8, 200_001)
    slopes = sigma.evaluate(x)[1]
    assert np.abs(slopes).max() <= sigma.slope + sigma.absolute
    # the secant slopes of sigma' are at most sup |sigma''|, and reach it to the grid's accuracy
    secants = np.abs(np.diff(slopes)) / np.diff(x)
    assert secants.max() <= sigma.curvature + 2 * sigma.absolute / 8e-5
    assert secants.max() >= sigma.curvature * (1 - 1e-4)


def test_the_split_constants_are_right():
    with flint.ctx.workprec(300):
        ln2 = ball(ca._LN2_HIGH) + ball(ca._LN2_LOW) - flint.arb(2).log()
        assert float(abs(ln2).upper()) < 1e-25
        pio2 = sum((ball(part) for part in ca._PIO2_PARTS), flint.arb(0)) - flint.arb.pi() / 2
        assert float(abs(pio2).upper()) < 1e-29


def test_large_sine_angles_are_refused():
    with pytest.raises(ValueError, match="sine pre-activations must be at most"):
        ca.sin_cos_of(np.array([2e5]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6), st.floats(-12, 2))
def test_eigenvalue_bounds_enclose(n, seed, exponent):
    generator = np.random.default_rng(seed)
    Q = np.linalg.qr(generator.standard_normal((n, n)))[0]
    A = Q @ np.diag(np.geomspace(10.0**exponent, 1.0, n)) @ Q.T
    A = np.triu(A) + np.triu(A, 1).T
    low, high = ar.lambda_min_lower(A), ar.lambda_max_upper(A)
    with flint.ctx.workprec(300):
        exact = flint.arb_mat(n, n, [ball(float(entry)) for entry in A.ravel()])
        # A - low I is positive definite and high I - A is: Sylvester's criterion by exact minors
        for shifted in (exact - ball(low) * _eye(n), ball(high) * _eye(n) - exact):
            for j in range(1, n + 1):
                minor = flint.arb_mat(j, j, [shifted[a, b] for a in range(j) for b in range(j)]).det()
                assert minor >= 0
    assert high - low <= (np.linalg.eigvalsh(A)[-1] - np.linalg.eigvalsh(A)[0]) + 1e-9 * n


def _eye(n: int):
    return flint.arb_mat(n, n, [flint.arb(int(a == b)) for a in range(n) for b in range(n)])


def test_a_singular_matrix_has_no_positive_lower_bound():
    A = np.ones((5, 5))
    assert ar.lambda_min_lower(A) <= 0


def test_infinite_entries_prove_nothing():
    assert ar.lambda_min_lower(np.array([[1.0, np.inf], [np.inf, 1.0]])) == -math.inf


@given(st.lists(st.floats(-1e100, 1e100), max_size=30))
def test_norm_bound_is_above(numbers):
    bound = ar.norm_upper(np.array(numbers))
    assert Fraction(bound) ** 2 >= sum(Fraction(x) ** 2 for x in numbers)


@given(st.fractions(0, 1), st.integers(0, 300), st.fractions(0, 1))
def test_power_comparison_is_never_wrong(base, exponent, bound):
    if ar.power_at_most(base, exponent, bound):
        assert base**exponent <= bound


def test_power_comparison_decides_clear_cases():
    assert ar.power_at_most(Fraction(9, 10), 10**6, Fraction(1, 10**50))
    assert not ar.power_at_most(Fraction(9, 10), 10, Fraction(1, 10))
    assert not ar.power_at_most(Fraction(11, 10), 2, Fraction(2))


def test_exact_refuses_nan():
    with pytest.raises(ValueError, match="must be finite"):
        ar.exact(math.nan)


def test_gamma_refuses_what_it_cannot_bound():
    with pytest.raises(ValueError, match="between 1 and"):
        ar.gamma(2**41)
