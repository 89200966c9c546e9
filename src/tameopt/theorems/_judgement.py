"""What the judge hands back: a theorem, each hypothesis with its findings, and what follows for this run."""

from __future__ import annotations

from dataclasses import dataclass

from tameopt.evidence import Finding, Outcome, Scope, Verdict
from tameopt.theorems._theorem import Prediction


@dataclass(frozen=True)
class HypothesisStatus:
    """How one hypothesis stands.

    verdict: the verdict for the hypothesis in the scope the theorem asks for.
    locally: True when that scope is refuted or unknown and a narrower finding, accepted for the stated reason,
        carries the hypothesis instead; the outcome is then at most "applies locally".
    reason: one sentence: which finding decided, or what is missing.
    findings: every finding about the claim (and about the claims that imply it), whether it decided or not.
    """

    claim: str
    statement: str
    scope: Scope
    verdict: Verdict
    locally: bool
    reason: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """What a theorem says about a run.

    theorem: its name in the catalogue. sentence: what follows for this run, in one sentence.
    missing: what would decide it (UNDECIDED), one entry a hypothesis. bug: not empty when a conclusion is
    violated although every hypothesis is PROVED, or findings contradict each other: then tameopt is at fault.
    """

    theorem: str
    title: str
    source: str
    chapter: str
    outcome: Outcome
    sentence: str
    conclusion: str
    hypotheses: tuple[HypothesisStatus, ...]
    predictions: tuple[Prediction, ...] = ()
    missing: tuple[str, ...] = ()
    remark: str = ""
    bug: str = ""
