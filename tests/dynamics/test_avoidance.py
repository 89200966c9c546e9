"""Saddle avoidance: what is avoided, and the negative control that must not be claimed."""

import pytest
import torch

import tameopt as tame

F64 = torch.float64


def square(m, generator):
    return 2 * torch.rand(m, 2, generator=generator, dtype=F64) - 1


def test_strict_saddles_are_avoided():
    found = tame.dynamics.saddle_avoidance(
        lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 0.2, square, starts=300, num_steps=400
    )
    assert found.counts == {"minimum": 300}
    assert found.interval("strict saddle")[1] == pytest.approx(1 - 0.025 ** (1 / 300))
    assert "None of 300 starts went to a saddle" in found.statement


def test_the_negative_control_a_non_strict_saddle_is_not_avoided():
    """x^2/2 + y^3/3: every start with y > 0 goes to the saddle 0, like 1/k; the others leave."""
    found = tame.dynamics.saddle_avoidance(
        lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3, 0.2, square, starts=100, num_steps=2000
    )
    low, high = found.interval("non-strict saddle")
    assert low < 0.5 < high and found.counts["left"] > 30
    assert "saddles are not avoided here" in found.statement


def test_starts_on_the_stable_manifold_are_reported_as_going_to_the_saddle():
    def on_the_axis(m, generator):
        return torch.cat([square(m, generator)[:, :1], torch.zeros(m, 1, dtype=F64)], dim=1)

    found = tame.dynamics.saddle_avoidance(
        lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 0.2, on_the_axis, starts=50, num_steps=400
    )
    assert found.counts == {"strict saddle": 50}
    assert "is the start on its stable manifold" in found.statement


def test_what_did_not_settle_counts_against_avoidance():
    found = tame.dynamics.saddle_avoidance(
        lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 1e-4, square, starts=100, num_steps=50
    )
    assert found.counts == {"unsettled": 100}
    assert "100 did not settle: its probability is below 1" in found.statement


def test_a_degenerate_minimum_is_not_called_a_saddle():
    found = tame.dynamics.saddle_avoidance(
        lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4, 0.2, square, starts=40, num_steps=1000
    )
    assert set(found.counts) <= {"degenerate", "unsettled"} and found.counts["degenerate"] > 20


def test_bad_draws():
    with pytest.raises(ValueError, match=r"draw\(m, generator\) must return \(m, d\) starts"):
        tame.dynamics.saddle_avoidance(lambda t: t.sum(), 0.1, lambda m, g: torch.zeros(3), starts=5)
