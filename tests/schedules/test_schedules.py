"""Schedules: values against closed forms, JSON round trips, command-line strings, refusals."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from tameopt.optim import schedules
from tameopt.optim.schedules import Constant, Cosine, Power


def test_closed_forms() -> None:
    assert Constant(0.3)(10**9) == 0.3
    assert Power(2.0, 1)(3) == 0.5
    assert Power(1.0, Fraction(1, 2), shift=4)(0) == 0.5
    cosine = Cosine(0.2, steps=110, warmup=10, a_min=0.02)
    assert cosine(0) == pytest.approx(0.02)
    assert cosine(9) == pytest.approx(0.2)
    assert cosine(60) == pytest.approx(0.11)  # half way down
    assert cosine(110) == cosine(10**6) == 0.02


def test_times_are_the_partial_sums() -> None:
    schedule = Power(0.1, 0.75)
    times = schedule.times(50)
    assert times.shape == (51,)
    assert times[0] == 0.0
    assert times[50] == pytest.approx(math.fsum(0.1 / (k + 1) ** 0.75 for k in range(50)), rel=1e-14)


@pytest.mark.parametrize(
    "schedule", [Constant(0.1), Power(0.1, Fraction(2, 3)), Power(0.1, 0.6, shift=10), Cosine(0.1, 50, 5, 1e-4)]
)
def test_json_round_trip_is_exact(schedule: schedules.Schedule) -> None:
    again = schedules.from_json(json.loads(json.dumps(schedule.to_json())))
    assert again == schedule
    np.testing.assert_array_equal(again.alphas(60), schedule.alphas(60))


def test_command_line_strings() -> None:
    assert schedules.parse("constant", 0.05, 100) == Constant(0.05)
    assert schedules.parse("power:0.75", 0.1, 100) == Power(0.1, Fraction(3, 4))
    assert schedules.parse(" Power : p = 2/3 , shift=10", 0.1, 100) == Power(0.1, Fraction(2, 3), 10)
    assert schedules.parse("cosine:warmup=10", 0.1, 100) == Cosine(0.1, 100, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "Did you mean 'cosine'"),
        ("power:q=1", "fields of 'power' are p, shift, got 'q=1'"),
        ("power", "needs p, shift, got 'power'"),
        ("power:p=fast", "must be numbers, got 'fast'"),
        ("power:p=1/0", "must be numbers, got '1/0'"),
        ("constant:3", "fields of 'constant' are none"),
        ("cosine:warmup=100", "warmup must be < steps, got 100 of 100"),
        ("cosine:warmup=2.5", "warmup must be a whole number"),
    ],
)
def test_command_line_refusals(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        schedules.parse(text, 0.1, 100)


def test_more_command_line_strings() -> None:
    parsed = schedules.parse("multistep:milestones=10+20,factor=0.1", 0.5, 100)
    assert parsed == schedules.MultiStep(0.5, (10, 20), Fraction(1, 10))
    assert schedules.parse("power:0.75,warmup=50", 0.1, 100) == schedules.Warmup(Power(0.1, Fraction(3, 4)), 50)
    assert schedules.parse("onecycle", 0.1, 100) == schedules.OneCycle(0.1, 100)
    assert schedules.parse("exponential:factor=0.999", 0.1, 100)(1) == pytest.approx(0.0999)
    assert "table" not in schedules.kinds() and "restarts" in schedules.kinds()
    with pytest.raises(ValueError, match="must be one of constant"):
        schedules.parse("chain", 0.1, 100)


def test_refusals_of_shapes_and_compositions() -> None:
    with pytest.raises(ValueError, match="factor must be <= 1, got 2"):
        schedules.Exponential(0.1, 2)
    with pytest.raises(ValueError, match=r"factor must be > 0 and finite, got -0\.5"):
        schedules.Step(0.1, 10, -0.5)
    with pytest.raises(ValueError, match="r must be >= 0 and finite, got -1: with p = 0 the steps would grow"):
        schedules.PowerLog(0.1, 0, -1)
    with pytest.raises(ValueError, match="milestones must increase"):
        schedules.MultiStep(0.1, (20, 10), 0.5)
    with pytest.raises(ValueError, match=r"a step size must be >= 0 and finite, got -0\.1"):
        schedules.Table((0.1, -0.1))
    with pytest.raises(ValueError, match="k must be < 2, the table's length, got 2: it does not say how it goes on"):
        schedules.Table((0.1, 0.2))(2)
    with pytest.raises(TypeError, match="last must be a schedule, got float"):
        schedules.Chain((), 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps must be a whole number >= 2, got 1"):
        schedules.OneCycle(0.1, 1)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"a must be > 0 and finite, got -0\.1: a step size is positive"):
        Constant(-0.1)
    with pytest.raises(ValueError, match="a must be > 0 and finite, got nan"):
        Power(math.nan, 1)
    with pytest.raises(ValueError, match="p must be >= 0 and finite, got -1"):
        Power(0.1, -1)
    with pytest.raises(ValueError, match="a_min must be <= a"):
        Cosine(0.1, 10, a_min=0.2)
    with pytest.raises(TypeError, match="must be int, float or Fraction, got str"):
        Constant("0.1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be >= 0, got -1"):
        Constant(0.1)(-1)
    with pytest.raises(ValueError, match=r"must be one of .*, got 'nothing'"):
        schedules.from_json({"kind": "nothing"})
    with pytest.raises(ValueError, match="a 'power' schedule has the fields a, p, shift"):
        schedules.from_json({"kind": "power", "a": 0.1, "q": 2})
