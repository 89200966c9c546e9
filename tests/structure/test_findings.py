"""What the audit is told about F."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import tameopt as tame
from tameopt.analysis import Context
from tameopt.evidence import Verdict
from tameopt.structure.findings import ANALYSES, CLAIMS
from tameopt.structure.kink_witness import find_kink


def _verdicts(problem):
    answer = ANALYSES[0].analyse(Context(problem, None, problem.theta))
    assert {finding.claim for finding in answer.findings} <= set(CLAIMS)
    return {finding.claim: finding for finding in answer.findings}


def test_a_relu_network_is_tame_and_its_kink_is_shown():
    found = _verdicts(tame.problems.load("digits-mlp").to(torch.float64))
    proved = {claim for claim, finding in found.items() if finding.verdict is Verdict.PROVED}
    assert {"F.tame", "F.locally_lipschitz", "F.path_differentiable", "F.kl", "F.bounded_below"} <= proved
    assert "F.autodiff" in proved
    assert found["F.C1"].verdict is Verdict.REFUTED
    witness = found["F.C1"].evidence.witness
    assert witness["width"] < 1e-11
    jump = witness["slope_right"] - witness["slope_left"]
    assert witness["difference_right"] - witness["difference_left"] == pytest.approx(jump, rel=0.1)
    assert found["F.bounded_below"].value == 0.0
    assert found["F.convex"].verdict is Verdict.UNKNOWN


def test_a_linear_model_is_analytic_and_convex():
    found = _verdicts(tame.problems.load("digits-linear").to(torch.float64))
    for claim in ("F.analytic", "F.C2", "F.convex", "F.homogeneous", "F.kl"):
        assert found[claim].verdict is Verdict.PROVED, claim


def test_a_polynomial_has_its_degree():
    found = _verdicts(tame.problems.load("deep-linear").to(torch.float64))
    assert found["F.polynomial_degree"].value == 4
    assert found["F.semialgebraic"].verdict is Verdict.PROVED


def test_nothing_is_claimed_about_the_mexican_hat():
    found = _verdicts(tame.problems.load("mexican-hat").to(torch.float64))
    assert {finding.verdict for finding in found.values()} == {Verdict.UNKNOWN}


def test_a_branch_that_cannot_be_followed_blocks_every_proof():
    problem = tame.Problem.from_function(
        lambda t: t.sum() if torch.equal(t, t.round()) else -t.sum(), torch.ones(2).double()
    )
    found = _verdicts(problem)
    assert {finding.verdict for finding in found.values()} == {Verdict.UNKNOWN}
    assert "Python decides" in found["F.tame"].evidence.missing


def test_a_branch_that_can_be_followed_leaves_the_class_proved_and_continuity_open():
    problem = tame.Problem.from_function(lambda t: t.sum() if t.sum() > 0 else -t.sum(), torch.ones(2).double())
    found = _verdicts(problem)
    assert found["F.tame"].verdict is Verdict.PROVED
    assert found["F.continuous"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "function",
    [
        lambda t: functional.huber_loss(t, torch.zeros_like(t)),
        lambda t: (50 * t).tanh().sum(),
        lambda t: (t.square() + 1e-10).sqrt().sum(),
        # backprop jumps, the function does not
        lambda t: torch.where(t > 0, t, t.detach() + 0 * t).sum(),
    ],
)
def test_no_kink_is_claimed_where_there_is_none(function):
    problem = tame.Problem.from_function(function, torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64))
    assert find_kink(problem, problem.theta, 0, 5.0) is None


def test_a_kink_is_found_in_the_absolute_value():
    problem = tame.Problem.from_function(lambda t: t.abs().sum(), torch.zeros(2, dtype=torch.float64))
    kink = find_kink(problem, problem.theta, 0, 5.0)
    assert kink is not None
    assert kink.slope_right == pytest.approx(-kink.slope_left)
