"""Proved Lipschitz constants on boxes against closed forms."""

import pytest
import torch

import tameopt as tame
from tameopt.evidence import Certificate, Verdict
from tameopt.problem import Problem

F64 = torch.float64


def problem_of(function, d=2):
    return Problem.from_function(function, torch.zeros(d, dtype=F64))


@pytest.mark.parametrize(
    "function, box, L",
    [
        (lambda t: (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2, 5.0, 326.79),
        (lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 1.0, 2.0),
        (lambda t: torch.cos(3 * t[0]) + torch.tanh(t[1]), 4.0, 9.0),
    ],
)
def test_the_constant_is_bracketed(function, box, L):
    found = tame.curvature.lipschitz_on_box(problem_of(function), [-box] * 2, [box] * 2)
    assert found.verdict is Verdict.PROVED and found.certificate.replay()
    assert found.upper >= L * (1 - 1e-5) and found.upper <= 1.2 * L
    assert found.lower <= L * (1 + 1e-5)
    below = Certificate(
        found.certificate.checker, {**found.certificate.data, "bound": (0.9 * L).hex(), "max_cells": 300}
    )
    assert not below.replay()


def test_no_constant_is_proved_where_there_is_none():
    kink = tame.curvature.lipschitz_on_box(problem_of(lambda t: t.abs().sum()), [-1, -1], [1, 1], max_cells=40)
    assert kink.verdict is Verdict.UNKNOWN and kink.upper == float("inf")
    pole = tame.curvature.lipschitz_on_box(
        problem_of(lambda t: torch.sqrt(t[0] + 1) + t[1]), [-1, -1], [1, 1], max_cells=40
    )
    assert pole.verdict is Verdict.UNKNOWN
    # the formula of log's second derivative is at most 1 there, where log has no values
    outside = tame.curvature.lipschitz_on_box(
        problem_of(lambda t: torch.log(t[0]) + t[1]), [-2, -1], [-1, 1], max_cells=40
    )
    assert outside.verdict is Verdict.UNKNOWN


def test_bad_boxes():
    with pytest.raises(ValueError, match="a box needs 2 finite numbers lower < upper"):
        tame.curvature.lipschitz_on_box(problem_of(lambda t: t.sum()), [0, 0], [0, 1])
