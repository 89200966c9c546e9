"""The gradient flow against closed forms, its order, its refusals, and per-trajectory steps."""

from __future__ import annotations

import math

import pytest
import torch

from tameopt import problems
from tameopt.dynamics.flow import Event, gradient_flow
from tameopt.problem import Problem

TIMES = torch.linspace(0, 5, 23, dtype=torch.float64)


@pytest.mark.parametrize("method", ["dop853", "dopri5"])
def test_quadratic_closed_form(method) -> None:  # type: ignore[no-untyped-def]
    rates = torch.tensor([0.5, 1.0, 3.0, 20.0], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0, 0.3, 5.0], dtype=torch.float64)
    flow = gradient_flow(lambda x: (rates * x * x).sum() / 2, start, TIMES, method=method)
    exact = start * torch.exp(-rates * TIMES[:, None])
    assert float((flow.states - exact).abs().max()) < 1e-9
    assert flow.complete


@pytest.mark.parametrize("method", ["dop853", "dopri5"])
def test_quartic_with_a_step_per_trajectory(method) -> None:  # type: ignore[no-untyped-def]
    start = torch.tensor([[0.5], [2.0], [30.0]], dtype=torch.float64)
    flow = gradient_flow(lambda x: (x**4).sum() / 4, start, TIMES, method=method)
    exact = start / torch.sqrt(1 + 2 * start**2 * TIMES)
    # the start 30 is 60 times further: the local tolerance is relative to norm(theta)
    assert float(((flow.states[:, :, 0] - exact) / start).abs().max()) < 1e-9
    # the fast trajectory pays for itself alone
    assert flow.evaluations[0] < flow.evaluations[2] / 2
    alone = gradient_flow(lambda x: (x**4).sum() / 4, start[0], TIMES, method=method)
    assert int(alone.evaluations) == int(flow.evaluations[0])
    torch.testing.assert_close(alone.states, flow.states[0], rtol=0, atol=1e-15)


def test_each_trajectory_has_its_own_times() -> None:
    times = torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.5, 7.0]], dtype=torch.float64)
    flow = gradient_flow(lambda x: x.square().sum() / 2, torch.ones(2, 1), times)
    torch.testing.assert_close(flow.states[:, :, 0], torch.exp(-(times - times[:, :1])), rtol=0, atol=1e-9)


def test_tolerance_is_met_in_proportion() -> None:
    """The global error falls with the tolerance: slope about 1 in log-log."""
    start, times = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def F(x: torch.Tensor) -> torch.Tensor:
        return 100 * (x[1] - x[0] ** 2) ** 2 / 100 + (1 - x[0]) ** 2

    truth = gradient_flow(F, start, times, tolerance=1e-13).states[-1]
    errors = [
        float((gradient_flow(F, start, times, tolerance=10.0**-power).states[-1] - truth).norm())
        for power in (4, 6, 8, 10)
    ]
    slope = (math.log10(errors[0]) - math.log10(errors[-1])) / 6
    assert 0.7 < slope < 1.3
    assert errors[-1] < 1e-9


def test_blow_up_stops_where_it_happens() -> None:
    flow = gradient_flow(
        lambda x: -(x**3).sum() / 3, torch.tensor([[1.0], [-1.0]]), torch.tensor([0.0, 0.5, 2.0]), tolerance=1e-8
    )
    assert float(flow.stopped[0]) == pytest.approx(1.0, abs=1e-3)  # x' = x^2 from 1 reaches infinity at 1
    assert torch.isnan(flow.states[0, 2]) and float(flow.states[0, 1]) == pytest.approx(2.0, rel=1e-6)
    assert float(flow.states[1, 2]) == pytest.approx(-1 / 3, rel=1e-6)  # the other goes on
    assert not flow.complete and "stopped at t=" in repr(flow)


def test_stiff_flow_spends_its_gradients_and_says_so() -> None:
    flow = gradient_flow(
        lambda x: 1e7 * x[0] ** 2 / 2 + x[1] ** 2 / 2, torch.ones(2), torch.tensor([0.0, 10.0]), max_evaluations=500
    )
    assert not flow.complete and float(flow.stopped) < 1.0


def test_kink_is_crossed() -> None:
    """K12: the flow of |x| reaches 0 at |x_0| and stays within the tolerance's chatter before it."""
    flow = gradient_flow(
        lambda x: x.abs().sum(), torch.tensor([1.0]), torch.tensor([0.0, 0.25, 0.9]), tolerance=1e-6, method="dopri5"
    )
    torch.testing.assert_close(flow.states[:, 0], torch.tensor([1.0, 0.75, 0.1], dtype=torch.float64))


def test_problem_batched_equals_one_by_one() -> None:
    problem = problems.load("digits-mlp", n=30, width=3)
    generator = torch.Generator().manual_seed(0)
    starts = torch.randn(3, problem.dim, generator=generator, dtype=torch.float64) * 0.3
    times = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    together = gradient_flow(problem, starts, times, tolerance=1e-5, method="dopri5")
    for row in range(3):
        alone = gradient_flow(problem, starts[row], times, tolerance=1e-5, method="dopri5")
        # the same steps up to rounding, unless rounding moves a kink across a step: then the tolerance holds
        torch.testing.assert_close(together.states[row], alone.states, rtol=0, atol=1e-4)


def test_function_without_a_batching_rule() -> None:
    def F(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum() if float(x.detach().sum()) > -100 else x.sum()

    flow = gradient_flow(F, torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(
        flow.states[:, 1, 0], torch.tensor([1.0, 2.0], dtype=torch.float64) * math.exp(-1.0), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("method", ["dop853", "dopri5"])
def test_events_are_located(method) -> None:  # type: ignore[no-untyped-def]
    """x(t) = x_0 e^-t meets 1/2 at ln(2 x_0); a terminal event stops its own trajectory alone."""
    half = Event(lambda x: x[0] - 0.5, terminal=True, direction=-1)
    upwards = Event(lambda x: x[0] - 0.7, direction=1)
    downwards = Event(lambda x: x[0] - 0.7)
    starts = torch.tensor([[1.0], [0.4], [8.0]])
    flow = gradient_flow(
        lambda x: x.square().sum() / 2, starts, TIMES, method=method, events=(half, upwards, downwards)
    )
    met = [(crossing.trajectory, crossing.event) for crossing in flow.crossings]
    assert met == [(0, 2), (0, 0), (2, 2), (2, 0)]
    for crossing in flow.crossings:
        level = 0.5 if crossing.event == 0 else 0.7
        assert crossing.time == pytest.approx(math.log(float(starts[crossing.trajectory, 0]) / level), abs=1e-8)
        assert float(crossing.state[0]) == pytest.approx(level, abs=1e-8)
    assert float(flow.stopped[0]) == pytest.approx(math.log(2), abs=1e-8)
    assert float(flow.stopped[1]) == 5.0 and bool(torch.isfinite(flow.states[1]).all())
    late = math.log(2) < TIMES
    assert bool(torch.isnan(flow.states[0, late]).all()) and bool(torch.isfinite(flow.states[0, ~late]).all())


def test_refusals() -> None:
    def F(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum()

    with pytest.raises(ValueError, match="times must be finite and strictly increasing"):
        gradient_flow(F, torch.ones(1), torch.tensor([0.0, 0.0]))
    with pytest.raises(ValueError, match=r"times must be \(k,\) or \(1, k\) with k >= 2"):
        gradient_flow(F, torch.ones(1), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"x0 must be \(d,\) or \(m, d\), finite"):
        gradient_flow(F, torch.tensor([math.nan]), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"tolerance must be in \[1e-14, 1\), got 0"):
        gradient_flow(F, torch.ones(1), torch.tensor([0.0, 1.0]), tolerance=0)
    with pytest.raises(ValueError, match="method must be 'dop853' or 'dopri5', got 'euler'"):
        gradient_flow(F, torch.ones(1), torch.tensor([0.0, 1.0]), method="euler")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an event must be a tameopt"):
        gradient_flow(F, torch.ones(1), torch.tensor([0.0, 1.0]), events=[F])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="x0 must have d = 2 columns"):
        gradient_flow(Problem.from_function(F, torch.ones(2)), torch.ones(3), torch.tensor([0.0, 1.0]))
