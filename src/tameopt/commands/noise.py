"""`tameopt noise`: what the step sizes satisfy, and whether a run's noise is what the theory asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Quiet, Seed, batch_statistics, emit_json, terminal
from tameopt.commands._pictures import PictureFile, write_pictures

_WORDS = {
    "step.positive": "every step is positive",
    "step.vanishes": "the steps tend to 0",
    "step.sum_diverges": "the steps sum to infinity",
    "step.square_summable": "their squares have a finite sum",
    "step.moment_summable": "moment condition for q",
    "step.subgaussian": "sub-Gaussian condition",
}


def noise(
    target: Annotated[str, typer.Argument(metavar="[RUN]", help="The folder of a recorded run.")] = "",
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="Decide a schedule instead: power:0.75, cosine:warmup=100, …")
    ] = None,
    lr: Annotated[float, typer.Option("--lr", help="Step size of the schedule.")] = 0.1,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Planned length, for schedules that end.")] = 1000,
    q: Annotated[float, typer.Option("--q", help="Order of the bounded noise moments, >= 2.")] = 2.0,
    window: Annotated[int, typer.Option("--window", help="Recorded steps whose noise is tested.")] = 200,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Test the noise of a recorded run, or decide the step-size conditions of a schedule."""
    if schedule is not None:
        document, lines = _steps(schedule, lr, steps, q)
    elif target:
        document, lines = _run(target, window, seed, quiet, picture)
    else:
        raise ValueError("the folder of a recorded run, or --schedule, is required; got neither.")
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


def _steps(text: str, lr: float, steps: int, q: float) -> tuple[dict[str, Any], list[str]]:
    from tameopt.noise import step_conditions
    from tameopt.optim import schedules

    found = step_conditions(schedules.parse(text, lr, steps), q=q)
    document = {
        "schedule": found.schedule.to_json(),
        "q": str(found.q),
        "robbins_monro": str(found.robbins_monro),
        "findings": [
            {"claim": finding.claim, "verdict": str(finding.verdict), "statement": finding.statement}
            for finding in found.findings
        ],
    }
    head = {
        "PROVED": "ROBBINS-MONRO  The steps average the noise out.",
        "REFUTED": "NOT ROBBINS-MONRO  The steps do not satisfy sum alpha = inf with sum alpha^2 < inf.",
    }.get(str(found.robbins_monro), "UNDECIDED  The schedule does not say how the steps go on.")
    lines = [head]
    for finding in found.findings:
        if finding.claim in _WORDS:
            words = _WORDS[finding.claim] + (f" = {q:g}" if finding.claim == "step.moment_summable" else "")
            lines.append(f"  {finding.verdict!s:8}  {words}")
    lines.append(f"  {found.finding('step.sum_diverges').statement}")
    return document, lines


def _run(target: str, window: int, seed: int, quiet: bool, picture: Path | None) -> tuple[dict[str, Any], list[str]]:
    from tameopt.audit.targets import resolve
    from tameopt.commands._progress import progress
    from tameopt.noise import limit_set, run_noise

    found = resolve(target, seed)
    if found.run is None or found.problem is None:
        raise ValueError(f"{target} must be a recorded run of a known problem: record one with `tameopt train`.")
    with progress(quiet) as say:
        say("gradients of the recorded steps")
        noisy = run_noise(found.problem, found.run, max_steps=window, seed=seed)
    tests = noisy.tests
    seen = ", ".join(f"{name} {share:.0%}" for name, share in tests.power.items())
    word = "NOT UNBIASED" if tests.rejected else "NO BIAS SEEN"
    lines = [
        f"{word}  The noise of {tests.sample_size:,} steps from step {noisy.steps[0]:,} "
        + ("is no martingale difference" if tests.rejected else "is consistent with a martingale difference")
        + f" (p = {tests.p_value:.3g}, corrected for {len(tests.names)} tests).",
        f"  what the tests would have seen: {seen}",
    ]
    for name, tail in (("norm of the noise", noisy.tail_norm), ("one fixed direction", noisy.tail_direction)):
        if tail is not None:
            low, high = tail.interval
            lines.append(
                f"  tail of the {name}: {tail.verdict}, index {tail.alpha:.2f} [{low:.2f}, {high:.2f}]; a Gaussian "
                f"gives {tail.gaussian[0]:.2f} to {tail.gaussian[1]:.2f}, Student's t3 {tail.student3[0]:.2f} to "
                f"{tail.student3[1]:.2f}"
            )
    if noisy.traces:
        step, trace, norm, _ = noisy.traces[-1]
        balance = f", in balance with the gradient at {trace / norm**2:,.3g} samples" if norm else ""
        lines.append(f"  variance of one sample's gradient at step {step:,}: {trace:.4g}{balance}")
    if noisy.growth is not None:
        growth = noisy.growth
        lines.append(
            f"  growth: tr Sigma ~ {growth.A:.3g} + {growth.B:.3g} norm(grad F)^2 + {growth.C:.3g} (F - min F), "
            f"{growth.explained:.0%} explained, a bound on the path after times {growth.factor:.2f}"
        )
        ends = ", ".join(
            f"{name} in [{low:.3g}, {high:.3g}]" for name, (low, high) in zip("ABC", growth.intervals, strict=True)
        )
        lines.append(f"          {ends}, all three hold in 95% of such fits (points of one run: fewer)")
    lines += batch_statistics(found.run)
    ending, more = _ending(found.problem, found.run, seed)
    if picture is not None:
        drawn = [noisy.picture]
        limits = limit_set(found.run)
        if limits.verdict != "too short":
            drawn.append(limits.picture(*found.run.series("full_loss")))
        write_pictures(drawn, picture)
        more.append(f"picture: {picture}")
    return {"run": str(found.run.path), **noisy.to_json(), **ending}, lines + more


def _ending(problem: Any, run: Any, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Where the run ends up: the limit set of F, and the accumulation points."""
    from tameopt.noise import accumulation_points, limit_set

    limits = limit_set(run)
    document: dict[str, Any] = {}
    lines: list[str] = []
    if limits.verdict == "too short":
        lines.append(
            "  range of F: fewer than 24 recorded values, or too few at the end: record full_loss more often"
        )
    else:
        (low, high), (rise, fall) = limits.interval, limits.trend
        word = "consistent with one limit value" if limits.single_value else f"{limits.verdict}, no single value seen"
        lines.append(
            f"  range of F since step {int(limits.starts[-1]):,}: [{low:.5g}, {high:.5g}], {word}; over the second "
            f"half its ends moved by {rise:+.2g} and {fall:+.2g}"
        )
        document["limit_set"] = {"verdict": limits.verdict, "interval": [low, high], "trend": [rise, fall]}
    try:
        places = accumulation_points(problem, run, seed=seed)
    except ValueError as error:
        return document, [*lines, f"  accumulation points: {error}"]
    for place in places[:3]:
        near = "" if place.smooth else f", distance to Clarke critical within it <= {place.clarke_distance:.3g}"
        lines.append(
            f"  keeps coming back to a place of radius {place.radius:.3g} ({place.visits} of "
            f"{sum(one.visits for one in places)} iterates of the last quarter): F = {place.value:.5g}, "
            f"norm(grad F) = {place.gradient_norm:.3g}{near}"
        )
    document["accumulation_points"] = [
        {
            "visits": place.visits, "radius": place.radius, "value": place.value, "smooth": place.smooth,
            "gradient_norm": place.gradient_norm, "clarke_distance": place.clarke_distance,
        }
        for place in places
    ]  # fmt: skip
    return document, lines


ENTRY = Command("noise", Panel.TOOLS, noise)
