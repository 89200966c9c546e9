"""What a theorem is, as data: hypotheses and conclusion as claims, its source, and what it predicts in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tameopt.claims import claim_named
from tameopt.evidence import Finding, Scope, Verdict
from tameopt.run import Run


@dataclass(frozen=True)
class Hypothesis:
    """One hypothesis of a theorem.

    claim: the claim (`claims.py`) that a finding must be about.
    statement: the hypothesis in the theorem's own words, with the lecture's letters.
    scope: where the theorem asks for it. GLOBAL means for all theta; a finding on the path does not serve it.
    local_suffices: why a finding on the path of the run (or at the point reached) is enough for the conclusion
        about *this* run, when the claim is refuted or unknown everywhere; "" when nothing but the full scope does.
    local_claims: other claims whose finding on the path carries the hypothesis locally in the same way (what the
        proof uses of it, measured directly); they need `local_suffices`.
    limit: ("<", number) or (">", number): what the finding's estimate and interval must satisfy for the
        hypothesis to hold; None when the claim itself is the hypothesis.
    implied_by: conjunctions of other claims that give this one by a theorem, with the reason; used when no finding
        about `claim` itself decides.
    """

    claim: str
    statement: str
    scope: Scope = Scope.GLOBAL
    local_suffices: str = ""
    limit: tuple[str, float] | None = None
    implied_by: tuple[Implication, ...] = ()
    local_claims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for claim in (self.claim, *self.local_claims):
            claim_named(claim)
        if self.local_claims and not self.local_suffices:
            raise ValueError(f"local_claims need the reason why they suffice, {self.claim!r} came with none.")
        if self.limit is not None and self.limit[0] not in ("<", ">"):
            raise ValueError(f"a limit must be ('<', number) or ('>', number), got {self.limit!r}.")


@dataclass(frozen=True)
class Implication:
    """Claims that together imply another, and by which result.

    scope: where the premises are asked for, when that is less than what the hypothesis asks ("the proof uses it only
    for the iterates").
    """

    claims: tuple[str, ...]
    reason: str
    scope: Scope | None = None

    def __post_init__(self) -> None:
        for name in self.claims:
            claim_named(name)


@dataclass(frozen=True)
class Prediction:
    """A number (or outcome) the theorem predicts for this run, beside what was observed.

    what: what is compared, in words. predicted, observed: as a person reads them, with their errors.
    agrees: True or False beyond the errors, None when the observation cannot tell.
    detail: the formula and the numbers it was fed.
    """

    what: str
    predicted: str
    observed: str
    agrees: bool | None
    detail: str = ""


@dataclass(frozen=True)
class Known:
    """What is known about a run: the findings by claim, and the record itself."""

    findings: tuple[Finding, ...]
    run: Run | None = None

    def about(self, claim: str) -> tuple[Finding, ...]:
        """All findings about a claim, in the order in which they were found."""
        claim_named(claim)
        return tuple(finding for finding in self.findings if finding.claim == claim)

    def estimate(self, claim: str) -> Finding | None:
        """The first finding about a claim that carries a number and is not UNKNOWN, or None."""
        for finding in self.about(claim):
            if finding.verdict is not Verdict.UNKNOWN and finding.evidence.estimate is not None:
                return finding
        return None


def _no_prediction(known: Known) -> tuple[Prediction, ...]:
    return ()


def _fits(known: Known) -> tuple[Verdict, str] | None:
    return None


def _no_qualification(known: Known) -> str:
    return ""


@dataclass(frozen=True)
class Theorem:
    """A theorem of the lecture, matched with findings by `judge`.

    name: how people call it; title: one line. source: author, year, number; bibtex: to cite it.
    chapter: of the lecture. hypotheses, conclusion: statements; conclusion_claims: the claims that a correct
    conclusion forbids to be REFUTED. applied: what it says about this run when it applies.
    remark: how our statement differs from the source, and what it does not say.
    predict: what it predicts in numbers, beside what was observed.
    fit: whether the findings fit together (a step against the step that a certificate speaks of): None when they do,
        else the verdict that takes their place, REFUTED or UNKNOWN, and the reason. It can only lower the outcome.
    qualify: what must be added to `applied` for this run (that a point reached is outside its reach, say), or "".
    """

    name: str
    title: str
    source: str
    bibtex: str
    chapter: str
    hypotheses: tuple[Hypothesis, ...]
    conclusion: str
    applied: str
    conclusion_claims: tuple[str, ...] = ()
    remark: str = ""
    predict: Callable[[Known], tuple[Prediction, ...]] = _no_prediction
    fit: Callable[[Known], tuple[Verdict, str] | None] = _fits
    qualify: Callable[[Known], str] = _no_qualification

    def __post_init__(self) -> None:
        for claim in self.conclusion_claims:
            claim_named(claim)
        if not self.hypotheses:
            raise ValueError(f"a theorem must have hypotheses, {self.name!r} came with none.")
