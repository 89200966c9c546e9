"""What the audit reads: findings along runs with known curvature, and their honesty where little is known."""

import math

import pytest
import torch

import tameopt as tame
from tameopt.analysis import Context
from tameopt.claims import CLAIMS
from tameopt.curvature.findings import ANALYSES
from tameopt.evidence import Scope, Verdict
from tameopt.run import Run

F64 = torch.float64
A = torch.tensor([4.0, 1.0], dtype=F64)


def quadratic(theta=(1.0, 1.0)):
    return tame.Problem.from_function(lambda t: (A * t**2).sum() / 2, torch.tensor(theta, dtype=F64))


def descent(tmp_path, problem, alpha, steps=20, meta=None, every=5, record=lambda run, k, theta: None):
    theta = problem.theta
    with Run.create(tmp_path / "run", meta) as run:
        for k in range(steps + 1):
            if k % every == 0 or k == steps:
                run.save_vectors(k, {"theta": theta})
                record(run, k, theta)
            if k < steps:
                run.record(k, {"lr": alpha})
                theta = theta - alpha * problem.gradient(theta)
    return Context(problem, Run.open(tmp_path / "run"), theta)


SGD = {"optimizer": {"name": "SGD", "arguments": {}}, "sampling": "full batch"}


def findings(context, name=None):
    answers = [analysis.analyse(context) for analysis in ANALYSES if name in (None, analysis.name)]
    return {finding.claim: finding for answer in answers for finding in answer.findings}


def test_every_promised_claim_is_answered(tmp_path):
    context = descent(tmp_path, quadratic(), 0.1, meta=SGD)
    for analysis in ANALYSES:
        answer = analysis.analyse(context)
        assert [finding.claim for finding in answer.findings] == list(analysis.claims)
        assert set(analysis.claims) <= set(CLAIMS)
        assert analysis.skip(context) == "" and analysis.estimate(context).seconds < 1
        assert answer.cost.hessian_products > 0


def test_a_stable_step_is_measured_against_its_limit(tmp_path):
    found = findings(descent(tmp_path, quadratic(), 0.1, meta=SGD))
    assert found["gradient.lipschitz"].value == pytest.approx(4.0)
    assert found["gradient.lipschitz"].scope is Scope.PATH
    assert found["step.below_1_over_L"].value == pytest.approx(0.4)
    assert found["step.stable"].value == pytest.approx(0.2)
    assert "20% of the stability limit of gradient descent" in found["step.stable"].statement


def test_too_long_a_step_is_refuted_with_its_witness(tmp_path):
    found = findings(descent(tmp_path, quadratic(), 0.51, meta=SGD))
    assert found["step.below_1_over_L"].verdict is Verdict.REFUTED
    assert found["step.below_1_over_L"].evidence.witness["alpha_L_at_least"] == pytest.approx(2.04)
    assert found["step.stable"].verdict is Verdict.REFUTED
    assert found["step.stable"].evidence.witness["ratio_at_least"] == pytest.approx(1.02)


def test_momentum_moves_the_limit(tmp_path):
    meta = {"optimizer": {"name": "SGD", "arguments": {"momentum": 0.9}}, "sampling": "with replacement"}
    found = findings(descent(tmp_path, quadratic(), 0.51, meta=meta))
    assert found["step.stable"].value == pytest.approx(0.51 * 4 / 3.8) or found["step.stable"].value < 1
    assert "mini-batch noise lowers it" in found["step.stable"].statement


def test_adam_without_its_moments_is_unknown_with_them_it_is_preconditioned(tmp_path):
    meta = {"optimizer": {"name": "Adam", "arguments": {"betas": [0.9, 0.999], "eps": 0.0}}, "sampling": "full batch"}
    bare = findings(descent(tmp_path / "bare", quadratic(), 0.1, meta=meta))
    assert bare["step.stable"].verdict is Verdict.UNKNOWN and "exp_avg_sq" in bare["step.stable"].evidence.missing

    def moments(run, k, theta):
        # sqrt of the corrected moments is (2, 1): P^-1 H = diag(2, 1)
        run.save_vectors(k, {"exp_avg_sq": torch.tensor([4.0, 1.0], dtype=F64) * (1 - 0.999**k)})

    full = findings(descent(tmp_path / "full", quadratic(), 0.1, meta=meta, record=moments))
    assert full["step.stable"].value == pytest.approx(0.1 * 2 / 38, rel=1e-6)


def test_an_unknown_optimizer_or_no_run_is_unknown_with_a_reason(tmp_path):
    found = findings(descent(tmp_path, quadratic(), 0.1, meta={}))
    assert "does not say which optimizer" in found["step.stable"].evidence.missing
    lonely = findings(Context(quadratic(), None, quadratic().theta))
    assert lonely["step.stable"].verdict is Verdict.UNKNOWN
    assert lonely["gradient.lipschitz"].scope is Scope.POINT


def test_a_kink_between_points_shows_in_the_gradient_difference(tmp_path):
    """abs has no curvature where it is differentiable; the secant sees what the Hessian does not."""
    problem = tame.Problem.from_function(lambda t: t.abs().sum(), torch.tensor([0.55], dtype=F64))
    found = findings(descent(tmp_path, problem, 0.1, meta=SGD, every=1))
    assert found["gradient.lipschitz"].value == pytest.approx(2 / 0.1, rel=1e-6)
    assert found["step.below_1_over_L"].verdict is Verdict.REFUTED


POINT_KINDS = [
    # function, theta, verdicts of critical, strict_saddle, second_order, hyperbolic; tan is on no tape, so that
    # nothing is proved of it
    (lambda t: (A * torch.tan(t) ** 2).sum(), [0.0, 0.0], "MEASURED REFUTED MEASURED MEASURED"),
    (lambda t: torch.tan(t[0]) ** 2 - t[1] ** 2, [0.0, 0.0], "MEASURED MEASURED REFUTED MEASURED"),
    (lambda t: torch.tan(t[0]) ** 2 - t[1] ** 4, [0.0, 0.0], "MEASURED UNKNOWN MEASURED UNKNOWN"),
    (lambda t: t[0] ** 2 - t[1] ** 2, [0.0, 0.5], "REFUTED REFUTED REFUTED UNKNOWN"),
    (lambda t: (A * t**2).sum(), [0.0, 0.0], "PROVED REFUTED PROVED PROVED"),
    (lambda t: (A * t**2).sum(), [1e-9, 0.0], "MEASURED REFUTED PROVED PROVED"),
    (lambda t: t[0] ** 2 - t[1] ** 2, [0.0, 0.0], "PROVED PROVED REFUTED PROVED"),
    (lambda t: t[0] ** 2 - t[1] ** 4, [0.0, 0.0], "PROVED REFUTED PROVED REFUTED"),
]


@pytest.mark.parametrize("function, theta, expected", POINT_KINDS)
def test_points_of_every_kind(function, theta, expected):
    problem = tame.Problem.from_function(function, torch.tensor(theta, dtype=F64))
    found = findings(Context(problem, None, problem.theta), "curvature.point")
    claims = ("critical", "strict_saddle", "second_order", "hyperbolic")
    assert " ".join(str(found[f"point.{claim}"].verdict) for claim in claims) == expected


def test_a_negative_direction_off_a_critical_point_is_said(tmp_path):
    problem = tame.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.tensor([0.0, 0.5], dtype=F64))
    found = findings(Context(problem, None, problem.theta), "curvature.point")
    assert "a direction curves down (-2)" in found["point.strict_saddle"].statement
    assert found["point.lambda_min"].value == pytest.approx(-2.0)
    assert found["point.index"].value == 1


def test_nan_parameters_are_skipped_and_nan_hessians_unknown():
    problem = tame.Problem.from_function(lambda t: torch.sqrt(t).sum(), torch.tensor([-1.0], dtype=F64))
    assert all(
        finding.verdict is Verdict.UNKNOWN for finding in findings(Context(problem, None, problem.theta)).values()
    )
    lost = Context(problem, None, torch.tensor([math.nan], dtype=F64))
    assert "not finite" in ANALYSES[1].skip(lost)


def test_pictures_are_drawn_from_the_numbers(tmp_path):
    context = descent(tmp_path, quadratic(), 0.1, meta=SGD)
    names = [picture.name for analysis in ANALYSES for picture in analysis.analyse(context).pictures]
    assert names == ["curvature-along-the-run", "step-against-curvature", "eigenvalues", "loss-plane"]
