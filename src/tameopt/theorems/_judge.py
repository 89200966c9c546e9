"""The judge: match the hypotheses of a theorem with findings, and say what follows for this run.

Rules, in the order in which they decide one hypothesis:

1. a finding serves a hypothesis when it reaches at least as far as the theorem asks (`covers`);
2. a refutation counts when its witness lies where the theorem asks for the claim: a witness anywhere refutes
   "everywhere", but "not everywhere" refutes nothing about the path;
3. a measured number is compared with the hypothesis' limit, interval and all; an interval that straddles the limit
   decides nothing;
4. what is refuted or unknown everywhere may be carried by a narrower finding, only when the theorem says why that
   is enough; the outcome is then at most "applies locally";
5. PROVED and REFUTED for the same claim in the same scope is our bug, and the judgement says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tameopt import catalogue
from tameopt.evidence import Finding, Outcome, Scope, Verdict, combine
from tameopt.run import Run
from tameopt.theorems._judgement import HypothesisStatus, Judgement
from tameopt.theorems._theorem import Hypothesis, Known, Theorem

# A finding with the key's scope serves a theorem that asks for one of these. RUN and PATH serve each other: a run's
# settings hold along its path; what held along the path is what is known of the run (see `_weakened`).
_COVERS = {
    Scope.GLOBAL: frozenset(Scope),
    Scope.RUN: frozenset({Scope.RUN, Scope.PATH, Scope.POINT}),
    Scope.PATH: frozenset({Scope.RUN, Scope.PATH, Scope.POINT}),
    Scope.POINT: frozenset({Scope.POINT}),
}


def covers(found: Scope, asked: Scope) -> bool:
    """Whether a finding that holds in `found` serves a theorem that asks for `asked`.

    >>> covers(Scope.GLOBAL, Scope.POINT), covers(Scope.PATH, Scope.GLOBAL)
    (True, False)
    """
    return asked in _COVERS[found]


@dataclass(frozen=True)
class _Reading:
    """What one finding says about one hypothesis: a verdict after the limit, and why."""

    verdict: Verdict
    finding: Finding
    reason: str


def _read(hypothesis: Hypothesis, finding: Finding) -> _Reading:
    """The finding as evidence for the hypothesis, its number compared with the limit."""
    if hypothesis.limit is None or finding.verdict not in (Verdict.MEASURED, Verdict.PROVED):
        return _Reading(finding.verdict, finding, finding.statement)
    sign, limit = hypothesis.limit
    evidence = finding.evidence
    if evidence.estimate is None:
        # a proof of the claim itself, without a number
        return _Reading(finding.verdict, finding, finding.statement)
    lower, upper = evidence.interval or (evidence.estimate, evidence.estimate)
    if not (lower == lower and upper == upper):
        return _Reading(Verdict.UNKNOWN, finding, f"{finding.statement} (not a number: it decides nothing)")
    holds = upper <= limit if sign == "<" else lower >= limit
    fails = lower > limit if sign == "<" else upper < limit
    if holds:
        return _Reading(finding.verdict, finding, finding.statement)
    shown = f"{evidence.estimate:.4g} in [{lower:.4g}, {upper:.4g}], the theorem asks for {sign} {limit:g}"
    if fails:
        return _Reading(Verdict.REFUTED, finding, f"{finding.statement} ({shown})")
    return _Reading(Verdict.UNKNOWN, finding, f"{finding.statement} ({shown}: not decided)")


def _weakened(reading: _Reading, asked: Scope) -> Verdict:
    """A proof along the recorded path is a measurement of a statement about the whole, endless run."""
    if reading.verdict is Verdict.PROVED and asked is Scope.RUN and reading.finding.scope is Scope.PATH:
        return Verdict.MEASURED
    return reading.verdict


@dataclass(frozen=True)
class _Decision:
    verdict: Verdict
    reason: str
    locally: bool = False
    also: tuple[Finding, ...] = ()


_CONTRADICTION = "contradictory findings"


def _decide(hypothesis: Hypothesis, known: Known) -> _Decision:
    asked = hypothesis.scope
    readings = [_read(hypothesis, finding) for finding in known.about(hypothesis.claim)]
    against = [r for r in readings if r.verdict is Verdict.REFUTED and covers(asked, r.finding.scope)]
    serving = [r for r in readings if covers(r.finding.scope, asked)]
    proofs = [r for r in serving if _weakened(r, asked) is Verdict.PROVED]
    measurements = [r for r in serving if _weakened(r, asked) is Verdict.MEASURED]
    if against and proofs:
        return _Decision(Verdict.UNKNOWN, f"{_CONTRADICTION}: {proofs[0].reason} AGAINST {against[0].reason}")
    if proofs:
        return _Decision(Verdict.PROVED, proofs[0].reason)
    local = _local(hypothesis, readings, known)
    if against:
        return local or _Decision(Verdict.REFUTED, against[0].reason)
    implied = _implied(hypothesis, known)
    if implied is not None and (implied.verdict is Verdict.PROVED or not measurements):
        return implied
    if measurements:
        return _Decision(Verdict.MEASURED, measurements[0].reason)
    return local or _Decision(Verdict.UNKNOWN, _missing(hypothesis, readings, known))


def _local(hypothesis: Hypothesis, readings: Sequence[_Reading], known: Known) -> _Decision | None:
    """The decision by a finding that reaches less far than the theorem asks, where the theorem allows it."""
    if not hypothesis.local_suffices:
        return None
    narrower = [
        r
        for r in readings
        if r.verdict in (Verdict.PROVED, Verdict.MEASURED) and not covers(r.finding.scope, hypothesis.scope)
    ]
    # a claim that fails on the path itself is not carried by another point of the path
    if any(r.verdict is Verdict.REFUTED and r.finding.scope is not Scope.GLOBAL for r in readings):
        narrower = []
    # what the proof uses, measured directly, carries it even there
    used = [one for claim in hypothesis.local_claims for one in known.about(claim)]
    narrower += [_Reading(one.verdict, one, one.statement) for one in used if one.verdict is Verdict.MEASURED]
    if not narrower:
        return None
    best = max(narrower, key=lambda r: (r.finding.scope is not Scope.POINT, r.verdict is Verdict.PROVED))
    elsewhere = next((f"{r.reason.rstrip('.')}; but " for r in readings if r.verdict is Verdict.REFUTED), "")
    return _Decision(
        Verdict.MEASURED,
        f"{elsewhere}{best.reason} ({best.finding.scope}), which is enough: {hypothesis.local_suffices}",
        locally=True,
        also=tuple(used),
    )


def _implied(hypothesis: Hypothesis, known: Known) -> _Decision | None:
    """The decision by other claims that together imply this one; None when none of the conjunctions holds."""
    decisions = []
    for implication in hypothesis.implied_by:
        asked = implication.scope or hypothesis.scope
        parts = [
            _decide(Hypothesis(claim, "", asked, hypothesis.local_suffices if asked is Scope.GLOBAL else ""), known)
            for claim in implication.claims
        ]
        verdict = combine(part.verdict for part in parts)
        # that the premises fail does not refute what they would have implied
        if verdict in (Verdict.PROVED, Verdict.MEASURED):
            decisions.append(
                _Decision(
                    verdict,
                    f"{implication.reason}: " + "; ".join(part.reason for part in parts),
                    any(part.locally for part in parts),
                    tuple(finding for claim in implication.claims for finding in known.about(claim)),
                )
            )
    return min(decisions, key=lambda one: (one.verdict is not Verdict.PROVED, one.locally), default=None)


def _missing(hypothesis: Hypothesis, readings: Sequence[_Reading], known: Known) -> str:
    """What would decide a hypothesis that nothing decides."""
    for reading in readings:
        if reading.verdict is Verdict.UNKNOWN:
            missing, remedy = reading.finding.evidence.missing, reading.finding.evidence.remedy
            if missing:
                return f"missing: {missing}" + (f" (try {remedy})" if remedy else "")
            return reading.reason
    narrower = [r for r in readings if r.verdict in (Verdict.PROVED, Verdict.MEASURED)]
    if narrower:
        return (
            f"{narrower[0].reason} ({narrower[0].finding.scope}); the theorem asks for it {hypothesis.scope}, and "
            "no narrower scope is enough"
        )
    for implication in hypothesis.implied_by:
        for claim in implication.claims:
            for finding in known.about(claim):
                if finding.verdict is Verdict.UNKNOWN:
                    remedy = f" (try {finding.evidence.remedy})" if finding.evidence.remedy else ""
                    return f"{implication.reason}; missing: {finding.evidence.missing}{remedy}"
    return f"missing: no analysis of this audit looked at it ({hypothesis.claim})"


def _outcome(hypotheses: Sequence[HypothesisStatus]) -> Outcome:
    verdict = combine(one.verdict for one in hypotheses)
    if verdict is Verdict.REFUTED:
        return Outcome.FAILS
    if verdict is Verdict.UNKNOWN:
        return Outcome.UNDECIDED
    if any(one.locally for one in hypotheses):
        return Outcome.LOCALLY
    return Outcome.APPLIES if verdict is Verdict.PROVED else Outcome.AS_MEASURED


def judge(theorem: Theorem, findings: Iterable[Finding], run: Run | None = None) -> Judgement:
    """What a theorem says about a run whose findings these are.

    run: for the predictions that read the record; may be None.
    """
    known = Known(tuple(findings), run)
    statuses = []
    for hypothesis in theorem.hypotheses:
        decision = _decide(hypothesis, known)
        own = known.about(hypothesis.claim)
        statuses.append(
            HypothesisStatus(
                hypothesis.claim,
                hypothesis.statement,
                hypothesis.scope,
                decision.verdict,
                decision.locally,
                decision.reason,
                own + tuple(finding for finding in decision.also if finding not in own),
            )
        )
    misfit = theorem.fit(known)
    if misfit is not None and combine(one.verdict for one in statuses) in (Verdict.PROVED, Verdict.MEASURED):
        verdict, reason = misfit
        words = "the hypotheses speak of this run together"
        statuses.append(HypothesisStatus(theorem.hypotheses[-1].claim, words, Scope.RUN, verdict, False, reason))
    outcome = _outcome(statuses)
    usable = outcome in (Outcome.APPLIES, Outcome.AS_MEASURED, Outcome.LOCALLY)
    return Judgement(
        theorem=theorem.name,
        title=theorem.title,
        source=theorem.source,
        chapter=theorem.chapter,
        outcome=outcome,
        sentence=_sentence(theorem, outcome, statuses, known),
        conclusion=theorem.conclusion,
        hypotheses=tuple(statuses),
        predictions=theorem.predict(known) if usable else (),
        missing=tuple(f"{one.statement}: {one.reason}" for one in statuses if one.verdict is Verdict.UNKNOWN),
        remark=theorem.remark,
        bug=_bug(theorem, outcome, statuses, known),
    )


def judge_all(findings: Iterable[Finding], run: Run | None = None) -> tuple[Judgement, ...]:
    """Every theorem of the catalogue, those that apply first."""
    held = tuple(findings)
    order = (Outcome.APPLIES, Outcome.AS_MEASURED, Outcome.LOCALLY, Outcome.UNDECIDED, Outcome.FAILS)
    judged = [judge(theorem, held, run) for theorem in catalogue.entries("tameopt.theorems").values()]
    return tuple(sorted(judged, key=lambda one: order.index(one.outcome)))


def _sentence(theorem: Theorem, outcome: Outcome, statuses: Sequence[HypothesisStatus], known: Known) -> str:
    if outcome is Outcome.FAILS:
        failed = [one for one in statuses if one.verdict is Verdict.REFUTED]
        return "It says nothing about this run: " + "; ".join(f"{one.statement} fails" for one in failed) + "."
    if outcome is Outcome.UNDECIDED:
        open_ones = [one for one in statuses if one.verdict is Verdict.UNKNOWN]
        return "Not decided: " + "; ".join(one.statement for one in open_ones) + "."
    caveat = {
        Outcome.APPLIES: "",
        Outcome.AS_MEASURED: "As far as measured: ",
        Outcome.LOCALLY: "Locally, as far as measured: ",
    }[outcome]
    qualified = theorem.qualify(known)
    return f"{caveat}{theorem.applied}" + (f" {qualified}" if qualified else "")


def _bug(theorem: Theorem, outcome: Outcome, statuses: Sequence[HypothesisStatus], known: Known) -> str:
    for one in statuses:
        if one.reason.startswith(_CONTRADICTION):
            return f"{one.claim}: {one.reason}. One of the two is wrong; please report this as a bug of tameopt."
    if outcome is not Outcome.APPLIES:
        return ""
    violated = [
        finding
        for claim in theorem.conclusion_claims
        for finding in known.about(claim)
        if finding.verdict is Verdict.REFUTED
    ]
    if violated:
        return (
            f"every hypothesis is PROVED, yet the conclusion is refuted ({violated[0].statement}): a proof or the "
            "refutation is wrong; please report this as a bug of tameopt."
        )
    return ""
