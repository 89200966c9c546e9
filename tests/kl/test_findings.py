"""The audit's findings about runs, on runs whose fate is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tameopt import problems
from tameopt.analysis import Context
from tameopt.claims import CLAIMS
from tameopt.evidence import Verdict
from tameopt.kl.findings import ANALYSES
from tameopt.kl.fit import fit
from tameopt.kl.rate_findings import AT_ITS_FLOOR, values_converge_finding
from tameopt.kl.series import LossSeries
from tameopt.problem import Problem
from tameopt.run import Run

sys.path.insert(0, str(Path(__file__).parent))
from training import record_descent

D = torch.float64
BY_NAME = {analysis.name: analysis for analysis in ANALYSES}


def answer(problem, run, name="kl.run"):
    theta = run.vector(int(run.vector_steps()[-1])).to(problem.dtype) if run is not None else problem.theta
    context = Context(problem, run, theta)
    assert BY_NAME[name].skip(context) == ""
    return BY_NAME[name].analyse(context)


def by_claim(result):
    return {finding.claim: finding for finding in result.findings}


def test_claims_exist():
    for analysis in ANALYSES:
        assert set(analysis.claims) <= set(CLAIMS)


@pytest.fixture(scope="module")
def quadratic_answer(tmp_path_factory):
    curvatures = torch.tensor([1.0, 0.01], dtype=D)
    problem = Problem.from_function(
        lambda x: 0.5 * (x**2 * curvatures).sum() + 0.3, torch.tensor([1.0, 1.0], dtype=D)
    )
    run = record_descent(tmp_path_factory.mktemp("runs") / "quadratic", problem, 0.9, 1000)
    return answer(problem, run)


def test_quadratic_converges_linearly(quadratic_answer):
    found = by_claim(quadratic_answer)
    assert found["rate.linear"].verdict is Verdict.MEASURED
    # the slow direction contracts by (1 - alpha mu)^2 a step
    assert found["rate.linear"].value == pytest.approx((1 - 0.9 * 0.01) ** 2, rel=1e-6)
    assert found["values.converge"].verdict is Verdict.MEASURED
    assert found["values.descend"].verdict is Verdict.MEASURED
    assert found["iterates.converge"].verdict is Verdict.MEASURED
    assert found["iterates.finite_length"].verdict is Verdict.MEASURED
    assert found["kl.exponent"].value == pytest.approx(0.5, abs=1e-3)
    assert found["kl.pl_constant"].value == pytest.approx(0.01, rel=1e-2)
    assert found["run.noise_floor"].verdict is Verdict.REFUTED


def test_pictures_are_drawable(quadratic_answer):
    assert [picture.name for picture in quadratic_answer.pictures] == ["kl-decay", "kl-gradient"]
    for picture in quadratic_answer.pictures:
        assert picture.series and picture.caption
        assert all(len(series.x) == len(series.y) for series in picture.series if series.style != "hline")


def test_quartic_is_sublinear_with_exponent_three_quarters(tmp_path):
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.tensor([1.0], dtype=D))
    found = by_claim(answer(problem, record_descent(tmp_path / "r", problem, 0.05, 2500)))
    assert found["rate.linear"].verdict is Verdict.REFUTED
    assert found["rate.sublinear"].value == pytest.approx(2.0, rel=0.02)  # l/(l-2) with l = 4
    assert found["kl.exponent"].value == pytest.approx(0.75, abs=5e-3)


def test_logistic_runs_to_infinity_and_is_not_called_convergent(tmp_path):
    problem = Problem.from_function(lambda x: torch.log1p(torch.exp(-x)).sum(), torch.zeros(1, dtype=D))
    found = by_claim(answer(problem, record_descent(tmp_path / "r", problem, 1.0, 1000)))
    for claim in ("iterates.bounded", "iterates.converge", "iterates.finite_length"):
        assert found[claim].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("alpha", [0.02, 0.5])
def test_mexican_hat_is_not_called_convergent(tmp_path, alpha):
    problem = problems.load("mexican-hat")
    found = by_claim(answer(problem, record_descent(tmp_path / "r", problem, alpha, 800)))
    for claim in ("iterates.converge", "rate.linear"):
        assert found[claim].verdict is not Verdict.MEASURED, found[claim].statement


def test_noise_floor_of_stochastic_least_squares(tmp_path):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 5, dtype=D, generator=generator)
    y = X.sum(1, keepdim=True) + 0.5 * torch.randn(200, 1, dtype=D, generator=generator)
    model = torch.nn.Linear(5, 1).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    problem = Problem(model, torch.nn.functional.mse_loss, (X, y))
    run = record_descent(tmp_path / "r", problem, 0.05, 1000, batch_size=10)
    found = by_claim(answer(problem, run))
    assert found["run.noise_floor"].verdict is Verdict.MEASURED
    for claim in ("values.converge", "iterates.converge", "rate.linear", "kl.exponent", "iterates.finite_length"):
        assert found[claim].verdict is Verdict.UNKNOWN, found[claim].statement
    kernel = by_claim(answer(problem, run, "kl.ntk"))
    assert kernel["loss.least_squares"].verdict is Verdict.MEASURED
    assert kernel["loss.least_squares"].value == pytest.approx(1 / 200)
    assert "singular" in kernel["ntk.lambda_min"].statement


def test_divergence_is_found(tmp_path):
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.tensor([3.0], dtype=D))
    found = by_claim(answer(problem, record_descent(tmp_path / "r", problem, 1.0, 400)))
    assert found["run.diverged"].verdict is Verdict.MEASURED
    assert found["run.finite"].verdict is Verdict.REFUTED
    assert "not finite" in found["run.finite"].statement
    assert found["values.converge"].verdict is Verdict.UNKNOWN


def test_an_empty_record_yields_unknowns(tmp_path):
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.tensor([3.0], dtype=D))
    run = Run.create(tmp_path / "r")
    context = Context(problem, run, problem.theta)
    found = by_claim(BY_NAME["kl.run"].analyse(context))
    assert set(found) == set(BY_NAME["kl.run"].claims)
    assert found["values.converge"].verdict is Verdict.UNKNOWN
    assert "full_loss" in found["values.converge"].evidence.missing


def test_every_claim_is_answered(quadratic_answer):
    assert set(by_claim(quadratic_answer)) == set(BY_NAME["kl.run"].claims)


def test_kernel_is_skipped_for_functions():
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.tensor([3.0], dtype=D))
    assert "plain function" in BY_NAME["kl.ntk"].skip(Context(problem, None, problem.theta))


@pytest.mark.parametrize(
    ("loss", "word"),
    [
        (torch.nn.HuberLoss(), "huber_loss"),
        (torch.nn.L1Loss(), "l1_loss|operator"),
        (torch.nn.CrossEntropyLoss(), "floating"),
    ],
)
def test_other_losses_are_not_least_squares(loss, word):
    X = torch.randn(6, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 0, 1, 0, 1]) if isinstance(loss, torch.nn.CrossEntropyLoss) else X[:, :2]
    problem = Problem(torch.nn.Linear(3, 2).double(), loss, (X, targets))
    finding = by_claim(answer(problem, None, "kl.ntk"))["loss.least_squares"]
    assert finding.verdict is Verdict.REFUTED
    import re

    assert re.search(word, finding.statement)


def test_a_distance_below_the_scatter_is_said_to_be_at_the_floor():
    generator = np.random.default_rng(0)
    steps = np.arange(0, 500, 5)
    curve = 1.0 * 0.98**steps
    far = fitted_words(steps, 0.1 + curve + 1e-4 * generator.standard_normal(100), until=40)
    near = fitted_words(steps, 0.1 + curve + 1e-2 * generator.standard_normal(100), until=100)
    assert "the noise may stop it earlier" in far and AT_ITS_FLOOR in near


def fitted_words(steps, values, until):
    series = LossSeries(
        steps[:until],
        steps[:until].astype(float),
        values[:until],
        np.full(until, np.nan),
        "step",
        deterministic=False,
    )
    return values_converge_finding(fit(series), series).statement
