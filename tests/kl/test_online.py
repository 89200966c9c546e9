"""The certificate along a run of a tiny network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tameopt.analysis import Context
from tameopt.evidence import Verdict
from tameopt.kl.findings import ANALYSES
from tameopt.kl.online import online_certificate
from tameopt.kl.shallow import ShallowNetwork
from tameopt.problem import Problem
from tameopt.run import Run

sys.path.insert(0, str(Path(__file__).parent))
from training import record_descent

D = torch.float64
TRAP = next(analysis for analysis in ANALYSES if analysis.name == "kl.trap")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    X = torch.nn.functional.normalize(torch.randn(6, 10, dtype=D, generator=generator), dim=1)
    Y = torch.tensor([[1.0], [-1.0], [1.0], [1.0], [-1.0], [-1.0]], dtype=D)
    net = ShallowNetwork(10, 4, generator=generator)
    problem = Problem(net, torch.nn.functional.mse_loss, (X, Y))
    run = record_descent(tmp_path_factory.mktemp("runs") / "tiny", problem, 4.0, 800, grid=50)
    return problem, run


def test_it_fires_along_the_run_of_a_tiny_network(trained):
    problem, run = trained
    found = online_certificate(problem, run)
    assert found.step is not None and 0 < found.step < 800
    assert found.certificate.verdict is Verdict.PROVED
    assert found.numbers[-1] <= 0.5 and max(found.numbers) > 0.5


def test_the_promise_is_kept_by_the_rest_of_the_run(trained):
    problem, run = trained
    found = online_certificate(problem, run)
    theta = run.vector(found.step)
    for _ in range(found.certificate.steps):
        theta = theta - found.certificate.step * problem.gradient(theta)
    assert float(problem.value(theta)) <= found.certificate.target * (1 + 1e-9)


def test_the_audit_says_so(trained):
    problem, run = trained
    context = Context(problem, run, run.vector(800))
    assert TRAP.skip(context) == ""
    (finding,) = TRAP.analyse(context).findings
    assert finding.verdict is Verdict.PROVED
    assert finding.statement.startswith("From step")
    assert finding.evidence.certificate.replay()


def test_the_audit_of_an_untrained_problem_says_why_not(trained):
    problem, _ = trained
    (finding,) = TRAP.analyse(Context(problem, None, problem.theta)).findings
    assert finding.verdict is Verdict.UNKNOWN
    assert "must be at most 1/2" in finding.statement


def test_other_losses_are_skipped_with_the_reason():
    model = torch.nn.Linear(3, 2)
    problem = Problem(model, torch.nn.CrossEntropyLoss(), (torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
    assert "least squares" in TRAP.skip(Context(problem, None, problem.theta))


def test_a_run_without_thetas_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="must have saved theta"):
        online_certificate(trained[0], Run.create(tmp_path / "empty"))
