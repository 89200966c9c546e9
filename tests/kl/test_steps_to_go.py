"""Steps to go are promised where the record's own past would have been foretold, and only there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tameopt.evidence import Verdict
from tameopt.kl.fit import fit
from tameopt.kl.series import LossSeries
from tameopt.kl.steps_to_go import steps_finding, try_on_record


def series(values: np.ndarray, every: int = 10) -> LossSeries:
    steps = every * np.arange(values.size)
    return LossSeries(steps, steps.astype(float), values, np.full(values.size, np.nan), "step", True)


def noisy(values: np.ndarray) -> np.ndarray:
    return values * (1.0 + 1e-3 * np.random.default_rng(0).standard_normal(values.size))


def test_an_exponential_is_extended() -> None:
    record = series(0.3 + noisy(2.0 * 0.996 ** (10 * np.arange(100))))
    found = steps_finding(fit(record), record)
    assert found.verdict is Verdict.MEASURED
    # half of what is left is gone after log 2 / -log 0.996 = 173 steps
    assert found.value == pytest.approx(np.log(2) / -np.log(0.996), rel=0.05)
    low, high = found.evidence.interval or (0.0, 0.0)
    assert low <= 173 <= high
    assert "foretold the present level" in found.evidence.method


def test_a_decay_that_changes_its_law_is_not_extended() -> None:
    # fast, then ten times as slow from the middle of the record on: the first part foretells the wrong end
    k = 10.0 * np.arange(120)
    log_excess = np.where(k < 500, -0.004 * k, -0.004 * 500 - 0.0012 * (k - 500))
    record = series(noisy(np.exp(log_excess)))
    fitted = fit(record, lower=0.0)
    found = steps_finding(fitted, record, 0.0)
    if fitted.regime in ("linear", "sublinear") and found.verdict is Verdict.MEASURED:
        # if the fit began after the change, the promise has to be that of the slow law
        assert found.value == pytest.approx(np.log(2) / 0.0012, rel=0.25)
    else:
        assert found.verdict is Verdict.UNKNOWN and "No number of steps can be promised" in found.statement


def test_a_wrong_forecast_is_told() -> None:
    # the fit of all 100 points is a perfect exponential, but the record itself ran ahead of it before
    good = 2.0 * 0.996 ** (10 * np.arange(100))
    fitted = fit(series(noisy(good)))
    bent = good.copy()
    bent[:83] = 0.5 * good[:83] + 0.5 * good[0] * np.exp(-0.012 * 10 * np.arange(83))
    record = series(noisy(bent))
    trial = try_on_record(fitted, record)
    assert trial.taken == record.steps[-1] - trial.step
    found = steps_finding(fitted, record)
    assert found.verdict is Verdict.UNKNOWN
    assert found.statement.startswith("No number of steps can be promised: the record up to step")


def test_a_fall_that_is_not_yet_half_promises_nothing() -> None:
    record = series(noisy(2.0 * 0.996 ** (10 * np.arange(100))))
    fitted = fit(record)
    early = dataclasses.replace(fitted, excess=1.5)  # as if the record ended with most of the way still to go
    assert "not yet half" in try_on_record(early, record).reason


def test_an_undecided_record_promises_nothing() -> None:
    record = series(np.full(60, 0.7))
    found = steps_finding(fit(record), record)
    assert found.verdict is Verdict.UNKNOWN and found.evidence.missing == "a decay that the record decides"
