"""The limit interval and the accumulation points on runs made by hand, and the corollary's warning cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tameopt import problems
from tameopt.noise import accumulation_points, interpolate, limit_set
from tameopt.noise.limit_interval import limit_interval
from tameopt.problem import Problem
from tameopt.run import Run

STEPS = np.arange(0, 4000, 20)


def test_verdicts() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=STEPS.size)
    assert limit_interval(STEPS, 1 + 0.99 ** (STEPS / 2)).verdict == "shrinking"
    assert limit_interval(STEPS, 1 + noise / np.sqrt(STEPS + 1.0) ** 1.5).verdict == "shrinking"
    assert limit_interval(STEPS, 1 + 0.1 * noise).verdict == "steady"
    assert limit_interval(STEPS, 5 - STEPS / 1000).verdict == "drifting"
    # its range narrows from block to block, and it falls for ever
    assert limit_interval(STEPS, 10 - np.log(STEPS + 1.0)).verdict == "drifting"
    assert limit_interval(STEPS, np.ones(STEPS.size)).verdict == "shrinking"
    assert limit_interval(STEPS[:10], noise[:10]).verdict == "too short"
    with pytest.raises(ValueError, match="blocks must be at least 3, got 2"):
        limit_interval(STEPS, noise, blocks=2)


def test_slow_oscillation_between_two_values_is_not_called_convergence() -> None:
    """An interval as limit set, which the theorem excludes for tame F: a run that does this must not pass."""
    found = limit_interval(STEPS, 1 + 0.3 * np.sin(STEPS / 120))
    assert found.verdict == "steady"
    low, high = found.interval
    assert low == pytest.approx(0.7, abs=0.02) and high == pytest.approx(1.3, abs=0.02)
    assert found.width == pytest.approx(0.6, abs=0.04)


def test_non_finite_values_are_left_out(tmp_path: Path) -> None:
    values = 1 + 0.99 ** (STEPS / 2)
    values[50] = np.nan
    with Run.create(tmp_path / "run", {}) as run:
        run.record_many(STEPS, {"full_loss": values})
        found = limit_set(run)
    assert found.verdict == "shrinking" and "since step" in repr(found)
    assert "<pre>LimitSet(" in found._repr_html_()


def test_two_basins_are_two_accumulation_points(tmp_path: Path) -> None:
    problem = problems.load("saddle")  # minima at (0, 1) and (0, -1)
    rng = np.random.default_rng(0)
    thetas = 0.01 * rng.normal(size=(400, 2))
    thetas[:, 1] += np.where(np.arange(400) % 100 < 70, 1.0, -1.0)
    with Run.create(tmp_path / "run", {}) as run:
        run.save_block("theta", range(400), torch.as_tensor(thetas))
        points = accumulation_points(problem, run)
    assert len(points) == 2 and points[0].visits > points[1].visits
    for point, y in zip(points, (1.0, -1.0), strict=True):
        assert point.centre.tolist() == pytest.approx([0.0, y], abs=0.02)
        assert point.gradient_norm < 0.05 and point.value == pytest.approx(-0.25, abs=1e-3)
        assert point.smooth and point.clarke_distance == point.gradient_norm
        assert "visits within" in repr(point)


def test_at_a_kink_the_gradient_is_large_and_the_clarke_distance_small(tmp_path: Path) -> None:
    """abs(x) + y^2/2 around 0, and the control abs(x) + 3 x + y^2/2, which has no critical point."""
    rng = np.random.default_rng(0)
    thetas = torch.as_tensor(0.01 * rng.normal(size=(400, 2)) + np.array([0.002, 0.0]))
    with Run.create(tmp_path / "run", {}) as run:
        run.save_block("theta", range(400), thetas)
        for slope, low, high in ((0.0, 0.0, 0.02), (3.0, 1.99, 4.1)):
            problem = Problem.from_function(
                lambda x, slope=slope: x[0].abs() + slope * x[0] + x[1] ** 2 / 2, torch.zeros(2, dtype=torch.float64)
            )
            (point,) = accumulation_points(problem, run)
            assert not point.smooth and point.gradient_norm > 0.99
            assert low <= point.clarke_distance <= high, point
            assert "Clarke distance within the radius" in repr(point)


def test_both_ends_are_followed() -> None:
    found = limit_interval(STEPS, 1 + np.where(STEPS % 40 == 0, 2.0, -0.5) * 0.999 ** (STEPS / 2))
    rise, fall = found.trend
    assert found.single_value and rise > 0 > fall and "its ends moved by +" in repr(found)


def test_too_few_iterates(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}) as run:
        run.save_block("theta", range(3), torch.zeros(3, 2))
        with pytest.raises(ValueError, match="at least 4 finite iterates of the last quarter must be"):
            accumulation_points(problems.load("saddle"), run)


@pytest.mark.parametrize(
    "analysis", [limit_set, interpolate, lambda run: accumulation_points(problems.load("quadratic"), run)]
)
def test_what_is_no_run_is_named(analysis: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"must be a tameopt\.run\.Run, got str: of a watched loop give its \.run"):
        analysis("runs/digits")
