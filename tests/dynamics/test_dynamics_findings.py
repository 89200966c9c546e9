"""The gradient map's finding: what a step against measured curvature shows, and what it does not."""

import pytest
import torch

import tameopt as tame
from tameopt.analysis import Context
from tameopt.dynamics.findings import ANALYSES
from tameopt.evidence import Scope, Verdict
from tameopt.run import Run

F64 = torch.float64


def finding_of(tmp_path, function, thetas, alpha, **meta):
    problem = tame.Problem.from_function(function, torch.tensor(thetas[0], dtype=F64))
    with Run.create(tmp_path / "run", meta) as run:
        for k, theta in enumerate(thetas):
            run.save_vectors(k, {"theta": torch.tensor(theta, dtype=F64)})
            run.record(k, {"lr": alpha})
    (answer,) = [
        analysis.analyse(Context(problem, Run.open(tmp_path / "run"), torch.tensor(thetas[-1], dtype=F64)))
        for analysis in ANALYSES
    ]
    return answer.findings[0]


def quartic(t):
    return (t**4).sum() / 4


def test_below_one_over_l_is_measured_on_the_path_only(tmp_path):
    found = finding_of(tmp_path, quartic, [[1.0], [0.5], [0.1]], 0.1)
    assert found.verdict is Verdict.MEASURED and found.scope is Scope.PATH
    assert found.value == pytest.approx(0.3)


def test_curvature_that_crosses_one_over_alpha_refutes(tmp_path):
    """x - alpha x^3 with alpha = 1 has derivative 1 - 3 x^2: singular at 1/sqrt(3), between 0.1 and 1."""
    found = finding_of(tmp_path, quartic, [[1.0], [0.1]], 1.0)
    assert found.verdict is Verdict.REFUTED
    assert found.evidence.witness["alpha_lambda_max_above"] == pytest.approx(3.0)


def test_steps_are_named_in_their_order_and_the_run_s_own_method_is(tmp_path):
    found = finding_of(tmp_path, quartic, [[1.0], [0.1]], 1.0, optimizer={"name": "Adam", "arguments": {"lr": 1.0}})
    assert "iterates of steps 0 and 1 there is a point where its Jacobian is singular" in found.statement
    assert found.statement.endswith("The map is that of plain gradient descent on F; the run stepped by Adam.")
    plain = finding_of(
        tmp_path / "other", quartic, [[1.0], [0.1]], 1.0, optimizer={"name": "SGD", "arguments": {"momentum": 0.0}}
    )
    assert "plain" not in plain.statement


def test_a_steep_quadratic_does_not_refute(tmp_path):
    """alpha L = 4 > 1, yet theta -> -3 theta is a diffeomorphism."""
    found = finding_of(tmp_path, lambda t: (t**2).sum() / 2, [[1.0], [-3.0]], 4.0)
    assert found.verdict is Verdict.UNKNOWN and "lemma" in found.statement


def test_negative_curvature_beyond_the_lemma_is_unknown(tmp_path):
    found = finding_of(tmp_path, lambda t: -(t**2).sum(), [[1.0], [2.0]], 0.6)
    assert found.verdict is Verdict.UNKNOWN and "alpha L is at least 1.2" in found.statement


def test_no_step_is_unknown():
    problem = tame.Problem.from_function(quartic, torch.ones(1, dtype=F64))
    (finding,) = ANALYSES[0].analyse(Context(problem, None, problem.theta)).findings
    assert finding.verdict is Verdict.UNKNOWN and "there is no run" in finding.evidence.missing
