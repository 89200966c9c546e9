"""Gradient descent from beside a saddle: the distance grows as the smallest eigenvalue says."""

import math

import pytest
import torch

import tameopt as tame

F64 = torch.float64


def double_well(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


def problem():
    return tame.Problem.from_function(double_well, torch.zeros(2, dtype=F64))


def test_the_distance_grows_by_the_factor_and_settles_at_the_minima():
    escape = tame.dynamics.saddle_escape(problem(), torch.zeros(2), 0.1, lambda_min=-1.0, num_starts=6)
    assert escape.factor == pytest.approx(1.1)
    d = escape.distances
    # along y the map is y -> 1.1 y - 0.1 y^3: while y < 1e-2 the growth is 1.1 to within 1e-5, once x has died out
    growing = (d[:, 1:] < 1e-2) & (d[:, :-1] > 1e-3)
    assert bool(growing.any()) and float((d[:, 1:] / d[:, :-1] - 1.1)[growing].abs().max()) < 1e-3
    assert torch.allclose(d[:, -1], torch.ones(6, dtype=F64), atol=1e-6)
    assert int(escape.left.min()) >= math.log(10) / math.log(1.1)
    assert "6 of 6 runs left" in repr(escape)


def test_a_start_on_the_stable_manifold_is_not_said_to_have_left():
    line = tame.Problem.from_function(lambda t: t[0] ** 2 / 2 - 0 * t[0], torch.zeros(1, dtype=F64))
    escape = tame.dynamics.saddle_escape(line, torch.zeros(1), 0.1, lambda_min=-1.0, num_starts=2, num_steps=5)
    assert escape.left.tolist() == [-1, -1] and "0 of 2 runs left" in repr(escape)


def test_the_picture_holds_runs_and_prediction():
    picture = tame.dynamics.saddle_escape(problem(), torch.zeros(2), 0.1, lambda_min=-1.0, num_starts=3).picture()
    runs, predicted = picture.series
    assert picture.y_log and sum(math.isnan(y) for y in runs.y) == 3
    assert predicted.y[1] / predicted.y[0] == pytest.approx(1.1)


@pytest.mark.parametrize(
    "alpha, lambda_min, message",
    [(0.1, 0.0, "lambda_min must be < 0 at a strict saddle"), (-0.1, -1.0, "alpha must be > 0")],
)
def test_bad_arguments(alpha, lambda_min, message):
    with pytest.raises(ValueError, match=message):
        tame.dynamics.saddle_escape(problem(), torch.zeros(2), alpha, lambda_min=lambda_min)
