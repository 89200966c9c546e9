"""Saddle avoidance: what is avoided, and the negative control that must not be claimed."""

import pytest
import torch

import tameopt as tame
from tameopt.dynamics.avoidance import _end_of

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
    assert "of no proven kind" in found.statement and "went to a strict saddle" in found.statement


def test_bad_draws():
    with pytest.raises(ValueError, match=r"draw\(m, generator\) must return \(m, d\) starts"):
        tame.dynamics.saddle_avoidance(lambda t: t.sum(), 0.1, lambda m, g: torch.zeros(3), starts=5)


def box(*half):
    def draw(m, generator):
        return (2 * torch.rand(m, len(half), generator=generator, dtype=F64) - 1) * torch.tensor(half, dtype=F64)

    return draw


def double_well(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


@pytest.mark.parametrize("height, num_steps", [(1e-6, 40), (1e-13, 60)])
def test_a_start_that_has_not_left_the_saddle_yet_did_not_go_there(height, num_steps):
    """x shrinks, y grows: with few steps the iterates are next to the saddle, nearer than at half time."""
    found = tame.dynamics.saddle_avoidance(double_well, 0.2, box(1.0, height), starts=30, num_steps=num_steps)
    assert found.counts == {"unsettled": 30}
    assert "30 did not settle: its probability is below 1" in found.statement


def test_a_lower_basin_nearby_makes_no_saddle_of_a_degenerate_minimum():
    """y^4 next to 0, a local minimum; F is below 0 from |y| = 0.07 on."""
    problem = tame.Problem.from_function(
        lambda t: t[0] ** 2 / 2 + t[1] ** 4 * (1 - (t[1] / 0.07) ** 2) + 1e4 * t[1] ** 8, torch.zeros(2, dtype=F64)
    )
    limit = tame.curvature.classify(problem, problem.theta)
    assert limit.kind == "degenerate" and float(problem.value(torch.tensor([0.0, 0.1], dtype=F64))) < 0
    assert _end_of(problem, limit, torch.Generator().manual_seed(0)) == "degenerate"


def test_a_saddle_whose_lower_values_lie_in_a_curved_valley_is_no_minimum():
    """(y - x^2)^2 + x^5 rises on every line through 0, and falls along y = x^2: it draws starts with x > 0."""
    problem = tame.Problem.from_function(lambda t: (t[1] - t[0] ** 2) ** 2 + t[0] ** 5, torch.zeros(2, dtype=F64))
    limit = tame.curvature.classify(problem, problem.theta)
    assert limit.kind == "degenerate"
    assert _end_of(problem, limit, torch.Generator().manual_seed(0)) == "non-strict saddle"


CASES = [
    # the monkey saddle: a null set converges to it, the others leave
    (lambda t: t[0] ** 3 - 3 * t[0] * t[1] ** 2, 0.05, (0.5, 0.5), {"left"}),
    # a non-strict saddle that repels
    (lambda t: t[0] ** 2 / 2 - t[1] ** 4, 0.05, (1.0, 1.0), {"left", "unsettled"}),
    # a negative eigenvalue of 1e-8 between minima at 1e-4: never called a strict saddle that starts go to
    (lambda t: t[0] ** 2 / 2 - 5e-9 * t[1] ** 2 + t[1] ** 4 / 4, 0.2, (1.0, 1.0), {"degenerate", "unsettled"}),
    # plateaus, where every gradient is 0 to rounding
    (lambda t: -torch.exp(-50 * (t**2).sum()), 0.01, (2.0, 2.0), {"minimum", "unsettled"}),
    # steps above 2/L at the minima: they jump for ever
    (double_well, 1.9, (1.0, 1.0), {"minimum", "unsettled"}),
    # no number after some steps
    (lambda t: torch.sqrt(t[0]) + t[1] ** 2, 0.1, (1.0, 1.0), {"left"}),
    # to infinity, ever slower
    (lambda t: 1 / (1 + t[0] ** 2) + t[1] ** 2 / 2, 0.1, (1.0, 1.0), {"unsettled"}),
]


@pytest.mark.parametrize("function, alpha, half, ends", CASES)
def test_no_false_end(function, alpha, half, ends):
    found = tame.dynamics.saddle_avoidance(function, alpha, box(*half), starts=20, num_steps=1000)
    assert set(found.counts) <= ends, found
    settled = 20 - found.counts.get("unsettled", 0)
    assert settled == 20 or f"{20 - settled} did not settle" in found.statement


@pytest.mark.parametrize("height, num_steps", [(1e-7, 400), (1e-4, 1000)])
def test_a_negative_eigenvalue_of_1e_6_is_no_non_strict_saddle_that_draws_starts(height, num_steps):
    """It passes for no curvature, F is lower next to it, and the starts leave it by 2e-7 of their distance a step."""
    found = tame.dynamics.saddle_avoidance(
        lambda t: t[0] ** 2 / 2 - 1e-6 * t[1] ** 2 / 2, 0.2, box(1.0, height), starts=15, num_steps=num_steps
    )
    assert found.counts == {"unsettled": 15}
    assert "probability is below 1" in found.statement


def test_a_start_that_is_open_counts_in_the_interval_of_every_end():
    """x^2/2 + y^3/3: the upper half goes to the saddle; some of it is too slow to be told in 400 steps."""
    function, covered = lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3, 0
    for seed in range(10):
        found = tame.dynamics.saddle_avoidance(
            function, 0.2, square, starts=20, num_steps=400, generator=torch.Generator().manual_seed(seed)
        )
        low, high = found.interval("non-strict saddle")
        covered += low <= 0.5 <= high
    assert covered == 10


def test_where_f_is_no_number_a_start_is_out():
    """-log(x) has a gradient for x < 0 by autograd."""
    found = tame.dynamics.saddle_avoidance(
        lambda t: -torch.log(t[0]) + t[0] + t[1] ** 2, 0.1, box(1.0, 1.0), starts=20, num_steps=500
    )
    assert set(found.counts) == {"minimum", "left"}
