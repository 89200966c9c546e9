"""Fits of decays: the right regime, the right numbers, and no claim where there is none to make."""

from __future__ import annotations

import numpy as np
import pytest

from tameopt.kl.decay_law import fit_law
from tameopt.kl.fit import fit
from tameopt.kl.series import LossSeries
from tameopt.kl.trend import trend


def series_of(k: np.ndarray, values: np.ndarray, deterministic: bool | None = None) -> LossSeries:
    return LossSeries(k, k.astype(float), values, np.full(values.size, np.nan), deterministic=deterministic)


K = np.arange(0, 6000, 60)


def test_exponential_decay_is_linear_with_its_factor_and_limit():
    found = fit(series_of(K, 0.3 + 2 * 0.999**K))
    assert found.regime == "linear"
    # the factor is read off exact data: only rounding of F (1e-16 of 2.3) against an excess above 5e-3 remains
    assert found.factor == pytest.approx(0.999, abs=1e-10)
    assert found.F_star == pytest.approx(0.3, abs=1e-9)
    steps, (low, high) = found.steps_to(found.F_star + found.excess / 10)
    assert steps == pytest.approx(np.log(10) / -np.log(0.999), rel=1e-5)
    assert low <= steps <= high


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_power_decay_is_sublinear_with_its_power_and_exponent(p):
    found = fit(series_of(K, 0.1 + (1 + K / 50) ** -p))
    assert found.regime == "sublinear"
    assert found.power == pytest.approx(p, rel=2e-2)
    assert found.theta == pytest.approx((1 + p) / (2 * p), rel=2e-2)


def test_steps_to_a_target_below_the_limit_are_infinite():
    found = fit(series_of(K, 0.3 + 2 * 0.999**K))
    steps, _ = found.steps_to(0.2)
    assert steps == float("inf")


def test_steps_of_an_undecided_run_are_refused():
    found = fit(series_of(K[:5], 1.0 - 1e-4 * K[:5]))
    assert found.regime == "undecided"
    with pytest.raises(ValueError, match="need a linear or sublinear fit"):
        found.steps_to(0.1)


def test_noise_floor_is_not_convergence():
    noise = np.random.default_rng(0).standard_normal(K.size)
    found = fit(series_of(K, 0.04 + 1e-3 * noise + 2 * 0.95**K))
    assert found.regime == "noise floor"
    low, high = found.F_star_interval
    assert low < 0.04 < high


def test_a_slow_fall_under_noise_is_no_floor():
    noise = np.random.default_rng(1).standard_normal(K.size)
    found = fit(series_of(K, 1.0 - 1e-4 * K + 0.02 * noise))
    assert found.regime != "noise floor"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(1.0 - 1e-4 * K, id="straight line"),
        pytest.param(1 / np.log(K + 10.0), id="logarithm"),
        pytest.param(np.exp(-np.sqrt(K / 500.0)) * (2 + np.cos(K / 400.0)), id="neither"),
    ],
)
def test_what_is_neither_law_is_never_called_linear(values):
    assert fit(series_of(K, values, True)).regime != "linear"


def test_a_flat_record_is_at_rest():
    assert fit(series_of(K, np.ones(K.size))).regime == "at rest"


def test_a_rising_record_is_undecided():
    found = fit(series_of(K, 1.0 + 1e-4 * K, True))
    assert found.regime == "undecided"
    assert "does not fall" in found.reason


def test_a_fall_of_decades_with_an_open_rate_is_converging():
    # falls and near-plateaus in turn, as adaptive methods give: no law fits, four decades are gone
    values = 10 ** np.interp(K, [0, 500, 1500, 2500, 3500, 4700, 5940], [-0.15, -0.5, -2.5, -2.7, -3.6, -3.7, -4.3])
    found = fit(series_of(K, values, True), lower=0.0)
    assert found.regime == "converging", found.reason
    low, high = found.F_star_interval
    assert 0.0 <= low <= high <= values.min()
    assert "at which rate is open" in found.reason
    with pytest.raises(ValueError, match="need a linear or sublinear fit"):
        found.steps_to(1e-6)


def test_a_fall_that_may_go_on_is_not_converging():
    assert fit(series_of(K, 1.0 - 1e-4 * K, True), lower=0.0).regime == "undecided"


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_plateau_before_a_linear_fall_is_a_piece_of_its_own(noise):
    values = np.where(K < 2400, 0.69, 0.1 + 0.59 * 0.997 ** np.maximum(K - 2400.0, 0))
    values = values + noise * np.random.default_rng(0).standard_normal(K.size)
    found = fit(series_of(K, values, None if noise else True))
    assert found.regime == "linear"
    assert found.factor == pytest.approx(0.997, abs=1e-4)
    assert [piece.kind for piece in found.pieces] == ["plateau", "linear"]
    assert found.pieces[0].last < 2400 + 180 and found.pieces[1].first > 2400 - 180
    assert "plateau over steps 0 to 2," in str(found.pieces[0])


def test_a_staircase_has_its_steps():
    k = K[:, None] - np.array([1000.0, 3600.0])
    values = 1.2 - (1 / (1 + np.exp(-k / 40))).sum(axis=1) * 0.5
    kinds = [piece.kind for piece in fit(series_of(K, values, True)).pieces]
    assert kinds[:3] == ["plateau", "falling", "plateau"]


def test_the_constant_is_that_of_the_flow():
    # r' = -c^2 r^(2 theta) with theta = 3/4, c = 0.1: r = (1 + c^2 t / 2)^(-2)
    found = fit(series_of(K, 0.2 + (1 + 0.005 * K) ** -2.0))
    assert found.theta == pytest.approx(0.75, abs=1e-6)
    assert found.c == pytest.approx(0.1, rel=1e-6)
    assert found.c_interval[0] <= 0.1 <= found.c_interval[1]


@pytest.mark.slow
def test_intervals_cover():
    generator = np.random.default_rng(5)
    covered = []
    for _ in range(60):
        excess = 1 / (1 + K / 200)
        found = fit(series_of(K, 0.3 + excess * (1 + 0.05 * generator.standard_normal(K.size))))
        if found.regime == "sublinear":
            covered.append(found.power_interval[0] <= 1.0 <= found.power_interval[1])
    assert len(covered) >= 57
    # 95% of 60: below 51 has probability 0.2%
    assert sum(covered) >= 51


def test_lower_bound_is_respected():
    found = fit(series_of(K, 2 * 0.999**K), lower=0.0)
    assert found.F_star >= 0 and found.F_star_interval[0] >= 0


def test_the_clock_of_a_decreasing_step_size_is_the_sum_of_the_steps():
    clock = 5 * np.sqrt(K + 1.0)
    found = fit(LossSeries(K, clock, np.exp(-0.05 * clock), np.full(K.size, np.nan), "sum of alpha"))
    assert found.regime == "linear"
    assert found.factor == pytest.approx(np.exp(-0.05), rel=1e-8)


def test_trend_interval_covers_autocorrelated_noise():
    generator = np.random.default_rng(0)
    k = np.arange(120.0)
    covered = 0
    for _ in range(400):
        shocks = generator.standard_normal(k.size + 50)
        noise = np.zeros(k.size + 50)
        for i in range(1, noise.size):
            noise[i] = 0.6 * noise[i - 1] + shocks[i]
        found = trend(k, 3 - 0.02 * k + noise[50:])
        covered += found.interval[0] <= -0.02 <= found.interval[1]
    # 8 blocks of 15 points against a correlation time of 4: 95% less a little; 400 draws have s.e. 1.2%
    assert covered / 400 > 0.90


def test_trend_needs_three_points():
    with pytest.raises(ValueError, match="at least 3 points"):
        trend(np.arange(2.0), np.arange(2.0))


def test_intervals_are_not_narrowed_by_a_negative_correlation_that_may_be_chance():
    k = np.arange(0, 6000, 60)
    alternating = np.where(np.arange(k.size) % 2, 1.0, -1.0)
    generator = np.random.default_rng(3)
    correlations = []
    for share in (0.0,) * 8 + (1.5,):  # alternating noise stays what it is
        z = (generator.standard_normal(k.size) + share * alternating) / np.sqrt(1 + share**2)
        law = fit_law(k.astype(float), 0.3 + (1 + 0.05 * z) / (1 + k / 200))
        assert law is not None
        correlations.append(law.correlation)
    assert min(correlations[:-1]) == 0.0 and correlations[-1] < -0.3
