"""The audit's own analyses: the symptoms, which read what the rooms have found before them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from tameopt.analysis import Analysis, Answer, Context
from tameopt.audit import descent
from tameopt.audit.symptoms import (
    epochs,
    nonfinite,
    oscillation,
    outputs,
    progress,
    resume,
    rises,
    spikes,
    straddle,
)
from tameopt.audit.symptoms.history import History
from tameopt.evidence import Cost, Finding, Verdict
from tameopt.training_mode import only_in_training

_RECORD_CLAIMS = (
    "run.first_non_finite", "run.spikes", "run.rises", "run.oscillates", "run.epoch_steps", "run.resume_jump",
    "run.plateau", "step.too_small",
)  # fmt: skip


def symptom_analyses(findings: Iterable[Finding]) -> tuple[Analysis, ...]:
    """The analyses of symptoms, given what the rooms have found (curvature and noise scale)."""
    held = tuple(findings)
    noise = _estimate(held, "noise.scale")
    steepest = max(abs(_estimate(held, "point.lambda_max")), abs(_estimate(held, "point.lambda_min")), 0.0)

    def record(context: Context) -> Answer:
        assert context.run is not None
        begun = time.perf_counter()
        history = History(context.run)
        found = (
            nonfinite.find(history),
            spikes.find(history),
            rises.find(history),
            oscillation.find(history),
            epochs.find(history),
            resume.find(history),
            progress.plateau(history),
            progress.too_small(history, _stepped_on(context, held), 0.0 if math.isnan(noise) else noise),
        )
        return Answer(found, cost=Cost(seconds=time.perf_counter() - begun))

    def look_at_outputs(context: Context) -> Answer:
        begun = time.perf_counter()
        chance, chance_facts = outputs.chance(context)
        dead, dead_facts = outputs.dead_units(context)
        facts = {"chance": chance_facts, "units": dead_facts}
        return Answer((chance, dead), facts=facts, cost=Cost(0.5, seconds=time.perf_counter() - begun))

    def look_at_kinks(context: Context) -> Answer:
        assert context.run is not None
        begun = time.perf_counter()
        finding, facts = straddle.find(context, History(context.run), steepest if math.isfinite(steepest) else 0.0)
        return Answer((finding,), facts=facts, cost=Cost(40.0, seconds=time.perf_counter() - begun))

    return (
        Analysis("audit.record", "What does the record itself show?", _RECORD_CLAIMS, _cheap, record, _no_run),
        Analysis(
            "audit.outputs",
            "Do the outputs depend on the inputs, and do all units work?",
            (outputs.CHANCE, outputs.DEAD),
            lambda context: Cost(0.5, seconds=_pass_seconds(context)),
            look_at_outputs,
            lambda context: "a plain function of theta has no outputs" if context.problem.is_function else "",
        ),
        Analysis(
            "audit.descent",
            "Does the descent inequality hold between consecutive iterates?",
            (descent.CLAIM, descent.STEP, descent.STABLE),
            lambda context: Cost(68.0, seconds=204 * _pass_seconds(context)),
            descent.analyse,
            _no_run,
        ),
        Analysis(
            "audit.straddle",
            "Do the last iterates jump over a kink?",
            (straddle.CLAIM,),
            lambda context: Cost(40.0, seconds=120 * _pass_seconds(context)),
            look_at_kinks,
            _no_run,
        ),
    )


def _estimate(findings: tuple[Finding, ...], claim: str) -> float:
    """The number of the first decided finding about a claim, NaN when there is none."""
    for one in findings:
        if one.claim == claim and one.verdict is not Verdict.UNKNOWN and one.evidence.estimate is not None:
            return one.evidence.estimate
    return math.nan


def _stepped_on(context: Context, findings: tuple[Finding, ...]) -> float:
    """The steepest curvature on the path of the function that training steps on, NaN where it was not measured."""
    if not any(only_in_training(context.problem)):
        return _estimate(findings, "gradient.lipschitz")
    for one in findings:
        if one.claim == "step.stable" and one.evidence.witness and "lambda_max" in one.evidence.witness:
            return float(one.evidence.witness["lambda_max"])
    return math.nan


def _no_run(context: Context) -> str:
    return "" if context.run is not None else "the problem was not trained: there is no run to read"


def _cheap(context: Context) -> Cost:
    return Cost(seconds=0.2)


def _pass_seconds(context: Context) -> float:
    """A guess without running anything: 2 flops a parameter and sample, at 3 Gflop/s of one core."""
    return 2.0 * context.problem.dim * max(context.problem.n, 1) / 3e9 + 1e-4
