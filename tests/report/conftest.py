"""A diagnosis as an audit would make it: real certificates, the real judge, and awkward cases on purpose."""

from __future__ import annotations

import math

import pytest

from tameopt.audit.diagnosis import (
    KINDS,
    AnalysisRecord,
    Diagnosis,
    QuestionRow,
    Reproducibility,
    Settings,
    TrainingVerdict,
)
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.noise.conditions import step_conditions
from tameopt.optim.schedules import Constant
from tameopt.picture import Image, Picture, Series
from tameopt.theorems._judge import judge_all


def findings() -> tuple[Finding, ...]:
    conditions = step_conditions(Constant(0.05))
    return (
        conditions.finding("step.sum_diverges"),
        conditions.finding("step.square_summable"),
        measured(
            "gradient.lipschitz",
            "On the path the gradient changes by at most 13.1 times the distance moved.",
            13.1,
            interval=(12.8, 13.4),
            error_kind="95% interval",
            sample_size=24,
            method="Lanczos at 24 points of the run",
            scope=Scope.PATH,
            seed=0,
        ),
        refuted(
            "F.C1",
            "F is not differentiable where a ReLU is exactly 0.",
            {"operator": "relu", "line": "model.py:12"},
            method="trace of the model",
            scope=Scope.GLOBAL,
            lines=("model.py:12: relu",),
        ),
        measured(
            "point.lambda_min",
            "The smallest Hessian eigenvalue at the last iterate is -0.02.",
            -0.021,
            interval=(-0.07, 0.03),
            error_kind="bound",
            method="Lanczos, 40 products",
            scope=Scope.POINT,
        ),
        unknown(
            "kl.pl_constant",
            "Whether the PL inequality holds on the path is not known.",
            missing="the infimum of F",
            remedy="tameopt audit --include kl.pl",
        ),
    )


def pictures() -> tuple[Picture, ...]:
    steps = list(range(0, 6000, 3))
    loss = [0.04 + 2.26 * math.exp(-k / 500) * (1 + 0.1 * math.sin(k)) for k in steps]
    axis = tuple(-2 + 4 * i / 40 for i in range(41))
    hill = tuple(tuple(x * x / 2 + y**4 / 4 - y * y / 2 for x in axis) for y in axis)
    return (
        Picture(
            "loss",
            "Training loss",
            "step",
            "F(theta_k)",
            (
                Series.of("mini-batch loss", steps, loss, "points"),
                Series.of("F, all samples", steps[::50], [0.04 + 2.26 * math.exp(-k / 500) for k in steps[::50]]),
                Series("noise floor", y=(0.0412,), style="hline"),
            ),
            y_log=True,
            caption="The loss falls like exp(-k/500) until the noise floor at 0.0412.",
        ),
        Picture(
            "spectrum",
            "Hessian eigenvalues",
            "eigenvalue",
            "number",
            (Series.of("eigenvalues", [-0.5, 0.5, 1.5, 2.5, 12.5], [3, 4000, 700, 100, 7], "bars"),),
            y_log=True,
            caption="Most directions are flat; seven are steep.",
        ),
        Picture(
            "saddle",
            "F around the saddle",
            "x",
            "y",
            (Series.of("the run", [1.5, 0.5, 0.1, 0.0], [0.1, 0.2, 0.6, 1.0]),),
            image=Image(axis, axis, hill, "F", (-0.2, 0.0, 0.5, 1.0)),
            caption="Descent leaves the saddle at (0, 0) along y.",
        ),
        Picture(
            "band",
            "Step against its limit",
            "step",
            "alpha L",
            (
                Series.of("interval", [0, 1000, 2000], [0.5, 0.6, 0.62], "band", [0.7, 0.8, 0.75]),
                Series.of("alpha L", [0, 1000, 2000], [0.6, math.nan, 0.68], "steps"),
                Series("halved", x=(1500.0,), style="vline"),
            ),
        ),
    )


def make(kind: str = "noise floor", sentence: str = "The loss has stopped falling at this step size.") -> Diagnosis:
    found = findings()
    return Diagnosis(
        settings=Settings(
            target="digits-mlp",
            problem="digits-mlp",
            d=4810,
            n=1797,
            dtype="float64",
            optimizer="SGD(lr=0.05)",
            schedule="constant",
            batch_size=64,
            sampling="with replacement",
            initial_law="uniform, seed 0",
            steps_done=6000,
            steps_planned=6000,
            status="finished",
            run_path="runs/digits-mlp-3f2a",
        ),
        verdict=TrainingVerdict(
            kind,
            KINDS[kind],
            sentence,
            ("Train loss 0.0412 +- 0.0006 (95%, 1,200 steps), trend 0 +- 2e-7 a step.",),
            "high",
            "halve the step: lr 0.05 -> 0.025.",
            "The floor should fall about twofold.",
            (("kink", "2 of 115,008 ReLU inputs are exactly 0."),),
        ),
        questions=(
            QuestionRow("Converging?", "to a neighbourhood", "trend 0 +- 2e-7 a step", "high"),
            QuestionRow("Point", "minimum-like, not proved", "lambda_min in [-0.07, 0.03]", "medium", "MEASURED"),
            QuestionRow("Loss is", "semialgebraic", "certificate, 14 operators", "high", "PROVED"),
        ),
        findings=found,
        judgements=judge_all(found),
        pictures=pictures(),
        facts={},
        analyses=(
            AnalysisRecord("curvature.lipschitz", "How steep?", "done", actual=Cost(2.0, 144.0, 1.7)),
            AnalysisRecord(
                "kl.ntk",
                "Does the tangent kernel have full rank?",
                "skipped",
                "n=1,797 is large",
                estimated=Cost(seconds=41.0),
                include="--include kl.ntk",
            ),
            AnalysisRecord("noise.flow", "Does the run follow the flow?", "interrupted", "Ctrl-C"),
        ),
        reproducibility=Reproducibility(
            "tameopt audit digits-mlp --seed 0",
            {"tameopt": "0.1.0", "torch": "2.13.0"},
            {"cpu": "2 cores"},
            0,
            "2026-11-23 14:40",
            8.2,
            0.11,
            21.0,
        ),
        notes=("Interrupted while analysing: what is missing is named below.",),
    )


@pytest.fixture
def diagnosis() -> Diagnosis:
    """The sample."""
    return make()
