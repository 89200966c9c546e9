"""Real instances: on functions whose behaviour is known the ledger says what is true, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tameopt as tame
from tameopt.audit.diagnosis import Diagnosis
from tameopt.evidence import Outcome, Verdict
from tameopt.problem import Problem
from tameopt.theorems import Judgement

# no hypothesis rests on these
NOT_ASKED_FOR = (
    "noise.ode",
    "noise.limit_set",
    "nonsmooth.goldstein",
    "nonsmooth.chain_rule",
    "dynamics.gradient_map",
)
HOLDS = (Outcome.APPLIES, Outcome.AS_MEASURED, Outcome.LOCALLY)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Diagnosis]:
    """An audit by name, done once a module."""
    done: dict[str, Diagnosis] = {}

    def audit(name: str, problem: Problem | str, **options: Any) -> Diagnosis:
        if name not in done:
            out = tmp_path_factory.mktemp("run") / name
            done[name] = tame.audit(problem, out=out, exclude=NOT_ASKED_FOR, **options)
        return done[name]

    return audit


def judgement(diagnosis: Diagnosis, theorem: str) -> Judgement:
    return next(one for one in diagnosis.judgements if one.theorem == theorem)


def refuted(diagnosis: Diagnosis, theorem: str) -> set[str]:
    return {one.claim for one in judgement(diagnosis, theorem).hypotheses if one.verdict is Verdict.REFUTED}


def _cubic(y: float) -> Problem:
    theta0 = torch.tensor([1.0, y], dtype=torch.float64)
    return Problem.from_function(
        lambda theta: theta[0] ** 2 / 2 + theta[1] ** 3 / 3,
        theta0,
        name="cubic",
        initial_law="uniform on the square [-1, 1]^2, seed 0",
    )


def test_from_a_random_start_the_saddle_is_avoided(audited: Callable[..., Diagnosis]) -> None:
    diagnosis = audited("saddle", "saddle", lr=0.1, steps=300)
    for name in ("saddle-avoidance", "iterates-converge", "linear-rate", "gradient-map-diffeomorphism"):
        # the gradient is not globally Lipschitz (y^4): locally is the most that can be true
        assert judgement(diagnosis, name).outcome is Outcome.LOCALLY, name
    assert judgement(diagnosis, "morse-sard").outcome is Outcome.APPLIES
    assert judgement(diagnosis, "tarski-seidenberg").outcome is Outcome.APPLIES
    for one in diagnosis.judgements:
        assert not one.bug
        assert all(prediction.agrees is not False for prediction in one.predictions), one.theorem


def test_on_a_strict_saddle_the_stable_manifold_theorem_speaks(audited: Callable[..., Diagnosis]) -> None:
    diagnosis = audited("on-saddle", tame.problems.load("saddle", start=(1.0, 0.0)), lr=0.1, steps=300)
    assert judgement(diagnosis, "stable-manifold").outcome in HOLDS
    # a fixed start is on the exceptional set, and the avoidance theorem does not speak of it
    assert "init.absolutely_continuous" in refuted(diagnosis, "saddle-avoidance")
    assert diagnosis.verdict.kind == "strict saddle"


def test_avoidance_is_never_claimed_at_a_saddle_that_is_not_strict(audited: Callable[..., Diagnosis]) -> None:
    # x^2/2 + y^3/3 from y > 0 converges to the saddle 0: a half of all starts does
    diagnosis = audited("cubic", _cubic(0.5), lr=0.2, steps=1500)
    one = judgement(diagnosis, "saddle-avoidance")
    if one.outcome in HOLDS:
        assert "It says nothing about the point reached" in one.sentence
    assert "point.strict_saddle" not in {
        finding.claim for finding in diagnosis.findings if finding.verdict in (Verdict.PROVED, Verdict.MEASURED)
    }
    assert diagnosis.verdict.kind != "strict saddle"


def test_momentum_is_not_gradient_descent(audited: Callable[..., Diagnosis]) -> None:
    diagnosis = audited("momentum", "saddle", lr=0.05, steps=300, arguments={"momentum": 0.5})
    for name in ("saddle-avoidance", "iterates-converge", "linear-rate", "ode-method"):
        assert judgement(diagnosis, name).outcome is Outcome.FAILS, name
    assert "method.gradient_descent" in refuted(diagnosis, "iterates-converge")


def test_a_step_above_1_over_L_and_one_above_2_over_L(audited: Callable[..., Diagnosis]) -> None:
    above = audited("above", tame.problems.load("quadratic"), lr=0.15, steps=150)
    assert "step.below_1_over_L" in refuted(above, "gradient-map-diffeomorphism")
    # between 1/L and 2/L the iterates still converge
    assert judgement(above, "iterates-converge").outcome in HOLDS
    beyond = audited("beyond", tame.problems.load("quadratic"), lr=0.25, steps=150)
    assert "step.stable" in refuted(beyond, "iterates-converge")
    assert beyond.verdict.kind == "diverged"


def test_vanishing_steps_and_a_constant_step(audited: Callable[..., Diagnosis]) -> None:
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    y = x.sum(dim=1, keepdim=True) + torch.randn(60, 1, generator=generator)
    torch.manual_seed(0)

    def problem() -> Problem:
        return Problem(nn.Linear(3, 1), nn.functional.mse_loss, (x, y), name="regression")

    vanishing = audited("vanishing", problem(), lr=0.2, steps=1500, batch_size=6, schedule="power:3/4")
    for name in ("ode-method", "tame-sgd", "stochastic-subgradient-tame"):
        one = judgement(vanishing, name)
        steps = {h.claim: h.verdict for h in one.hypotheses if h.claim.startswith("step.")}
        assert set(steps.values()) == {Verdict.PROVED}, name
        assert not refuted(vanishing, name)
    constant = audited("constant", problem(), lr=0.05, steps=500, batch_size=6)
    for name in ("ode-method", "tame-sgd", "stochastic-subgradient-tame"):
        assert refuted(constant, name) == {"step.square_summable"}, name


def test_an_absolute_value_has_no_gradient_theorems(audited: Callable[..., Diagnosis]) -> None:
    theta0 = torch.tensor([1.0, -0.7], dtype=torch.float64)
    diagnosis = audited("l1", Problem.from_function(lambda theta: theta.abs().sum(), theta0), lr=0.013, steps=300)
    for name in ("iterates-converge", "linear-rate", "saddle-avoidance", "gradient-map-diffeomorphism"):
        assert judgement(diagnosis, name).outcome is Outcome.FAILS, name
    assert judgement(diagnosis, "chain-rule").outcome is Outcome.APPLIES
    assert diagnosis.verdict.kind == "kink"
