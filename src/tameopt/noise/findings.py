"""The analyses of this room, as the audit plans them."""

from __future__ import annotations

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Cost, Scope, Verdict, measured, unknown
from tameopt.noise import ode_findings, record_findings, sampling_findings, step_findings
from tameopt.noise.conditions import step_conditions
from tameopt.noise.limit_interval import limit_set
from tameopt.optim import schedules
from tameopt.run import Run
from tameopt.training_mode import other_function


def _no_run(context: Context) -> str:
    return "" if context.run is not None else "no run was recorded"


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
    rise, fall = found.trend
    words = (
        f"F stays in [{low:.5g}, {high:.5g}] since step {found.starts[-1]:,} (over the second half its lower end "
        f"moved by {rise:+.2g}, the upper by {fall:+.2g})"
    )
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
    return Answer((finding,), (found.picture(at, full),))


def _noise_stays(context: Context, run: Run) -> bool:
    """Whether noise acts and the steps, as recorded, are known not to tend to 0."""
    recorded = run.meta.get("schedule")
    if not recorded or (
        record_findings.is_full_batch(run, context.problem.n) and not other_function(context.problem)
    ):
        return False
    try:
        return step_conditions(schedules.from_json(recorded)).vanishes is Verdict.REFUTED
    except ValueError:
        return False


ANALYSES: tuple[Analysis, ...] = (
    Analysis(
        "noise.steps",
        "What do the step sizes satisfy in the limit?",
        step_findings.STEP_CLAIMS,
        lambda context: Cost(),
        step_findings.steps,
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
        sampling_findings.estimate,
        sampling_findings.sampling_noise,
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
