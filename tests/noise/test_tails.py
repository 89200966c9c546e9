"""Tails of arbitrary schedules: the bounds hold on the numbers themselves, every certificate replays."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.evidence import Verdict
from tameopt.noise import series_checker
from tameopt.noise.conditions import step_conditions
from tameopt.noise.tails import tail_of
from tameopt.optim import schedules as s

P, R, U = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN

sizes = st.fractions(Fraction(1, 1000), 2, max_denominator=1000)
powers = st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(3, 2)])
lengths = st.integers(1, 40)
simple = st.one_of(
    st.builds(s.Constant, sizes),
    st.builds(s.Power, sizes, powers, st.sampled_from([Fraction(1, 3), 1, 7])),
    st.builds(s.PowerLog, sizes, powers.filter(bool), st.sampled_from([Fraction(-1), Fraction(1, 2), Fraction(2)])),
    st.builds(s.PowerLog, sizes, st.just(0), st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(2)])),
    st.builds(s.Step, sizes, lengths, st.sampled_from([Fraction(1, 2), 0.9, 1])),
    st.builds(s.MultiStep, sizes, st.lists(lengths, max_size=3).map(sorted).map(tuple), st.just(0.5)),
    st.builds(s.Exponential, sizes, st.sampled_from([Fraction(1, 2), 0.99, 1])),
    st.builds(s.Linear, sizes, lengths, st.sampled_from([0.1, 2]), st.sampled_from([0, 0.5])),
    st.builds(s.Polynomial, sizes, lengths, st.sampled_from([1, 2]), st.sampled_from([0, Fraction(1, 1000)])),
    st.builds(s.Cosine, sizes, st.integers(10, 40), st.integers(0, 9), st.sampled_from([0, Fraction(1, 1000)])),
    st.builds(s.CosineRestarts, sizes, lengths, st.integers(1, 2), st.sampled_from([0, Fraction(1, 1000)])),
    st.builds(s.OneCycle, sizes, st.integers(5, 40)),
)
anything = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(s.Warmup, inner, lengths),
        st.builds(s.Product, inner, inner),
        st.builds(s.Chain, st.lists(st.tuples(lengths, inner), max_size=2).map(tuple), inner),
        st.builds(s.Table, st.lists(st.sampled_from([0.0, 0.1, 0.3]), min_size=1, max_size=5).map(tuple), inner),
    ),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(anything)
def test_bounds_hold_and_certificates_replay(schedule: s.Schedule) -> None:
    assert s.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    tail = tail_of(schedule)
    conditions = step_conditions(schedule, q=4)
    for finding in conditions.findings:
        assert "bug" not in finding.evidence.missing, finding
        assert finding.verdict in (P, R, U)
    if tail is None:
        assert isinstance(schedule, s.Schedule) and conditions.diverges is U
        return
    for k in [*range(tail.start, tail.start + 90), tail.start + 10_007, tail.start + 123_456]:
        base = (k + 1.0) ** -float(tail.p) * math.log(k + math.e) ** -float(tail.r)
        alpha = schedule(k)
        assert alpha <= float(tail.upper) * base * (1 + 1e-9)
        if tail.lower is not None and tail.every > 0 and (k - tail.start) % tail.every == 0:
            assert alpha >= float(tail.lower) * base * (1 - 1e-9)
    if tail.zero_at is None:
        # 0.5^1000 is above the smallest float, so a true 0 in the first steps is a 0 of the schedule
        assert all(schedule(k) > 0 for k in range(200))
    else:
        assert schedule(tail.zero_at) == 0.0


@settings(max_examples=40, deadline=None)
@given(anything)
def test_verdicts_do_not_contradict_partial_sums(schedule: s.Schedule) -> None:
    """Tails that converge or diverge fast enough show it: geometric, zero and constant ones, by 4,000 steps."""
    tail = tail_of(schedule)
    if tail is None or tail.start > 500 or (tail.p, tail.r) != (0, 0):
        return
    late = sum(schedule(k) for k in range(2_000, 4_000))
    diverges = step_conditions(schedule).diverges
    if diverges is P and tail.every > 0:
        assert late > 0
    if diverges is R and (
        tail.upper == 0 or (tail.shrink is not None and tail.shrink[0] ** (500 // tail.shrink[1]) < 1e-3)
    ):
        assert late < 1e-3


@pytest.mark.parametrize(
    ("schedule", "diverges", "squares", "subgaussian"),
    [
        (s.PowerLog(1, 1, 1), P, P, P),  # sum 1/(k log k) is infinite
        (s.PowerLog(1, 1, Fraction(11, 10)), R, P, P),  # Bertrand
        (s.PowerLog(1, Fraction(1, 2), Fraction(1, 2)), P, R, P),  # squares are 1/(k log k)
        (s.PowerLog(1, Fraction(1, 2), Fraction(3, 5)), P, P, P),
        (s.PowerLog(1, 0, 1), P, R, R),  # a/log k: exp(-c log k) is k^-c
        (s.PowerLog(1, 0, 2), P, R, P),
        (s.Step(1, 1000, 0.5), R, P, P),
        (s.Exponential(1, 0.999), R, P, P),
        (s.Exponential(1, 1), P, R, R),
        (s.MultiStep(1, (100, 200), 0.1), P, R, R),
        (s.CosineRestarts(1, 10, 2), P, R, R),
        (s.Product(s.CosineRestarts(1, 10), s.Power(1, 0.75)), P, P, P),
        (s.Product(s.CosineRestarts(1, 10, 2), s.Power(1, 0.75)), U, P, P),  # ever rarer restarts: not decided
        (s.Product(s.Power(1, 0.5), s.Power(1, 0.5)), P, P, P),
        (s.Product(s.Power(1, 0.5), s.Exponential(1, 0.9999)), R, P, P),
        (s.Warmup(s.Power(1, 0.6), 1000), P, P, P),
        (s.Chain(((1000, s.Constant(1)),), s.Power(1, 1)), P, P, P),
        (s.Chain(((100, s.Cosine(1, 100)),), s.Power(1, 1)), P, P, P),
        (s.Table((0.3, 0.1), s.Power(1, 1)), P, P, P),
        (s.Table((0.3, 0.1)), U, U, U),
        (s.OneCycle(1, 100), P, R, R),
        (s.Linear(1, 10, 0.5, 0), R, P, P),
    ],
)
def test_known_schedules(schedule, diverges, squares, subgaussian) -> None:  # type: ignore[no-untyped-def]
    conditions = step_conditions(schedule)
    assert (conditions.diverges, conditions.square_summable, conditions.subgaussian) == (
        diverges,
        squares,
        subgaussian,
    )


def test_zero_steps_in_the_middle_are_found() -> None:
    finding = step_conditions(s.Chain(((30, s.Cosine(1, 20)),), s.Constant(1))).finding("step.positive")
    assert finding.verdict is R and finding.evidence.witness is not None
    assert finding.evidence.witness["step"] == 20
    # used for its own length only, the cosine never reaches its zero
    assert step_conditions(s.Chain(((20, s.Cosine(1, 20)),), s.Constant(1))).positive is P


def test_table_says_what_tail_it_needs() -> None:
    finding = step_conditions(s.Table((0.3, 0.2))).finding("step.sum_diverges")
    assert "undecidable from finite data" in finding.statement
    assert "past the last recorded one" in finding.evidence.missing and "then=" in finding.evidence.remedy


def test_checker_refuses_a_progression_out_of_step() -> None:
    schedule = s.Product(s.CosineRestarts(1, 10), s.Warmup(s.Power(1, 0.75), 13))
    certificate = step_conditions(schedule).finding("step.sum_diverges").evidence.certificate
    assert certificate is not None and certificate.data["tail"]["start"] == 20
    tail = dict(certificate.data["tail"], start=21)
    assert not series_checker.check({**certificate.data, "tail": tail})
    dense = dict(certificate.data["tail"], every=1)
    assert not series_checker.check({**certificate.data, "tail": dense})
