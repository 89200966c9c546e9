"""Samples whose rows of the Jacobian are the same, parallel or nearly so are named."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tameopt.evidence import Verdict
from tameopt.kl import trap_certificate
from tameopt.kl.rank import aligned, named, twins, why_singular
from tameopt.kl.shallow import ShallowNetwork, recognise
from tameopt.problem import Problem

D = torch.float64


def problem_of(**options) -> Problem:
    generator = torch.Generator().manual_seed(0)
    X = nn.functional.normalize(torch.randn(6, 8, dtype=D, generator=generator), dim=1)
    Y = 1.4 * torch.randint(0, 2, (6, 1), generator=generator).to(D) - 0.7
    return Problem(ShallowNetwork(8, 4096, generator=generator, **options), nn.functional.mse_loss, (X, Y))


def test_twins_with_different_labels_are_named():
    problem = problem_of()
    X, Y = problem.batches.whole
    X[4], Y[4] = X[1], -Y[1]
    certificate = trap_certificate(problem)
    assert "samples 1 and 4 have the same input and different targets" in certificate.reason


def test_near_twins_with_different_labels_are_named_with_their_distance():
    problem = problem_of()
    X, Y = problem.batches.whole
    X[4], Y[4] = X[1], -Y[1]
    X[4, 0] += 1e-5
    certificate = trap_certificate(problem)
    assert "must be at most 1/2" in certificate.reason
    assert "the inputs of samples 1 and 4 are 1e-05 apart, with different targets" in certificate.reason
    assert "one target for the samples that are named" in certificate.finding().evidence.remedy
    X[4, 0] = X[1, 0] + 1e-9
    certificate = trap_certificate(problem)
    assert "0 within rounding: the inputs of samples 1 and 4 are 1e-09 apart" in certificate.reason
    Y[4] = Y[1]
    assert "samples 1 and 4 are 1e-09 apart, with the same target" in trap_certificate(problem).reason


def test_near_twins_are_found_far_from_the_origin_and_the_nearest_is_first():
    generator = np.random.default_rng(0)
    X = 1e5 + generator.standard_normal((300, 7))
    Y = np.arange(300.0)[:, None]
    X[200] = X[17] + 1e-3
    X[100] = X[30]
    found = twins(X, Y)
    assert [(pair.first, pair.second) for pair in found] == [(30, 100), (17, 200)]
    assert found[0].distance == 0.0 and found[1].distance == pytest.approx(1e-3 * math.sqrt(7), rel=1e-6)
    Y[200] = Y[17]
    assert len(twins(X, Y)) == 1
    X[100:104] = X[30]
    assert named(X, Y).count("the same input") == 3 and "more pairs" in named(X, Y)


@pytest.mark.parametrize(("targets", "words"), [(-1.0, "with opposite targets"), (1.0, "with targets that are not")])
def test_opposite_inputs_of_an_odd_network_are_named(targets, words):
    problem = problem_of()
    X, Y = problem.batches.whole
    X[4], Y[4] = -X[1], targets * Y[1]
    certificate = trap_certificate(problem)
    assert certificate.verdict is Verdict.UNKNOWN and math.isinf(certificate.h)
    assert f"the inputs of samples 1 and 4 are opposite, {words}" in certificate.reason
    X[4, 0] += 1e-5
    assert ("within 1e-05 opposite" in trap_certificate(problem).reason) == (targets == 1.0)


def test_opposite_inputs_are_no_twins_where_the_network_is_not_odd():
    problem = problem_of(activation="softplus", antisymmetric=True)
    X, Y = problem.batches.whole
    X[4], Y[4] = -X[1], Y[1]
    assert "opposite" not in trap_certificate(problem).reason
    assert recognise(problem).symmetry == ""


def test_scaled_copies_are_named_once_and_zeros_are_none():
    generator = np.random.default_rng(0)
    X = generator.standard_normal((40, 6))
    Y = generator.standard_normal((40, 2))
    X[9], Y[9] = 3 * X[2], 3 * Y[2]
    X[11] = -0.5 * X[3]
    X[20] = X[21] = 0.0
    found = aligned(X, Y, "homogeneous")
    assert [(pair.first, pair.second, pair.differ) for pair in found] == [(2, 9, False)]
    assert found[0].factor == pytest.approx(3)
    assert {(pair.first, pair.second, pair.differ) for pair in aligned(X, Y, "linear")} == {
        (2, 9, False),
        (3, 11, True),
    }
    assert aligned(X, Y, "odd") == [] == aligned(X, Y, "")
    assert "the input of sample 20 is 0" in why_singular(X, Y, "homogeneous")
    X[20:22] = generator.standard_normal((2, 6))
    assert "sample 9 is 3 times that of sample 2, with targets that are too" in why_singular(X, Y, "homogeneous")
