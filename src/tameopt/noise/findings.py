"""The analyses of this room, as the audit plans them."""

from __future__ import annotations

import time

import numpy as np
import torch

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Cost, Finding, Scope, Verdict, measured, refuted, unknown
from tameopt.noise import ode_findings, record_findings
from tameopt.noise.conditions import StepConditions, step_conditions
from tameopt.noise.covariance import NoiseAt, batch_factor, noise_at
from tameopt.noise.limit_interval import limit_set
from tameopt.optim import schedules
from tameopt.picture import Picture, Series
from tameopt.run import Run

STEP_CLAIMS = (
    "step.constant",
    "step.positive",
    "step.sum_diverges",
    "step.square_summable",
    "step.subgaussian",
    "step.vanishes",
)


def _no_run(context: Context) -> str:
    return "" if context.run is not None else "no run was recorded"


# -- steps -------------------------------------------------------------------------------------------------


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


# -- sampling noise ----------------------------------------------------------------------------------------

_POINTS = 6  # our choice: recorded iterates at which the covariance is computed
_MAX_VALUES = 6e7  # sample-gradient entries per iterate; past it samples are drawn


def sampling_noise(context: Context) -> Answer:
    """Bias from the recorded sampler; tr Sigma and the noise scale from per-sample gradients on the path."""
    begun = time.perf_counter()
    run, problem = context.run, context.problem
    assert run is not None
    bias = record_findings.unbiased(context)
    if record_findings.is_full_batch(run, problem.n):
        variance = measured(
            "noise.bounded_variance",
            "The noise is 0: every step used the whole data set.",
            0.0,
            interval=(0.0, 0.0),
            method="recorded sampler",
            error_kind="exact",
            scope=Scope.RUN,
        )
        return Answer(
            (bias, variance, _no_scale("every step used the whole data set, so there is no sampling noise"))
        )
    reason = _cannot_measure(context)
    recorded = run.meta.get("batch_size")
    size = recorded if isinstance(recorded, int) else 0
    if not reason and size < 1:
        reason = "the batch size was not recorded"
    if reason:
        missing = unknown("noise.bounded_variance", f"The noise was not measured: {reason}.", missing=reason)
        return Answer((bias, missing, _no_scale(reason)))
    points = _along_path(context)
    replacement = run.meta.get("sampling") == "with replacement"
    factor = batch_factor(problem.n, min(size, problem.n) if not replacement else size, replacement)
    seconds = time.perf_counter() - begun
    cost = Cost(gradients=sum(point.samples / problem.n + 1 for _, point in points), seconds=seconds)
    return Answer(
        (bias, _variance(points, factor, size), _scale(points, size)),
        (_noise_picture(points, size),),
        {
            "noise": [
                {
                    "step": step,
                    "trace": point.trace,
                    "standard_error": point.standard_error,
                    "gradient_norm": point.gradient_norm,
                    "samples": point.samples,
                }
                for step, point in points
            ]
        },
        cost,
    )


def _no_scale(reason: str) -> Finding:
    return unknown("noise.scale", f"The noise scale was not measured: {reason}.", missing=reason)


def _cannot_measure(context: Context) -> str:
    problem, run = context.problem, context.run
    if problem.is_function:
        return "a plain function has no samples"
    if problem.reduction == "sum":
        return "the loss is a sum over samples, the noise is defined for a mean loss"
    if not problem.batches.indexable:
        return "the samples are ragged or streamed, so their gradients cannot be taken one by one"
    if run is not None and run.vector_steps("theta").size == 0:
        return "no iterates were recorded"
    return ""


def _along_path(context: Context) -> list[tuple[int, NoiseAt]]:
    run, problem = context.run, context.problem
    assert run is not None
    saved = run.vector_steps("theta")
    chosen = np.unique(saved[np.unique(np.linspace(0, saved.size - 1, _POINTS).astype(int))])
    most = int(max(32, min(problem.n, _MAX_VALUES // problem.dim)))
    points: list[tuple[int, NoiseAt]] = []
    problem.sample_gradients(context.theta, torch.arange(min(2, problem.n)))  # the first call sets vmap up, seconds
    begun = time.perf_counter()
    budget = min(3.0, 0.25 * context.deadline_seconds)
    # the last iterate first: what the run ends with matters most when time runs out
    for number, step in enumerate(chosen[::-1]):
        elapsed = time.perf_counter() - begun
        if points and elapsed + elapsed / len(points) > budget:
            break
        theta = run.vector(int(step)).to(problem.device, problem.dtype)
        if not bool(theta.isfinite().all()):
            continue
        points.append(
            (int(step), noise_at(problem, theta, max_samples=most, generator=context.generator(100 + number)))
        )
    return points[::-1]


def _variance(points: list[tuple[int, NoiseAt]], factor: float, size: int) -> Finding:
    claim = "noise.bounded_variance"
    if not points:
        return unknown(claim, "No finite iterate was recorded.", missing="a finite recorded iterate")
    traces = np.array([point.trace for _, point in points]) * factor
    errors = 1.96 * np.array([point.standard_error for _, point in points]) * factor
    worst = int(traces.argmax())
    exact = bool((errors == 0).all())
    return measured(
        claim,
        f"The variance of a batch of {size:,} is at most {traces[worst]:.4g} at the {len(points)} recorded iterates "
        f"looked at (step {points[worst][0]:,}), {traces[-1]:.4g} at the last.",
        float(traces[worst]),
        interval=(float((traces - errors).min()), float((traces + errors).max())),
        method="gradients of all single samples" if exact else f"gradients of {points[0][1].samples:,} drawn samples",
        error_kind="range over the iterates, each exact" if exact else "range over the iterates with 95% intervals",
        unit="gradient squared",
        scope=Scope.PATH,
        sample_size=len(points),
    )


def _scale(points: list[tuple[int, NoiseAt]], size: int) -> Finding:
    if not points:
        return _no_scale("no finite iterate was recorded")
    step, last = points[-1]
    if last.gradient_norm == 0:
        return _no_scale("the full gradient vanishes at the last iterate")
    error = 1.96 * last.standard_error / last.gradient_norm**2
    signal = "noise" if last.scale > size else "gradient"
    return measured(
        "noise.scale",
        f"At step {step:,} noise and gradient balance at a batch of {last.scale:,.4g} samples; with {size:,} the "
        f"{signal} dominates a step.",
        last.scale,
        interval=(max(0.0, last.scale - error), last.scale + error),
        method="tr Sigma / norm(grad F)^2 from per-sample gradients",
        error_kind="exact" if error == 0 else "95% interval",
        unit="samples",
        scope=Scope.POINT,
        sample_size=last.samples,
        source="McCandlish et al. 2018",
    )


def _noise_picture(points: list[tuple[int, NoiseAt]], size: int) -> Picture:
    steps_of = [step for step, _ in points]
    return Picture(
        "noise",
        "Gradient and its noise along the run",
        "step",
        "norm",
        (
            Series.of("norm(grad F)", steps_of, [point.gradient_norm for _, point in points]),
            Series.of(f"noise of a batch of {size}", steps_of, [(point.trace / size) ** 0.5 for _, point in points]),
        ),
        y_log=all(point.gradient_norm > 0 and point.trace > 0 for _, point in points),
        caption="Where the noise lies above the gradient, a single step says little about the direction of descent.",
    )


# -- record and limit set ----------------------------------------------------------------------------------


def record(context: Context) -> Answer:
    """The update rule and the law of the start, from the record."""
    return Answer((*record_findings.methods(context), record_findings.initial_law(context)))


def values(context: Context) -> Answer:
    """The limit set of F(theta_k), from the recorded exact values."""
    run = context.run
    assert run is not None
    claim = "values.limit_set"
    at, full = run.series("full_loss")
    found = limit_set(run)
    if found.verdict == "too short":
        finding = unknown(
            claim,
            f"{at.size} recorded values of F are too few to follow its range.",
            missing="at least 24 values of F on the full data over the run",
            remedy="record full_loss more often",
        )
        return Answer((finding,))
    low, high = found.interval
    words = f"F stays in [{low:.5g}, {high:.5g}] since step {found.starts[-1]:,}"
    first = found.upper[0] - found.lower[0]
    if found.verdict == "shrinking" and not _noise_stays(context, run):
        finding = measured(
            claim,
            f"{words}; the range narrowed from {first:.3g} to {found.width:.3g}: consistent with a single critical "
            "value.",
            found.width,
            interval=(0.0, found.width),
            method="range of F over four blocks of equal time in the second half",
            error_kind="range",
            scope=Scope.PATH,
            sample_size=int(found.counts.sum()),
        )
    else:
        why = {
            "shrinking": "narrows so far, but with noise and a step that does not tend to 0 it keeps a width",
            "drifting": "is still moving",
        }.get(found.verdict, f"does not narrow (it was {first:.3g} wide)")
        finding = unknown(
            claim,
            f"{words}; the range {why}, so one limit value is not seen.",
            missing="a range that narrows: a step that tends to 0, or a longer run",
            remedy="--schedule power:0.75",
            method="range of F over four blocks of equal time in the second half",
            estimate=found.width,
        )
    picture = Picture(
        "limit-interval",
        "The range of F",
        "step",
        "F",
        (
            Series.of("F(theta_k)", at.tolist(), full.tolist()),
            Series.of("range", [*found.starts, at[-1]], [*found.lower, found.lower[-1]], "band",
                      [*found.upper, found.upper[-1]]),
        ),
        caption="The band is the range of F in each quarter of the second half; one limit value makes it narrow.",
    )  # fmt: skip
    return Answer((finding,), (picture,))


def _noise_stays(context: Context, run: Run) -> bool:
    """Whether noise acts and the steps, as recorded, are known not to tend to 0."""
    recorded = run.meta.get("schedule")
    if not recorded or record_findings.is_full_batch(run, context.problem.n):
        return False
    try:
        return step_conditions(schedules.from_json(recorded)).vanishes is Verdict.REFUTED
    except ValueError:
        return False


# -- the table ---------------------------------------------------------------------------------------------


def _noise_cost(context: Context) -> Cost:
    return Cost(gradients=0.0 if _cannot_measure(context) else 2.0 * _POINTS)


ANALYSES: tuple[Analysis, ...] = (
    Analysis(
        "noise.steps",
        "What do the step sizes satisfy in the limit?",
        STEP_CLAIMS,
        lambda context: Cost(),
        steps,
        _no_run,
    ),
    Analysis(
        "noise.record",
        "Is the run plain (stochastic) gradient descent, from a random start?",
        ("method.gradient_descent", "method.stochastic_gradient", "init.absolutely_continuous"),
        lambda context: Cost(gradients=5.0),
        record,
        _no_run,
    ),
    Analysis(
        "noise.sampling",
        "Is the gradient noise unbiased, how large is it?",
        ("noise.unbiased", "noise.bounded_variance", "noise.scale"),
        _noise_cost,
        sampling_noise,
        _no_run,
    ),
    Analysis(
        "noise.ode",
        "Does the run follow the gradient flow?",
        ("ode.pseudo_trajectory",),
        ode_findings.estimate,
        ode_findings.pseudo_trajectory,
        ode_findings.skip,
    ),
    Analysis(
        "noise.limit_set",
        "Do the values of F settle on one number?",
        ("values.limit_set",),
        lambda context: Cost(),
        values,
        _no_run,
    ),
)
