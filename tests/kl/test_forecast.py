"""Forecasts of when a loss reaches a target: right where the record keeps its law, none where it does not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tameopt.evidence import Verdict
from tameopt.kl.fit import fit
from tameopt.kl.forecast import forecast, smoothed
from tameopt.kl.rate_findings import steps_finding
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
    assert len(found.trials) == 3 and found.error <= 0.25


def test_what_all_trials_missed_is_taken_off():
    # the exponent of a power law creeps up: each earlier forecast came a little late, and so would this one
    law = lambda k: np.exp(-(0.02 * k) - 0.00012 * k**2)  # noqa: E731
    found = forecast(series(law(K)), float(law(125.0)), lower=0.0)
    assert found.reason == "" and min(found.trials) > 0
    assert found.steps == pytest.approx(10 * 26, rel=0.1)


@pytest.mark.slow
def test_a_run_that_bends_is_not_extended():
    # it falls ever faster: no decay law, and each earlier forecast was too late
    values = 1.0 - (K / 130.0) ** 4
    found = forecast(series(values), float(values[-1]) - 0.1, lower=0.0)
    assert math.isnan(found.steps) and found.reason


def test_a_change_of_regime_is_not_extended():
    # ten times as slow from the sixtieth point on
    values = np.exp(np.where(K < 60, -0.04 * K, -0.04 * 60 - 0.004 * (K - 60)))
    found = forecast(series(values), float(values[-1]) * 0.9, lower=0.0)
    if found.reason == "":
        # its last part alone foretells this, and its interval has to hold it
        assert found.interval[0] <= 10 * math.log(1 / 0.9) / 0.004 <= found.interval[1]
    else:
        assert "laws" in found.reason or "farther ahead" in found.reason


def test_a_noise_floor_is_not_extended():
    values = 1.0 + 0.05 * np.random.default_rng(0).standard_normal(100)
    found = forecast(series(values, deterministic=False), 0.9, lower=0.0)
    assert math.isnan(found.steps) and found.reason


def test_a_target_within_the_scatter_is_a_matter_of_chance():
    values = 0.5 + np.exp(-0.05 * K) + 0.01 * np.random.default_rng(1).standard_normal(100)
    noisy = series(values, deterministic=False)
    found = forecast(noisy, float(smoothed(noisy)[-1]) - 1e-3, lower=0.0)
    assert "within the scatter of F" in found.reason


def test_targets_that_cannot_be_reached_or_are_too_far():
    values = 0.3 + np.exp(-0.03 * K)
    assert "not above 0.3" in forecast(series(values), 0.25, lower=0.3).reason
    assert "no decay law reaches" in forecast(series(values), 0.25, lower=0.0).reason
    assert "farther ahead" in forecast(series(values), 0.3 + 1e-6, lower=0.0).reason
    assert forecast(series(values), 0.5).steps == 0.0
    assert "holds 20 of the 24 losses" in forecast(series(values[:20]), 0.5).reason
    with pytest.raises(ValueError, match="finite number"):
        forecast(series(values), math.nan)


def test_running_medians_remove_spikes_of_noisy_records_alone():
    values = np.linspace(1.0, 0.5, 100)
    values[50] = 9.0
    assert smoothed(series(values))[50] == 9.0
    calm = smoothed(series(values, deterministic=False))
    assert calm[50] < 0.8 and calm.size == 100


def test_the_audit_says_when_half_of_what_is_left_is_gone():
    noise = 1.0 + 1e-3 * np.random.default_rng(0).standard_normal(100)
    record = series(0.3 + 2.0 * 0.996 ** (10 * K) * noise)
    found = steps_finding(fit(record), record)
    assert found.verdict is Verdict.MEASURED
    # half of what is left is gone after log 2 / -log 0.996 = 173 steps
    assert found.value == pytest.approx(np.log(2) / -np.log(0.996), rel=0.1)
    low, high = found.evidence.interval or (0.0, 0.0)
    assert low <= 173 <= high
    assert "asked 3 times earlier they missed by" in found.evidence.method


def test_a_wrong_forecast_is_told():
    # the fit of all points is a perfect exponential, but the record itself ran ahead of it before
    noise = 1.0 + 1e-3 * np.random.default_rng(0).standard_normal(100)
    good = 2.0 * 0.996 ** (10 * K)
    fitted = fit(series(good * noise))
    bent = good.copy()
    bent[:83] = 0.5 * good[:83] + 0.5 * good[0] * np.exp(-0.012 * 10 * K[:83])
    found = steps_finding(fitted, series(bent * noise))
    assert found.verdict is Verdict.UNKNOWN
    assert found.statement.startswith("No number of steps to F = ") and "can be promised" in found.statement


def test_a_run_at_its_limit_has_no_steps_to_go():
    record = series(0.3 + 2.0 * 0.5 ** np.minimum(K, 30.0))
    fitted = dataclasses.replace(fit(record), regime="linear", F_star=0.3, excess=1e-8)
    found = steps_finding(fitted, record)
    assert found.verdict is Verdict.UNKNOWN and "already" in found.statement


def test_an_undecided_record_promises_nothing():
    record = series(np.full(60, 0.7))
    found = steps_finding(fit(record), record)
    assert found.verdict is Verdict.UNKNOWN and found.evidence.missing == "a decay that the record decides"
