"""The picture of basins with the saddles' curves: they lie where they must, and what cannot be drawn is said."""

import math

import torch

import tameopt as tame

F64 = torch.float64


def double_well(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


def drawn(F):
    T = tame.dynamics.GradientMap(F, 0.1)
    axis = torch.linspace(-1.5, 1.5, 8, dtype=F64)
    found = tame.dynamics.basins(T, (axis, axis), num_steps=1000)
    picture = tame.dynamics.portrait(found, T, [torch.zeros(2, dtype=F64)])
    return picture, {series.label: series for series in picture.series}


def test_the_stable_curve_is_the_line_between_the_basins_and_the_unstable_one_joins_the_minima():
    picture, series = drawn(double_well)
    stable = [(x, y) for x, y in zip(series["stable curve"].x, series["stable curve"].y, strict=True) if x == x]
    assert max(abs(y) for _, y in stable) < 1e-9 and max(x for x, _ in stable) > 1.45
    unstable = [y for y in series["unstable curve"].y if not math.isnan(y)]
    assert max(unstable) > 0.99 and min(unstable) < -0.99
    assert series["saddles"].x == (0.0,) and "part the basins" in picture.caption


def test_a_saddle_without_curves_is_marked_and_the_caption_says_why():
    picture, series = drawn(lambda t: t[0] ** 4 / 4 + t[1] ** 4 / 4 - t[1] ** 2 / 2)
    assert "saddles" in series and "stable curve" not in series
    assert "No curve of a saddle: no eigenvalue of DT may lie on the unit circle" in picture.caption
