"""Forecasts of when a loss reaches a target: right where the record keeps its law, none where it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tameopt.kl.forecast import forecast, smoothed
from tameopt.kl.series import LossSeries


def series(values: np.ndarray, deterministic: bool | None = True) -> LossSeries:
    steps = 10 * np.arange(values.size)
    return LossSeries(steps, steps.astype(float), values, np.full(values.size, math.nan), deterministic=deterministic)


K = np.arange(100)


@pytest.mark.parametrize(
    ("law", "target"),
    [
        (lambda k: 0.3 + np.exp(-0.03 * k), 0.32),
        pytest.param(lambda k: 2.0 / (1 + 0.2 * k) ** 0.7, 0.2, marks=pytest.mark.slow),
        # two exponentials: no single law, but the later one decides
        pytest.param(lambda k: np.exp(-0.3 * k) + 0.5 * np.exp(-0.02 * k), 0.03, marks=pytest.mark.slow),
    ],
)
def test_laws_are_extended_to_where_they_go(law, target):
    found = forecast(series(law(K)), target, lower=0.0)
    ahead = np.arange(99, 400, 0.01)
    true = 10 * (ahead[np.argmax(law(ahead) <= target)] - 99)
    assert found.reason == "" and found.steps == pytest.approx(true, rel=0.05)
    assert found.interval[0] <= true <= found.interval[1]
    assert len(found.trials) == 4 and max(map(abs, found.trials)) <= 0.12


@pytest.mark.slow
def test_a_run_that_bends_is_not_extended():
    # it falls ever faster: no decay law, and each earlier forecast was too late
    values = 1.0 - (K / 130.0) ** 4
    found = forecast(series(values), float(values[-1]) - 0.1, lower=0.0)
    assert math.isnan(found.steps) and found.reason


def test_a_noise_floor_is_not_extended():
    values = 1.0 + 0.05 * np.random.default_rng(0).standard_normal(100)
    found = forecast(series(values, deterministic=False), 0.9, lower=0.0)
    assert math.isnan(found.steps) and found.reason


def test_targets_that_cannot_be_reached_or_are_too_far():
    values = 0.3 + np.exp(-0.03 * K)
    assert "not above 0.3" in forecast(series(values), 0.25, lower=0.3).reason
    assert "no decay law reaches" in forecast(series(values), 0.25, lower=0.0).reason
    assert "farther ahead" in forecast(series(values), 0.3 + 1e-6, lower=0.0).reason
    assert forecast(series(values), 0.5).steps == 0.0
    assert "needs 24" in forecast(series(values[:20]), 0.5).reason
    with pytest.raises(ValueError, match="finite number"):
        forecast(series(values), math.nan)


def test_running_medians_remove_spikes_of_noisy_records_alone():
    values = np.linspace(1.0, 0.5, 100)
    values[50] = 9.0
    assert smoothed(series(values))[50] == 9.0
    calm = smoothed(series(values, deterministic=False))
    assert calm[50] < 0.8 and calm.size == 100
