"""The room's analyses as the audit calls them: cheap, honest, and silent where they have nothing to say."""

import json
import time

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.analysis import Context
from tameopt.evidence import Verdict
from tameopt.nonsmooth.findings import ANALYSES


def _findings(problem, run=None, theta=None):
    context = Context(problem, run, problem.theta if theta is None else theta)
    found = {}
    for analysis in ANALYSES:
        if not analysis.skip(context):
            answer = analysis.analyse(context)
            assert {finding.claim for finding in answer.findings} <= set(analysis.claims)
            json.dumps(answer.facts)
            found |= {finding.claim: finding for finding in answer.findings}
    return found


@pytest.fixture(scope="module")
def digits():
    return tame.problems.load("digits-mlp").to(torch.float64)


def test_digits_is_answered_cheaply(digits):
    _findings(digits)  # the tracer's imports are not ours
    begun = time.perf_counter()
    found = _findings(digits)
    assert time.perf_counter() - begun < 8
    assert found["point.kinks"].verdict is Verdict.PROVED
    assert found["point.kinks"].evidence.sample_size == 1797 * 64
    assert found["point.backprop_clarke"].verdict is Verdict.PROVED
    assert found["point.clarke_critical"].value == pytest.approx(float(digits.gradient().norm()), rel=1e-9)
    assert found["goldstein.stationary"].value <= found["point.clarke_critical"].value * 1.01


def test_a_dead_layer_sits_on_its_kinks(digits):
    """Zero first-layer weights and biases: all kinks active, backprop still proved by the lemma."""
    parts = {name: part.clone() for name, part in digits.unflatten(digits.theta).items()}
    first = list(parts)[:2]
    for name in first:
        parts[name].zero_()
    found = _findings(digits, theta=digits.flatten(parts))
    assert found["point.kinks"].value == 1797 * 64
    assert found["point.kinks"].verdict is Verdict.MEASURED
    assert found["point.backprop_clarke"].verdict is Verdict.PROVED
    assert found["point.clarke_critical"].evidence.error_kind == "upper bound"


def test_the_clarke_distance_is_looked_for_where_the_exact_set_is_out_of_reach():
    """Sixteen samples on the kink of each of eight units: 128 active kinks, too many for the exact set."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 1)).double()
    nn.init.zeros_(model[0].weight)
    data = (torch.randn(16, 3, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64))
    problem = tame.Problem(model, nn.functional.mse_loss, data)
    context = Context(problem, None, problem.theta)
    answer = ANALYSES[0].analyse(context)
    finding = {entry.claim: entry for entry in answer.findings}["point.clarke_critical"]
    assert finding.verdict is Verdict.MEASURED
    assert finding.statement.startswith("128 kinks are active; 0 is")
    assert "backprop's output has norm" in finding.statement
    low, high = finding.evidence.interval
    assert 0 <= low <= high == finding.value
    assert "limits of gradients" in finding.evidence.method and finding.evidence.sample_size > 1
    assert answer.cost.gradients >= 4 + 2 * finding.evidence.sample_size


def test_smooth_problems_say_so():
    for name in ("rosenbrock", "digits-linear"):
        found = _findings(tame.problems.load(name).to(torch.float64))
        assert "No operator of the loss has a kink" in found["point.kinks"].statement
        assert found["point.backprop_clarke"].verdict is Verdict.PROVED


def test_a_maximum_of_minus_abs_is_clarke_critical():
    problem = tame.Problem.from_function(lambda x: -x.abs().sum(), torch.zeros(2, dtype=torch.float64))
    found = _findings(problem)
    assert found["point.kinks"].value == 2
    assert found["point.backprop_clarke"].verdict is Verdict.PROVED
    assert "convex combination of limits of gradients" in found["point.backprop_clarke"].statement
    assert found["point.clarke_critical"].value == 0


def test_backprop_outside_the_clarke_set_is_refuted():
    problem = tame.Problem.from_function(
        lambda x: (torch.relu(x) - torch.relu(-x)).sum(), torch.zeros(2, dtype=torch.float64)
    )
    found = _findings(problem)
    assert found["point.backprop_clarke"].verdict is Verdict.REFUTED
    assert found["point.backprop_clarke"].evidence.witness["distance"] == pytest.approx(2**0.5)
    assert found["point.clarke_critical"].value == pytest.approx(2**0.5)


def _recorded(tmp_path, problem, thetas):
    run = tame.Run.create(tmp_path / "run", {})
    for step, theta in enumerate(thetas):
        run.save_vectors(10 * step, {"theta": theta})
    return run


def test_chain_rule_holds_along_a_run(tmp_path):
    problem = tame.problems.load("digits-mlp").to(torch.float64)
    theta, thetas = problem.theta, []
    for _ in range(4):
        thetas.append(theta)
        theta = theta - 0.5 * problem.gradient(theta)
    run = _recorded(tmp_path, problem, thetas)
    finding = _findings(problem, run)["chain_rule.along_run"]
    assert finding.verdict is Verdict.MEASURED
    assert finding.value < 1e-4


def test_chain_rule_refutes_a_detached_branch(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            z = self.layer(x)
            return z + torch.tanh(z.detach())

    torch.manual_seed(0)
    data = (torch.randn(20, 3, dtype=torch.float64), torch.randint(2, (20,)))
    problem = tame.Problem(Model().double(), nn.functional.cross_entropy, data)
    run = _recorded(tmp_path, problem, [problem.theta, problem.theta - problem.gradient()])
    finding = _findings(problem, run)["chain_rule.along_run"]
    assert finding.verdict is Verdict.REFUTED
    assert finding.evidence.witness["first_step"] == 0
    assert _findings(problem)["point.backprop_clarke"].verdict is Verdict.UNKNOWN


def test_a_branching_model_is_unknown_with_a_reason():
    problem = tame.Problem.from_function(
        lambda x: x.sum() if bool(x[0] > 0) else -x.sum(), torch.ones(2, dtype=torch.float64)
    )
    found = _findings(problem)
    assert found["point.kinks"].verdict is Verdict.UNKNOWN
    assert "one list of operators" in found["point.kinks"].evidence.missing


def test_chain_rule_is_skipped_without_a_run(digits):
    analysis = next(analysis for analysis in ANALYSES if analysis.name == "nonsmooth.chain_rule")
    assert "no run" in analysis.skip(Context(digits, None, digits.theta))
