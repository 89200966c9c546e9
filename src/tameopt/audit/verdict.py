"""The one-sentence verdict: which kind of long-run behaviour the findings and the record show, and what to do next.

Each kind has a function that returns a candidate or None. The first candidate in the order of `_KINDS` is the
verdict, the others are told as "also": what is broken comes before what is finished, what is finished before what
goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tameopt.analysis import Context
from tameopt.audit.diagnosis import KINDS, Confidence, TrainingVerdict
from tameopt.audit.signals import Signals, signals
from tameopt.evidence import Finding, Verdict

_HOLDS = (Verdict.PROVED, Verdict.MEASURED)


@dataclass(frozen=True)
class Candidate:
    """A kind that matched."""

    kind: str
    sentence: str
    evidence: tuple[str, ...]
    confidence: Confidence
    next_action: str
    predicted_effect: str


@dataclass(frozen=True)
class Scene:
    """What the kinds look at: findings by claim, and signals read from the record."""

    findings: tuple[Finding, ...]
    signals: Signals

    def holding(self, claim: str) -> Finding | None:
        """A finding that says the claim holds, PROVED before MEASURED."""
        found = [one for one in self.findings if one.claim == claim and one.verdict in _HOLDS]
        return min(found, key=lambda one: one.verdict is not Verdict.PROVED, default=None)

    def refuting(self, claim: str) -> Finding | None:
        """A finding that says the claim fails."""
        return next((one for one in self.findings if one.claim == claim and one.verdict is Verdict.REFUTED), None)

    def said(self, *claims: str) -> tuple[str, ...]:
        """The statements of the decided findings about these claims."""
        return tuple(
            one.statement
            for claim in claims
            for one in self.findings
            if one.claim == claim and one.verdict is not Verdict.UNKNOWN
        )

    def interval(self, claim: str) -> tuple[float, float, float] | None:
        """(lower, estimate, upper) of a finding that holds and carries a number."""
        one = self.holding(claim)
        if one is None or one.evidence.estimate is None:
            return None
        lower, upper = one.evidence.interval or (one.evidence.estimate, one.evidence.estimate)
        return lower, one.evidence.estimate, upper


def decide(context: Context, findings: Iterable[Finding]) -> TrainingVerdict:
    """The verdict on a run, from the findings about it and its record."""
    scene = Scene(tuple(findings), signals(context))
    matched = [candidate for look in _LOOKS if (candidate := look(scene)) is not None]
    best = matched[0] if matched else _undecided(scene)
    return TrainingVerdict(
        kind=best.kind,
        title=KINDS[best.kind],
        sentence=best.sentence,
        evidence=best.evidence,
        confidence=best.confidence,
        next_action=best.next_action,
        predicted_effect=best.predicted_effect,
        also=tuple((other.kind, other.sentence) for other in matched[1:]),
    )


def _not_trained(scene: Scene) -> Candidate | None:
    if scene.signals.steps_done > 0:
        return None
    return Candidate(
        "not trained",
        "No step was taken, so nothing can be said about where training goes.",
        (),
        "high",
        "Train it: tameopt audit TARGET, or tame.watch in your own loop.",
        "a record that the audit can read",
    )


def _diverged(scene: Scene) -> Candidate | None:
    found = scene.holding("run.diverged")
    if found is None:
        return None
    s = scene.signals
    evidence = (found.statement, *scene.said("step.stable", "gradient.lipschitz"))
    steep = scene.interval("gradient.lipschitz")
    if s.blew_up:
        step, effect = s.stable_step(steep[1] if steep else None)
        return Candidate(
            "diverged",
            f"The loss blew up at step {s.broken_at:,}, from {s.first_loss:.4g} to {s.worst_loss:.3g}: the step "
            f"{s.alpha:.4g} is too large.",
            evidence,
            "high",
            f"lr {s.alpha:.4g} -> {step}",
            effect,
        )
    return Candidate(
        "non-finite",
        f"{s.broken_name} is not finite from step {s.broken_at:,} on, without a blow-up before it.",
        evidence,
        "high",
        "Look at the batch and the operation at that step: a logarithm or division by 0, an overflow in half "
        "precision, or NaN in the data.",
        "finite numbers, once their source is mended",
    )


def _strict_saddle(scene: Scene) -> Candidate | None:
    found = scene.holding("point.strict_saddle")
    if found is None:
        return None
    curvature = scene.interval("point.lambda_min")
    s = scene.signals
    effect = "F falls along the direction of negative curvature"
    if curvature is not None and s.alpha > 0 and curvature[1] < 0:
        doubling = 0.6931471805599453 / (s.alpha * -curvature[1])
        effect = f"the deviation from the saddle doubles about every {doubling:,.3g} steps"
    return Candidate(
        "strict saddle",
        f"The run sits at a strict saddle: lambda_min = {found.value:.4g} < 0, the loss can still fall.",
        (found.statement, *scene.said("point.critical", "point.index")),
        "high",
        "Add a little noise to theta, or train on with mini-batches.",
        effect,
    )


def _noise_floor(scene: Scene) -> Candidate | None:
    found = scene.holding("run.noise_floor")
    if found is None:
        return None
    s = scene.signals
    half = s.alpha / 2
    return Candidate(
        "noise floor",
        f"The loss has stopped falling at this step size: F stays at {found.value:.4g}"
        f"{_interval_words(found)} and is expected to stay there.",
        (found.statement, *scene.said("noise.bounded_variance", "noise.scale", "step.stable")),
        "high" if found.evidence.sample_size and found.evidence.sample_size >= 20 else "medium",
        f"lr {s.alpha:.4g} -> {half:.4g}, or a decreasing schedule.",
        "the height of the floor above F* about half as large (it is proportional to the step)",
    )


def _converged(scene: Scene) -> Candidate | None:
    critical = scene.holding("point.critical")
    if critical is None:
        return None
    if scene.holding("point.second_order") is not None and scene.holding("point.hyperbolic") is not None:
        return Candidate(
            "converged",
            f"The run has converged to a minimum-like point, F = {scene.signals.last_loss:.6g}.",
            (critical.statement, *scene.said("point.second_order", "point.lambda_min", "iterates.converge")),
            "high" if scene.holding("iterates.converge") is not None else "medium",
            "Stop training: further steps change nothing that can be measured.",
            f"F stays at {scene.signals.last_loss:.6g}",
        )
    return Candidate(
        "degenerate",
        f"The gradient is 0 to working accuracy at F = {scene.signals.last_loss:.6g}, and some curvature is "
        f"0 within its "
        "error: a flat minimum and a saddle without negative curvature look alike here.",
        (critical.statement, *scene.said("point.lambda_min", "point.hyperbolic", "point.index")),
        "medium",
        "Perturb theta along the flattest direction and train on.",
        "a lower F if this is a saddle, the same F if it is a minimum",
    )


def _kink(scene: Scene) -> Candidate | None:
    kinks, critical = scene.interval("point.kinks"), scene.interval("point.clarke_critical")
    smooth_critical = scene.holding("point.critical")
    if kinks is None or critical is None or not kinks[1] > 0 or smooth_critical is not None:
        return None
    s = scene.signals
    if not critical[2] <= 1e-6 * max(1.0, s.first_gradient_norm):
        return None
    return Candidate(
        "kink",
        f"The run sits on a kink: {kinks[1]:,.0f} are active, and 0 is a Clarke subgradient within "
        f"{critical[1]:.2g}.",
        scene.said("point.clarke_critical", "point.kinks", "point.backprop_clarke"),
        "high",
        "Let the step go to 0, or use a proximal step: with a constant step the iterates go on crossing the kink.",
        "the iterates settle on the kink",
    )


def _converging(scene: Scene) -> Candidate | None:
    linear, power = scene.interval("rate.linear"), scene.interval("rate.sublinear")
    target = scene.interval("rate.steps_to_target")
    s = scene.signals
    if linear is None and power is None:
        if not s.falling:
            return None
        return Candidate(
            "converging",
            f"The loss still falls: F went from {s.first_loss:.4g} to {s.last_loss:.4g}; at which rate is "
            f"not decided.",
            s.trend_words,
            "medium",
            "Train on: the record does not yet show a limit.",
            "a lower F, by an amount that cannot be promised",
        )
    if linear is not None:
        how, claim = f"linearly, x{linear[1]:.6g} a step", "rate.linear"
    else:
        assert power is not None
        how, claim = f"like k^-{power[1]:.3g}", "rate.sublinear"
    effect = (
        f"about {target[1]:,.0f} steps [{target[0]:,.0f}, {target[2]:,.0f}] to the target"
        if target
        else ("F goes on falling at the fitted rate")
    )
    return Candidate(
        "converging",
        f"The loss is converging {how}; F = {s.last_loss:.4g} now.",
        (*scene.said(claim, "values.converge", "rate.steps_to_target"), *s.trend_words),
        "high" if linear is not None else "medium",
        "Train on.",
        effect,
    )


def _undecided(scene: Scene) -> Candidate:
    missing = [
        one.evidence.missing for one in scene.findings if one.claim == "values.converge" and one.evidence.missing
    ]
    s = scene.signals
    return Candidate(
        "undecided",
        f"The record does not decide where this run is going; F = {s.last_loss:.4g} after {s.steps_done:,} steps.",
        s.trend_words,
        "low",
        f"Measure: {missing[0]}." if missing else "Train longer and record full_loss on a finer grid.",
        "a record long enough to fit a rate or a floor",
    )


def _interval_words(found: Finding) -> str:
    if found.evidence.interval is None:
        return ""
    lower, upper = found.evidence.interval
    return f" [{lower:.4g}, {upper:.4g}]"


_LOOKS: tuple[Callable[[Scene], Candidate | None], ...] = (
    _not_trained,
    _diverged,
    _strict_saddle,
    _noise_floor,
    _converged,
    _kink,
    _converging,
)
