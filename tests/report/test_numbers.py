"""Numbers are shown with sensible digits and mean what they were."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tameopt.evidence import Evidence
from tameopt.report.numbers import aligned, estimate, interval, pretty, seconds


@given(st.floats(-1e300, 1e300))
def test_a_number_reads_back_to_three_digits(number: float) -> None:
    text = pretty(number)
    # three significant digits: half a unit in the third, relatively 5e-3 at worst
    assert float(text.replace(",", "")) == pytest.approx(number, rel=5.1e-3, abs=0.0 if number else 1e-300)
    assert text not in ("-0", "-0.0", "0.0")
    assert len(text) <= 12


def test_what_is_no_number_is_said_in_words() -> None:
    assert [pretty(x) for x in (math.nan, math.inf, -math.inf, -0.0)] == [
        "not a number",
        "infinity",
        "-infinity",
        "0",
    ]


def test_an_interval_shows_what_tells_its_ends_apart() -> None:
    assert interval(0.99991, 0.99998) == "[0.99991, 0.99998]"
    assert interval(-0.07, 0.03) == "[-0.07, 0.03]"
    assert aligned(1234.5678, 0.01) == "1,234.568"


def test_durations_have_units() -> None:
    assert [seconds(t) for t in (0.0004, 0.012, 59.6, 61, 3600)] == [
        "under 1 ms",
        "12 ms",
        "60 s",
        "1 min 1 s",
        "1 h",
    ]


def test_an_estimate_carries_its_error_and_sample() -> None:
    evidence = Evidence("x", 12.4, (12.1, 12.7), "95% interval", "steps", 40)
    assert estimate(evidence) == "12.4 steps, 95% interval [12.1, 12.7], sample size 40"
    assert estimate(Evidence("x")) == ""
