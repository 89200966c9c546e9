"""Martingale-difference tests, tail index, growth model: size, power, and the artefacts they must not fall for."""

from __future__ import annotations

import numpy as np
import pytest

from tameopt.noise.growth import growth_model
from tameopt.noise.hill import hill, tail_index
from tameopt.noise.martingale_tests import noise_tests


def _reshuffled(rng: np.random.Generator, epochs: int, per_epoch: int, d: int) -> np.ndarray:
    """Noise of batches from epochs of random reshuffling: it sums to 0 over each epoch."""
    samples = rng.normal(size=(per_epoch * 4, d))
    samples -= samples.mean(0)
    orders = [rng.permutation(per_epoch * 4) for _ in range(epochs)]
    return np.concatenate([samples[order].reshape(per_epoch, 4, d).mean(1) for order in orders])


def test_martingale_differences_pass() -> None:
    rng = np.random.default_rng(0)
    rejected = sum(noise_tests(rng.normal(size=(120, 5)), seed=s, power=False).rejected for s in range(60))
    assert rejected <= 9  # 3 expected, P(more than 9) < 0.001
    # a volatility that depends on the past is allowed
    x = np.zeros((400, 2))
    for k in range(1, 400):
        x[k] = rng.normal(size=2) * np.sqrt(0.2 + 0.6 * x[k - 1] ** 2)
    assert noise_tests(x, power=False).p_value > 0.01


@pytest.mark.parametrize(
    ("make", "test"),
    [
        (lambda rng: rng.normal(size=(300, 50)) + 0.1, "mean"),
        (lambda rng: (lambda e: e[1:] + 0.4 * e[:-1])(rng.normal(size=(301, 4))), "lag 1"),
        (lambda rng: _reshuffled(rng, 12, 10, 8), "epochs of 10"),
    ],
)
def test_departures_are_found(make, test) -> None:  # type: ignore[no-untyped-def]
    found = noise_tests(make(np.random.default_rng(1)), epoch=10, power=False)
    assert found.rejected
    assert dict(zip(found.names, found.p_values, strict=True))[test] <= 0.05


def test_power_check_says_what_could_be_seen() -> None:
    rng = np.random.default_rng(2)
    large = noise_tests(rng.normal(size=(600, 20)), epoch=12)
    assert large.power["reshuffling"] > 0.95 and large.power["correlation 0.2"] > 0.95
    small = noise_tests(rng.normal(size=(30, 1)))
    assert max(small.power["bias of 0.2 noise"], small.power["correlation 0.2"]) < 0.6
    assert "power:" in repr(small) and small.to_json()["sample_size"] == 30


def test_phase_of_the_epoch_matters() -> None:
    noise = _reshuffled(np.random.default_rng(3), 12, 10, 8)[7:]
    aligned = noise_tests(noise, epoch=10, phase=7, power=False)
    assert dict(zip(aligned.names, aligned.p_values, strict=True))["epochs of 10"] <= 0.01


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("m", [500, 5000])
def test_size_is_nominal(m: int) -> None:
    """5% level, 5,000 simulations: standard error 0.31 points; minutes."""
    rng = np.random.default_rng(m)
    trials = 5_000
    rejected = sum(noise_tests(rng.normal(size=(m, 1)), seed=s, power=False).rejected for s in range(trials))
    assert abs(rejected / trials - 0.05) < 0.01


def test_refusals() -> None:
    with pytest.raises(ValueError, match="with m >= 30 consecutive steps, got shape"):
        noise_tests(np.zeros((10, 2)))
    with pytest.raises(ValueError, match="noise must be finite"):
        noise_tests(np.full((40, 2), np.nan))
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 2"):
        noise_tests(np.zeros((40, 2)), level=2)
    with pytest.raises(ValueError, match="at least 50 positive numbers, one a step, got 10"):
        tail_index(np.ones(10))
    with pytest.raises(ValueError, match=r"k must be in \[2, 99\], got 100"):
        tail_index(np.arange(1.0, 101.0), k=100)
    with pytest.raises(ValueError, match="at least 6 points are needed"):
        growth_model(np.ones(3), np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="must be finite and >= 0"):
        growth_model(-np.ones(8), np.ones(8), np.ones(8))


def test_hill_on_an_exact_pareto_sample() -> None:
    quantiles = (1 - (np.arange(100_000) + 0.5) / 100_000) ** (-1 / 2.5)
    assert hill(quantiles[None], 2_000)[0] == pytest.approx(2.5, rel=0.01)


def test_tail_verdicts_and_the_pooling_artefact() -> None:
    rng = np.random.default_rng(0)
    assert tail_index(np.abs(rng.normal(size=3_000))).verdict == "light"
    assert tail_index(np.abs(rng.standard_t(2, size=3_000))).verdict == "heavy"
    # an anisotropic Gaussian: its pooled coordinates look heavy, its norms and projections are not
    scales = 1.0 / np.arange(1, 201)
    noise = rng.normal(size=(1_000, 200)) * scales
    pooled = np.abs(noise.reshape(1, -1))
    assert hill(pooled, round(pooled.size ** (2 / 3)))[0] < 2.0
    assert tail_index(np.linalg.norm(noise, axis=1)).verdict == "light"
    assert tail_index(noise @ rng.normal(size=200)).verdict == "light"


def test_growth_model_recovers_its_constants() -> None:
    rng = np.random.default_rng(101)
    squares, gaps = rng.exponential(1.0, 80), rng.exponential(1.0, 80)
    found = growth_model(0.5 + 2.0 * squares + 0.0 * gaps, squares, gaps)
    np.testing.assert_allclose([found.A, found.B, found.C], [0.5, 2.0, 0.0], atol=1e-8)
    assert found.factor == pytest.approx(1.0) and found.explained == pytest.approx(1.0)
    noisy = growth_model((0.5 + 2.0 * squares) * rng.uniform(0.8, 1.2, 80), squares, gaps)
    low, high = noisy.intervals[1]  # a 95% interval: over 60 seeds it held the truth 57 times
    assert low < 2.0 < high and noisy.factor > 1.0


def test_growth_intervals_hold_together_as_often_as_they_say() -> None:
    """Relative errors of 30% and a design with leverage: 95% nominal, standard error 1.1 points; HC3 held 87%."""
    rng, truth, hits = np.random.default_rng(7), (0.5, 2.0, 1.0), 0
    for _ in range(400):
        squares, gaps = rng.exponential(size=20), rng.exponential(size=20)
        traces = (truth[0] + truth[1] * squares + truth[2] * gaps) * rng.uniform(0.7, 1.3, 20)
        found = growth_model(traces, squares, gaps).intervals
        hits += all(low <= true <= high for true, (low, high) in zip(truth, found, strict=True))
    assert 0.92 <= hits / 400 <= 0.985


def test_growth_model_at_the_edges() -> None:
    # no noise at all, a column that tells nothing, traces that the model cannot fit
    zero = growth_model(np.zeros(8), np.arange(8.0), np.ones(8))
    assert (zero.A, zero.B, zero.C) == (0.0, 0.0, 0.0) and zero.intervals[1] == (0.0, np.inf)
    flat = growth_model(np.full(9, 3.0), np.arange(9.0), np.arange(9.0)[::-1] ** 2)
    np.testing.assert_allclose([flat.A, flat.explained], [3.0, 1.0])
    falling = growth_model(np.arange(9.0)[::-1], np.arange(9.0), np.arange(9.0) ** 3)
    assert falling.explained == 0.0 and all(low <= high for low, high in falling.intervals)
    tiny = growth_model(1e-30 * np.arange(1.0, 10.0), 1e-30 * np.arange(1.0, 10.0), np.arange(9.0)[::-1] ** 2)
    np.testing.assert_allclose(tiny.B, 1.0)
    assert np.isfinite(tiny.intervals).all()
