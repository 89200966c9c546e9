"""Samplers: unbiased in exact arithmetic and in simulation, least variance where it is claimed, refusals."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tameopt.evidence import Verdict
from tameopt.noise import record_checker
from tameopt.noise.samplers import Importance, Sampler, Stratified, Uniform

LABELS = (0, 0, 0, 0, 1, 1, 2)
SAMPLERS = [
    Uniform(7, 5),
    Importance(7, 5, (1, 2, 3, 4, 5, 6, 7)),
    Stratified.of(LABELS, 5),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_mean_is_the_gradient(sampler: Sampler) -> None:
    assert sampler.finding().verdict is Verdict.PROVED
    probability, weight = sampler.probabilities()
    torch.testing.assert_close(
        sampler.batch_size * probability * weight, torch.full((7,), 1 / 7, dtype=torch.float64)
    )
    numbers = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws = sampler.draws(torch.Generator().manual_seed(0))
    found = torch.stack([(numbers[i] * w[:, None]).sum(0) for i, w in (next(draws) for _ in range(4000))])
    mean, error = found.mean(0), found.std(0) / 4000**0.5
    assert bool(((mean - numbers.mean(0)).abs() < 4 * error).all())  # 3 numbers at 4 standard errors
    variance = float((found - numbers.mean(0)).square().sum(1).mean())
    predicted = sampler.variance(numbers.square().sum(1), float(numbers.mean(0).square().sum()))
    if isinstance(sampler, Stratified):
        assert variance < predicted
    else:
        assert variance == pytest.approx(predicted, rel=0.1)  # 4,000 draws of a chi-square-like law: 3% or so


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 9))
def test_importance_is_exactly_unbiased(scores: list[int], batch_size: int) -> None:
    sampler = Importance(len(scores), batch_size, tuple(scores))
    total = sum(row["samples"] * row["draws"] * Fraction(row["probability"]) * Fraction(row["weight"])
                for row in sampler.strata())  # fmt: skip
    assert total == 1 and sampler.finding().verdict is Verdict.PROVED


@given(st.lists(st.integers(0, 3), min_size=4, max_size=30), st.integers(4, 12))
def test_stratified_is_exactly_unbiased(labels: list[int], batch_size: int) -> None:
    sampler = Stratified.of(labels, batch_size)
    assert sum(row["draws"] for row in sampler.strata()) == batch_size
    assert sampler.finding().verdict is Verdict.PROVED


def test_importance_by_norm_has_less_variance() -> None:
    norms = torch.tensor([0.1] * 90 + [5.0] * 10, dtype=torch.float64)
    squares = norms**2
    uniform = Uniform(100, 8).variance(squares, 0.0)
    least = float(norms.mean()) ** 2 / 8  # (E norm)^2 / b, at probabilities proportional to the norms
    sampled = Importance.of_norms(norms, 8, floor=0.01).variance(squares, 0.0)
    assert least <= sampled < 1.05 * least < uniform


def test_checker_refuses_wrong_weights() -> None:
    good = Uniform(10, 4).finding().evidence.certificate
    assert good is not None
    row = good.data["strata"][0]
    for change in ({"weight": "1/5"}, {"probability": "1/9"}, {"samples": 9}, {"draws": 5}):
        assert not record_checker.check_unbiased({**good.data, "strata": [{**row, **change}]})
    assert not record_checker.check_unbiased({**good.data, "reduction": "sum"})
    # importance sampling with the weights of uniform sampling: the classical mistake
    rows = [{**one, "weight": "1/4"} for one in Importance(10, 4, (1,) * 5 + (2,) * 5).strata()]
    assert not record_checker.check_unbiased({**good.data, "strata": rows})
    with pytest.raises(ValueError, match="not a certificate of sampling"):
        record_checker.check_unbiased({"sampling": "independent draws"})


def test_refusals() -> None:
    with pytest.raises(ValueError, match="scores must be 3 whole numbers >= 1, one a sample, got 3 with least 0"):
        Importance(3, 2, (0, 1, 2))
    with pytest.raises(ValueError, match="batch_size must be at least the number of classes, 3, got 2"):
        Stratified.of(LABELS, 2)
    with pytest.raises(ValueError, match="n and batch_size must be at least 1, got 0 and 4"):
        Uniform(0, 4)
    with pytest.raises(ValueError, match=r"floor must be in \(0, 1\], got 0"):
        Importance.of_norms(torch.ones(3), 2, floor=0)
