"""What the verdict looks at: findings by claim, facts of the analyses, and the levels of the record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tameopt.analysis import Context
from tameopt.audit.diagnosis import Confidence
from tameopt.audit.symptoms.history import History
from tameopt.curvature.stability import StabilityLimit, recorded_limit
from tameopt.evidence import Finding, Verdict

_HOLDS = (Verdict.PROVED, Verdict.MEASURED)


@dataclass(frozen=True)
class Candidate:
    """A kind of verdict that matched; the fields are those of `diagnosis.TrainingVerdict`."""

    kind: str
    sentence: str
    evidence: tuple[str, ...]
    confidence: Confidence
    next_action: str
    predicted_effect: str


@dataclass(frozen=True)
class StepRatio:
    """alpha lambda_max over the method's limit at a recorded step: between these, as far as found."""

    step: int
    alpha: float
    ratio_at_least: float
    ratio_at_most: float


@dataclass(frozen=True)
class Scene:
    """Findings, facts and record of one run, with the questions that the kinds ask of them."""

    context: Context
    findings: tuple[Finding, ...]
    facts: Mapping[str, Mapping[str, Any]]

    # -- findings ------------------------------------------------------------------------------------------

    def holding(self, claim: str) -> Finding | None:
        """A finding that says the claim holds, PROVED before MEASURED."""
        found = [one for one in self.findings if one.claim == claim and one.verdict in _HOLDS]
        return min(found, key=lambda one: one.verdict is not Verdict.PROVED, default=None)

    def refuting(self, claim: str) -> Finding | None:
        """A finding that says the claim fails."""
        return next((one for one in self.findings if one.claim == claim and one.verdict is Verdict.REFUTED), None)

    def said(self, *claims: str) -> tuple[str, ...]:
        """The statements of the decided findings about these claims, each once."""
        statements = [
            one.statement
            for claim in claims
            for one in self.findings
            if one.claim == claim and one.verdict is not Verdict.UNKNOWN
        ]
        return tuple(dict.fromkeys(statements))

    def interval(self, claim: str) -> tuple[float, float, float] | None:
        """(lower, estimate, upper) of a finding that holds and carries a number."""
        one = self.holding(claim)
        if one is None or one.evidence.estimate is None:
            return None
        lower, upper = one.evidence.interval or (one.evidence.estimate, one.evidence.estimate)
        return lower, one.evidence.estimate, upper

    def witness(self, claim: str) -> Mapping[str, Any]:
        """The witness of the finding that holds, {} when there is none."""
        one = self.holding(claim)
        return (one.evidence.witness or {}) if one is not None else {}

    def numbers(self, claim: str) -> Mapping[str, Any]:
        """What was measured about a symptom, whether it is there or not; {} when it could not be told."""
        one = self.holding(claim) or self.refuting(claim)
        return (one.evidence.witness or {}) if one is not None else {}

    # -- record --------------------------------------------------------------------------------------------

    @cached_property
    def history(self) -> History | None:
        """The record, None for a problem that was never trained."""
        return History(self.context.run) if self.context.run is not None else None

    @cached_property
    def last_loss(self) -> float:
        """The last recorded F, NaN when there is none."""
        if self.history is None or not self.history.level.size:
            return math.nan
        return float(self.history.level.values[-1])

    @cached_property
    def first_loss(self) -> float:
        """The first recorded F, NaN when there is none."""
        if self.history is None or not self.history.level.size:
            return math.nan
        return float(self.history.level.values[0])

    @property
    def alpha(self) -> float:
        """The last step size > 0."""
        return self.history.alpha if self.history is not None else math.nan

    @cached_property
    def optimizer(self) -> str:
        """The optimizer's name, "" when it was not recorded."""
        return str((self.history.meta.get("optimizer") or {}).get("name", "")) if self.history is not None else ""

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer divides by a running size of the gradients."""
        return self.optimizer.lower() in _ADAPTIVE

    @cached_property
    def limit(self) -> StabilityLimit:
        """The stability limit of the method on alpha lambda_max."""
        if self.history is None:
            return StabilityLimit("", None, reason="no run")
        return recorded_limit(self.history.meta)

    @cached_property
    def settled(self) -> bool:
        """Whether the gradient is 0 for all practical purposes: critical as measured, or 1e-10 of its largest norm.

        A gradient of 1e-88 is, strictly, not 0, and `point.critical` may say so; nothing more can be won there.
        """
        if self.holding("point.critical") is not None:
            return True
        if self.history is None or not self.history.deterministic or not self.history.gradient.size:
            return False
        norms = self.history.gradient.values
        return bool(norms[-1] <= 1e-10 * norms.max())

    # -- curvature -----------------------------------------------------------------------------------------

    @cached_property
    def step_ratios(self) -> tuple[StepRatio, ...]:
        """The step against its limit at recorded points, on the loss as trained; empty where it is not known."""
        return tuple(StepRatio(**row) for row in self.facts.get("curvature.path", {}).get("stability") or ())

    @property
    def stepped_on(self) -> str:
        """The function whose curvature `step_ratios` are about, in words; "" for F."""
        return str(self.facts.get("curvature.path", {}).get("stability_function") or "")

    def negative_curvature(self, share: float = 1e-3) -> float:
        """lambda_min where it is below 0 beyond its error and below -share * lambda_max; else 0.

        1e-3 of the largest eigenvalue is what float64 products of a large network still resolve; our choice.
        """
        lowest, top = self.interval("point.lambda_min"), self.interval("point.lambda_max")
        if lowest is None:
            return 0.0
        scale = abs(top[1]) if top is not None else 0.0
        estimate = lowest[1]
        return estimate if estimate < -share * scale and lowest[2] < 0 else 0.0


_ADAPTIVE = {"adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta"}
