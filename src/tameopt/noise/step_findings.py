"""The audit's question to the step sizes: what do they satisfy in the limit?"""

from __future__ import annotations

import numpy as np

from tameopt.analysis import Answer, Context
from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.noise.conditions import StepConditions, step_conditions
from tameopt.optim import schedules
from tameopt.picture import Picture, Series

STEP_CLAIMS = (
    "step.constant",
    "step.positive",
    "step.sum_diverges",
    "step.square_summable",
    "step.subgaussian",
    "step.vanishes",
)


def steps(context: Context) -> Answer:
    """What the step sizes satisfy, from the recorded schedule continued for ever."""
    run = context.run
    assert run is not None
    at, alphas = run.series("lr")
    recorded = run.meta.get("schedule")
    if not recorded:
        return Answer(_from_numbers(at, alphas))
    try:
        conditions = step_conditions(schedules.from_json(recorded))
    except ValueError as error:
        return Answer(
            tuple(_undecided(claim, f"The recorded schedule cannot be read: {error}") for claim in STEP_CLAIMS)
        )
    worst = _disagreement(conditions, at, alphas)
    if worst is not None:
        k, taken, planned = worst
        text = f"The step taken at {k:,} is {taken:.4g}, where the recorded schedule says {planned:.4g}."
        return Answer(tuple(_undecided(claim, text) for claim in STEP_CLAIMS))
    findings = tuple(conditions.finding(claim) for claim in STEP_CLAIMS)
    return Answer(findings, (_steps_picture(conditions, at, alphas),), {"schedule": str(conditions.schedule)})


def _undecided(claim: str, text: str) -> Finding:
    return unknown(
        claim,
        text,
        missing="the rule of the step sizes for all k",
        remedy="pass the schedule as data: tame.schedules.Power(a, p)",
    )


def _from_numbers(at: np.ndarray, alphas: np.ndarray) -> tuple[Finding, ...]:
    """Recorded numbers without a rule: they can refute that the steps are constant or positive, not more."""
    if not at.size:
        return tuple(_undecided(claim, "No step sizes were recorded.") for claim in STEP_CLAIMS)
    findings = [
        _undecided(claim, f"{at.size:,} recorded step sizes decide nothing about the steps to come.")
        for claim in STEP_CLAIMS[2:]
    ]
    first, spread = float(alphas[0]), float(np.ptp(alphas))
    if spread > 1e-9 * abs(first):
        where = int(at[np.argmax(np.abs(alphas - first))])
        constant = refuted(
            "step.constant",
            f"The steps change: from {first:.4g} at step {at[0]:,} by up to {spread:.3g}.",
            {"step": where, "alpha": float(alphas[np.argmax(np.abs(alphas - first))]), "first": first},
            method="recorded step sizes",
            scope=Scope.RUN,
        )
    else:
        constant = measured(
            "step.constant",
            f"Every recorded step is {first:.6g}.",
            first,
            interval=(float(alphas.min()), float(alphas.max())),
            method="recorded step sizes",
            error_kind="range",
            scope=Scope.PATH,
            sample_size=int(at.size),
        )
    least = float(alphas.min())
    if least > 0:
        positive = measured(
            "step.positive",
            f"Every recorded step is positive, the least {least:.4g}.",
            least,
            method="recorded step sizes",
            error_kind="exact",
            scope=Scope.PATH,
            sample_size=int(at.size),
        )
    else:
        positive = refuted(
            "step.positive",
            f"The step at {int(at[alphas.argmin()]):,} is {least:.4g}.",
            {"step": int(at[alphas.argmin()]), "alpha": least},
            method="recorded step sizes",
            scope=Scope.PATH,
        )
    return (constant, positive, *findings)


def _disagreement(conditions: StepConditions, at: np.ndarray, alphas: np.ndarray) -> tuple[int, float, float] | None:
    """A recorded step size that is not the schedule's, beyond float32 rounding: (k, taken, planned)."""
    if not at.size:
        return None
    chosen = np.unique(np.linspace(0, at.size - 1, 200).astype(int))
    planned = np.array([conditions.schedule(int(k)) for k in at[chosen]])
    off = np.abs(alphas[chosen] - planned) - 1e-6 * np.abs(planned)
    worst = int(off.argmax())
    if off[worst] <= 1e-300:
        return None
    return int(at[chosen[worst]]), float(alphas[chosen[worst]]), float(planned[worst])


def _steps_picture(conditions: StepConditions, at: np.ndarray, alphas: np.ndarray) -> Picture:
    if at.size:
        chosen = np.unique(np.linspace(0, at.size - 1, 400).astype(int))
        x, y = at[chosen], alphas[chosen]
    else:
        x = np.arange(400)
        y = conditions.schedule.alphas(400)
    return Picture(
        "step-sizes",
        "Step sizes",
        "step k",
        "alpha_k",
        (Series.of("alpha_k", x.tolist(), y.tolist()),),
        y_log=bool((y > 0).all()),
        caption=f"{conditions.schedule}: that the steps sum to infinity is {conditions.diverges}, that their squares "
        f"have a finite sum is {conditions.square_summable}.",
    )
