"""Kinds of verdict in which the run is going somewhere, or has arrived: each returns a candidate or None."""

from __future__ import annotations

import math

from tameopt.audit.kinds_broken import smaller_step
from tameopt.audit.scene import Candidate, Scene, StepRatio
from tameopt.evidence import Finding
from tameopt.kl.rate_findings import AT_ITS_FLOOR


def strict_saddle(scene: Scene) -> Candidate | None:
    """At a strict saddle, or standing still near one."""
    at = scene.holding("point.strict_saddle")
    curvature = at.value if at is not None else _near_saddle(scene)
    if curvature == 0.0:
        return None
    effect = "F falls along the direction of negative curvature"
    if scene.alpha > 0 and curvature < 0:
        doubling = math.log(2.0) / math.log1p(scene.alpha * -curvature)
        effect = f"the distance from the saddle doubles about every {doubling:,.3g} steps, then F falls"
    where = "at" if at is not None else "near"
    return Candidate(
        "strict saddle",
        f"The run stands {where} a strict saddle, F = {scene.last_loss:.4g}: lambda_min = {curvature:.4g}, "
        f"so the loss "
        "can still fall.",
        scene.said("point.strict_saddle", "run.plateau", "point.lambda_min", "point.index"),
        "high" if at is not None else "medium",
        "Add a little noise to theta, or train on with mini-batches.",
        effect,
    )


def _near_saddle(scene: Scene) -> float:
    """lambda_min where F stands still, the gradient is small and a direction goes clearly down; else 0.

    Trained networks keep a little negative curvature (digits: 0.4% of the largest), so that 2% are asked for.
    """
    numbers = scene.numbers("run.plateau")
    if scene.history is None or not scene.history.deterministic or not numbers:
        return 0.0
    still = float(numbers["relative_change"]) < 0.01 and float(numbers["gradient_left"]) < 0.1
    return scene.negative_curvature(0.02) if still else 0.0


def step_too_large(scene: Scene) -> Candidate | None:
    """The full-batch step is beyond the stability limit at the end of the run, and F does not descend."""
    if scene.history is None:
        return None
    last = scene.step_ratios[-1] if scene.step_ratios else None
    at_end = last is not None and last.ratio_at_least >= 0.95
    worse = scene.last_loss > scene.first_loss and scene.refuting("step.stable") is not None
    at_edge = scene.history.deterministic and at_end and scene.refuting("values.descend") is not None
    if not (worse or at_edge):
        return None
    # where the end is stable and F rose all the same, it is the steepest point that the step was too large for
    judged = last if at_end else max(scene.step_ratios, key=lambda one: one.ratio_at_most, default=None)
    action, effect = _back_from_edge(scene, judged)
    going = "has risen" if worse else "goes up and down"
    how_far = ""
    if judged is not None:
        when = "" if judged is last else f" at step {judged.step:,}"
        how_far = f" ({100 * judged.ratio_at_least:.0f}% of the limit of {scene.limit.method}{when})"
    return Candidate(
        "step too large",
        f"The step {scene.alpha:.4g} is at the edge of stability{how_far}: F {going}.",
        scene.said("step.stable", "values.descend", "gradient.lipschitz"),
        "high",
        action,
        effect,
    )


def _back_from_edge(scene: Scene, judged: StepRatio | None) -> tuple[str, str]:
    if judged is None or not judged.ratio_at_most > 0:
        return smaller_step(scene)
    step = judged.alpha / (2 * judged.ratio_at_most)
    one_function = judged.ratio_at_most < 1.001 * judged.ratio_at_least  # else masks or batches differ by draw
    every = scene.history is not None and scene.history.deterministic and one_function
    when = "" if judged is scene.step_ratios[-1] else f" at step {judged.step:,}"
    return (
        f"lr {scene.alpha:.4g} -> {step:.3g}",
        f"half of the stability limit{when}: {'the loss as trained' if scene.stepped_on else 'F'} "
        + ("descends at every step" if every else "falls on average"),
    )


def converged(scene: Scene) -> Candidate | None:
    """The last iterate is critical to working accuracy: a minimum, or a flat point that may be either."""
    if not scene.settled or scene.holding("point.strict_saddle") is not None:
        return None
    bound = scene.interval("F.bounded_below")
    lowest = bound is not None and scene.last_loss - bound[1] <= 1e-9 * max(abs(scene.first_loss), 1e-300)
    curvature, top = scene.interval("point.lambda_min"), scene.interval("point.lambda_max")
    # a zero eigenvalue to float64's resolution cannot be told from a small one
    curved = curvature is not None and top is not None and curvature[0] > 1e-12 * abs(top[1])
    curved = curved or scene.holding("point.hyperbolic") is not None
    said = ("point.critical", "point.second_order", "point.lambda_min", "iterates.converge")
    if (winding := _without_kl(scene, "The gradient is small at")) is not None:
        return winding
    if lowest or (curved and curvature is not None and curvature[0] > 0):
        where = "the least value F can take" if lowest else "a minimum-like point"
        return Candidate(
            "converged",
            f"The run has converged to {where}, F = {scene.last_loss:.6g}.",
            scene.said(*said),
            "high" if lowest or scene.holding("iterates.converge") is not None else "medium",
            "Stop training: further steps change nothing that can be measured.",
            f"F stays at {scene.last_loss:.6g}",
        )
    return Candidate(
        "degenerate",
        f"The gradient is 0 to working accuracy at F = {scene.last_loss:.6g}, and some curvature is 0 "
        f"within its error: a "
        "flat minimum and a saddle without negative curvature look alike here.",
        scene.said(*said, "point.hyperbolic", "point.index"),
        "medium",
        "Perturb theta along the flattest direction and train on.",
        "a lower F if this is a saddle, the same F if it is a minimum",
    )


def _without_kl(scene: Scene, where: str) -> Candidate | None:
    """No convergence is read off an F that is known to have no Kurdyka-Lojasiewicz property."""
    refuted = scene.refuting("F.kl")
    if refuted is None:
        return None
    return Candidate(
        "degenerate",
        f"{where} F = {scene.last_loss:.6g}, but F has no Kurdyka-Lojasiewicz property: a "
        "bounded path may wind for ever without a limit, so this is no convergence.",
        (refuted.statement, *scene.said("point.critical", "iterates.finite_length", "iterates.converge")),
        "high",
        "Do not read a small gradient as convergence here: look at the length of the path.",
        "the path gets longer without bound while F and its gradient go to 0",
    )


def kink(scene: Scene) -> Candidate | None:
    """On a kink, or jumping to and fro over one."""
    straddles, on = scene.holding("run.straddles_kink"), scene.interval("point.kinks")
    clarke, gradient = scene.interval("point.clarke_critical"), scene.interval("run.straddles_kink")
    first = (
        scene.history.gradient.values[0] if scene.history is not None and scene.history.gradient.size else math.nan
    )
    exactly = on is not None and on[1] > 0 and clarke is not None and clarke[2] <= 1e-6 * max(float(first), 1e-12)
    if not exactly and straddles is None:
        return None
    if exactly and on is not None and clarke is not None:
        sentence = (
            f"The run sits on {on[1]:,.0f} kink(s), and 0 is a Clarke subgradient there within {clarke[2]:.2g}."
        )
    else:
        assert gradient is not None
        sentence = (
            "The run jumps to and fro over a kink that is nearly Clarke critical: its gradients do not "
            "shrink, a convex "
            f"combination of them does, to {gradient[1]:.2g}."
        )
    return Candidate(
        "kink",
        sentence,
        scene.said("run.straddles_kink", "point.clarke_critical", "point.kinks"),
        "high",
        "Let the step go to 0, or use a proximal step: with a constant step the iterates go on crossing the kink.",
        f"the iterates settle on the kink; now they stay about lr times the gradient ({scene.alpha:.3g} x) away",
    )


def oscillation(scene: Scene) -> Candidate | None:
    """F swings with a period of its own."""
    found = scene.holding("run.oscillates")
    if found is None or scene.history is None:
        return None
    arguments = (scene.history.meta.get("optimizer") or {}).get("arguments") or {}
    momentum = float(arguments.get("momentum") or 0.0)
    if momentum > 0:
        # a heavy ball swings with frequency sqrt(alpha lambda): critical damping at b = (1 - sqrt(alpha lambda))^2
        frequency = 2.0 * math.pi / max(2.0 * found.value, 2.0)
        damped = max(0.0, 1.0 - frequency) ** 2
        action = f"momentum {momentum:g} -> {damped:.3g}"
        effect = f"the slow direction stops swinging: it is critically damped at (1 - {frequency:.3g})^2"
    else:
        action, effect = smaller_step(scene)
    return Candidate(
        "oscillation",
        f"F swings with a period of {found.value:.0f} steps around {scene.last_loss:.4g} instead of falling.",
        (found.statement, *scene.said("step.stable", "values.descend")),
        "high",
        action,
        effect,
    )


def step_too_small(scene: Scene) -> Candidate | None:
    """The step is far below what curvature and noise allow, and F is far from settled."""
    found = scene.holding("step.too_small")
    if found is None:
        return None
    witness = scene.witness("step.too_small")
    allowed, effective = float(witness["allowed"]), float(witness["effective_alpha"])
    step = scene.alpha * (allowed / 2) / effective
    return Candidate(
        "step too small",
        f"The step {scene.alpha:.4g} is {100 * effective / allowed:.2g}% of what curvature and noise allow: "
        f"F fell from "
        f"{scene.first_loss:.4g} to {scene.last_loss:.4g} only.",
        (found.statement, *scene.said("gradient.lipschitz", "noise.scale")),
        "high",
        f"lr {scene.alpha:.4g} -> {step:.3g}",
        f"F falls about {step / scene.alpha:.3g} times as fast, while the curvature stays as measured",
    )


def plateau(scene: Scene) -> Candidate | None:
    """F stands still at a point that is not critical, and no noise explains it."""
    found = scene.holding("run.plateau")
    if found is None or scene.holding("run.noise_floor") is not None:
        return None
    if scene.holding("rate.linear") is not None or scene.holding("rate.sublinear") is not None:
        return None
    # under noise a level that was reached by falling is a floor; a plateau is one that was never left
    stuck = abs(scene.first_loss - scene.last_loss) < 0.05 * abs(scene.first_loss)
    if scene.history is None or not (scene.history.deterministic or stuck):
        return None
    return Candidate(
        "plateau",
        f"F stands at {scene.last_loss:.4g} without being at a critical point.",
        scene.said("run.plateau", "point.critical", "point.lambda_min", "units.dead"),
        "medium",
        "Perturb theta, or raise the step until F moves.",
        "F moves again if this is the flat part of a slope",
    )


def noise_floor(scene: Scene) -> Candidate | None:
    """F has stopped falling at the floor set by the step and the noise."""
    found = scene.holding("run.noise_floor")
    if found is None:
        return _flat_tail(scene)
    many = found.evidence.sample_size is not None and found.evidence.sample_size >= 20
    return Candidate(
        "noise floor",
        f"The loss has stopped falling at this step size: F stays at "
        f"{found.value:.4g}{_interval_words(found)} and is "
        "expected to stay there.",
        (found.statement, *scene.said("noise.bounded_variance", "noise.scale", "step.stable")),
        "high" if many else "medium",
        *_below_the_floor(scene),
    )


def _below_the_floor(scene: Scene) -> tuple[str, str]:
    return (
        f"lr {scene.alpha:.4g} -> {scene.alpha / 2:.4g}, or a decreasing schedule.",
        "the height of the floor above the least F about half as large (it is proportional to the step)",
    )


def _flat_tail(scene: Scene) -> Candidate | None:
    """F fluctuates about a level without a trend that would matter, although no model of its decay was preferred."""
    from tameopt.kl.trend import trend

    history = scene.history
    if history is None or history.deterministic or history.level.size < 24:
        return None
    tail = history.level.last(0.5)
    drift = trend(tail.steps.astype(float), tail.values)
    reach = max(abs(drift.interval[0]), abs(drift.interval[1])) * float(tail.steps[-1] - tail.steps[0])
    if not drift.flat or reach > 2.0 * drift.fluctuation:
        return None
    low, high = drift.level_interval
    return Candidate(
        "noise floor",
        f"The loss has stopped falling at this step size: {history.level_name} fluctuates by "
        f"{drift.fluctuation:.2g} about {drift.level:.4g} [{low:.4g}, {high:.4g}].",
        (
            f"Over the second half {history.level_name} changes by {drift.slope:.2g} [{drift.interval[0]:.2g}, "
            f"{drift.interval[1]:.2g}] a step ({drift.blocks} block means).",
            *scene.said("noise.bounded_variance", "noise.scale", "step.stable"),
        ),
        "medium",
        *_below_the_floor(scene),
    )


def converging(scene: Scene) -> Candidate | None:
    """F falls at a fitted rate, or falls at a rate that is not decided."""
    if (winding := _without_kl(scene, "The loss falls to")) is not None:
        return winding
    linear, power = scene.interval("rate.linear"), scene.interval("rate.sublinear")
    if linear is None and power is None:
        return _falling(scene)
    if linear is not None:
        how, claim = f"linearly, x{linear[1]:.6g} a step", "rate.linear"
    else:
        assert power is not None
        how, claim = f"like k^-{power[1]:.3g}", "rate.sublinear"
    target = scene.interval("rate.steps_to_target")
    action, effect = "Train on.", "F goes on falling at the fitted rate"
    limit = scene.holding("values.converge")
    if limit is not None and AT_ITS_FLOOR in limit.statement:
        action, effect = _below_the_floor(scene)
    elif target is not None:
        words = scene.holding("rate.steps_to_target")
        assert words is not None
        effect = f"{words.statement}"
    return Candidate(
        "converging",
        f"The loss is converging {how}; F = {scene.last_loss:.4g} now.",
        scene.said(claim, "values.converge", "rate.steps_to_target"),
        "high" if linear is not None else "medium",
        action,
        effect,
    )


def _falling(scene: Scene) -> Candidate | None:
    from tameopt.kl.trend import trend

    if scene.history is None or scene.history.level.size < 12:
        return None
    tail = scene.history.level.last(0.5)
    drift = trend(tail.steps.astype(float), tail.values)
    if not drift.interval[1] < 0:
        return None
    low, high = drift.interval
    return Candidate(
        "converging",
        f"The loss still falls, from {scene.first_loss:.4g} to {scene.last_loss:.4g} so far; at which rate "
        f"is not decided.",
        (
            f"Over the second half of the record {scene.history.level_name} falls by {-drift.slope:.3g} "
            f"[{-high:.3g}, {-low:.3g}] a step ({drift.blocks} block means).",
            *scene.said("run.noise_floor"),
        ),
        "medium",
        "Train on: the record does not yet show a limit.",
        "F falls further, by an amount that cannot be promised",
    )


def undecided(scene: Scene) -> Candidate:
    """Nothing matched: say what would decide."""
    missing = [
        one.evidence.missing for one in scene.findings if one.claim == "values.converge" and one.evidence.missing
    ]
    steps = scene.history.steps_done if scene.history is not None else 0
    return Candidate(
        "undecided",
        f"The record does not decide where this run is going; F = {scene.last_loss:.4g} after {steps:,} steps.",
        scene.said("values.descend", "step.stable"),
        "low",
        f"Measure: {missing[0]}." if missing else "Train longer and record full_loss on a finer grid.",
        "a record long enough to fit a rate or a floor",
    )


def _interval_words(found: Finding) -> str:
    if found.evidence.interval is None:
        return ""
    lower, upper = found.evidence.interval
    return f" [{lower:.4g}, {upper:.4g}]"
