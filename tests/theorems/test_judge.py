"""The judge never says more than the findings: scopes, limits, local forms, contradictions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tameopt.evidence import Certificate, Evidence, Finding, Outcome, Scope, Verdict, measured, refuted, unknown
from tameopt.theorems import Hypothesis, Implication, Theorem, entry, judge, names
from tameopt.theorems._judge import covers

_CERTIFICATE = Certificate("tameopt.tests:never_run", {})


# numbers that theorems hold against each other: a step of 0.1 where 0.2 is admitted
_NUMBERS: dict[str, tuple[float, dict[str, float] | None]] = {
    "step.constant": (0.1, None),
    "trap.holds": (0.4, {"largest_step": 0.2}),
}


def proof(claim: str, scope: Scope, **evidence: Any) -> Finding:
    """A finding as `evidence.proved` makes it; the judge does not replay, the audit has."""
    made = Evidence(method="test", certificate=_CERTIFICATE, **evidence)
    return Finding(claim, Verdict.PROVED, f"{claim} is proved", made, scope)


def measurement(claim: str, estimate: float, scope: Scope, interval: tuple[float, float] | None = None) -> Finding:
    return measured(
        claim, f"{claim} measured", estimate, method="test", error_kind="bound", interval=interval, scope=scope
    )


def refutation(claim: str, scope: Scope) -> Finding:
    return refuted(claim, f"{claim} is refuted", {"at": 1}, method="test", scope=scope)


def holding(hypothesis: Hypothesis) -> Finding:
    estimate = None if hypothesis.limit is None else (0.5 if hypothesis.limit[0] == "<" else 1.5)
    if hypothesis.claim in _NUMBERS:
        estimate, witness = _NUMBERS[hypothesis.claim]
        return proof(hypothesis.claim, hypothesis.scope, estimate=estimate, witness=witness)
    return proof(hypothesis.claim, hypothesis.scope, estimate=estimate)


@pytest.fixture(params=names())
def theorem(request: pytest.FixtureRequest) -> Theorem:
    return entry(request.param)


def test_a_theorem_applies_when_every_hypothesis_is_proved(theorem: Theorem) -> None:
    judgement = judge(theorem, [holding(one) for one in theorem.hypotheses])
    assert judgement.outcome is Outcome.APPLIES
    assert not judgement.bug
    assert theorem.applied in judgement.sentence


def test_a_theorem_fails_with_any_hypothesis_refuted(theorem: Theorem) -> None:
    for broken in theorem.hypotheses:
        findings = [holding(one) for one in theorem.hypotheses if one is not broken]
        judgement = judge(theorem, [*findings, refutation(broken.claim, broken.scope)])
        assert judgement.outcome is Outcome.FAILS, broken.claim
        assert broken.statement in judgement.sentence
        assert not judgement.predictions


def test_a_theorem_is_undecided_with_any_hypothesis_missing(theorem: Theorem) -> None:
    for missing in theorem.hypotheses:
        implying = {claim for way in missing.implied_by for claim in way.claims}
        findings = [holding(one) for one in theorem.hypotheses if one is not missing and one.claim not in implying]
        judgement = judge(theorem, findings)
        assert judgement.outcome is Outcome.UNDECIDED, missing.claim
        assert any(missing.statement in words for words in judgement.missing)


def test_one_measurement_is_enough_to_lower_the_outcome(theorem: Theorem) -> None:
    for weak in theorem.hypotheses:
        number = 0.5 if weak.limit is None or weak.limit[0] == "<" else 1.5
        findings = [holding(one) for one in theorem.hypotheses if one is not weak]
        judgement = judge(theorem, [*findings, measurement(weak.claim, number, weak.scope)])
        assert judgement.outcome is not Outcome.APPLIES
        if weak.claim not in _NUMBERS:
            assert judgement.outcome is Outcome.AS_MEASURED, weak.claim
            assert judgement.sentence.startswith("As far as measured")


def test_a_proved_theorem_with_a_refuted_conclusion_is_our_bug(theorem: Theorem) -> None:
    hypotheses = {one.claim for one in theorem.hypotheses}
    for claim in theorem.conclusion_claims:
        if claim in hypotheses:
            continue
        proofs = [holding(one) for one in theorem.hypotheses]
        assert "bug of tameopt" in judge(theorem, [*proofs, refutation(claim, Scope.GLOBAL)]).bug
        # under a mere measurement the measurement may be at fault, not we
        weaker = [measurement(proofs[0].claim, 0.5, proofs[0].scope), *proofs[1:]]
        assert not judge(theorem, [*weaker, refutation(claim, Scope.GLOBAL)]).bug


def test_contradictory_findings_are_our_bug_and_decide_nothing(theorem: Theorem) -> None:
    one = theorem.hypotheses[0]
    findings = [*(holding(other) for other in theorem.hypotheses), refutation(one.claim, one.scope)]
    judgement = judge(theorem, findings)
    assert judgement.outcome is Outcome.UNDECIDED
    assert "contradictory findings" in judgement.bug


def test_global_refutation_with_a_measurement_on_the_path_applies_only_locally(theorem: Theorem) -> None:
    for one in theorem.hypotheses:
        if one.scope is not Scope.GLOBAL:
            continue
        others = [holding(other) for other in theorem.hypotheses if other is not one]
        mixed = [*others, refutation(one.claim, Scope.GLOBAL), measurement(one.claim, 0.5, Scope.PATH)]
        judgement = judge(theorem, mixed)
        status = next(status for status in judgement.hypotheses if status.claim == one.claim)
        assert len(status.findings) == 2
        if one.local_suffices:
            assert judgement.outcome is Outcome.LOCALLY
            assert status.locally and one.local_suffices in status.reason
        else:
            assert judgement.outcome is Outcome.FAILS


def _one(hypothesis: Hypothesis) -> Theorem:
    return Theorem("t", "t", "s", "b", "c", (hypothesis,), "so", "so it is.")


def test_not_everywhere_refutes_nothing_about_the_path() -> None:
    theorem = _one(Hypothesis("kl.pl_constant", "PL on the path", Scope.PATH))
    assert judge(theorem, [refutation("kl.pl_constant", Scope.GLOBAL)]).outcome is Outcome.UNDECIDED
    assert judge(theorem, [refutation("kl.pl_constant", Scope.POINT)]).outcome is Outcome.FAILS


def test_a_measurement_on_the_path_does_not_serve_a_global_hypothesis() -> None:
    theorem = _one(Hypothesis("gradient.lipschitz", "L-Lipschitz"))
    judgement = judge(theorem, [measurement("gradient.lipschitz", 2.0, Scope.PATH)])
    assert judgement.outcome is Outcome.UNDECIDED
    assert "everywhere" in judgement.missing[0]
    assert judge(theorem, [measurement("gradient.lipschitz", 2.0, Scope.GLOBAL)]).outcome is Outcome.AS_MEASURED


def test_a_proof_on_the_recorded_path_is_a_measurement_of_the_endless_run() -> None:
    theorem = _one(Hypothesis("iterates.bounded", "bounded", Scope.RUN))
    assert judge(theorem, [proof("iterates.bounded", Scope.PATH)]).outcome is Outcome.AS_MEASURED
    assert judge(theorem, [proof("iterates.bounded", Scope.RUN)]).outcome is Outcome.APPLIES


def test_a_refutation_on_the_path_is_not_carried_by_another_point() -> None:
    theorem = _one(Hypothesis("F.C1", "C^1", local_suffices="of the segments"))
    findings = [refutation("F.C1", Scope.PATH), measurement("F.C1", 1.0, Scope.POINT)]
    assert judge(theorem, findings).outcome is Outcome.FAILS


@pytest.mark.parametrize(
    ("estimate", "interval", "outcome"),
    [
        (0.5, None, Outcome.AS_MEASURED),
        (0.9, (0.8, 0.99), Outcome.AS_MEASURED),
        (0.9, (0.8, 1.1), Outcome.UNDECIDED),
        (1.2, (1.05, 1.3), Outcome.FAILS),
        (1.2, None, Outcome.FAILS),
        (math.nan, None, Outcome.UNDECIDED),
        (0.5, (math.nan, math.nan), Outcome.UNDECIDED),
    ],
)
def test_a_measured_number_is_held_against_the_limit(
    estimate: float, interval: tuple[float, float] | None, outcome: Outcome
) -> None:
    theorem = _one(Hypothesis("step.below_1_over_L", "alpha < 1/L", Scope.RUN, limit=("<", 1.0)))
    assert judge(theorem, [measurement("step.below_1_over_L", estimate, Scope.PATH, interval)]).outcome is outcome


def test_even_a_proved_number_is_held_against_the_limit() -> None:
    theorem = _one(Hypothesis("step.below_1_over_L", "alpha < 1/L", Scope.RUN, limit=("<", 1.0)))

    def finding(scope: Scope) -> Finding:
        return proof("step.below_1_over_L", scope, estimate=1.5, interval=(1.4, 1.6))

    assert judge(theorem, [finding(Scope.RUN)]).outcome is Outcome.FAILS
    # a bound that holds everywhere may be far from what holds along this run: it decides nothing
    assert judge(theorem, [finding(Scope.GLOBAL)]).outcome is Outcome.UNDECIDED


def test_implied_claims_carry_a_hypothesis_but_never_refute_it() -> None:
    way = Implication(("F.tame", "F.C1"), "Kurdyka (1998)")
    theorem = _one(Hypothesis("F.kl", "KL", implied_by=(way,)))
    proofs = [proof("F.tame", Scope.GLOBAL), proof("F.C1", Scope.GLOBAL)]
    judgement = judge(theorem, proofs)
    assert judgement.outcome is Outcome.APPLIES
    assert "Kurdyka (1998)" in judgement.hypotheses[0].reason
    assert len(judgement.hypotheses[0].findings) == 2
    failing = [proof("F.tame", Scope.GLOBAL), refutation("F.C1", Scope.GLOBAL)]
    assert judge(theorem, failing).outcome is Outcome.UNDECIDED
    # a direct refutation beats an implication, and the contradiction is not hidden
    assert judge(theorem, [*proofs, refutation("F.kl", Scope.GLOBAL)]).outcome is not Outcome.APPLIES


def test_unknown_findings_tell_what_is_missing() -> None:
    theorem = _one(Hypothesis("F.tame", "tame"))
    finding = unknown("F.tame", "not traced", missing="a trace of the model", remedy="tame.structure.certify")
    judgement = judge(theorem, [finding])
    assert judgement.outcome is Outcome.UNDECIDED
    assert "a trace of the model" in judgement.missing[0]
    assert "tame.structure.certify" in judgement.missing[0]


@pytest.mark.parametrize("asked", list(Scope))
def test_a_global_finding_serves_every_scope_and_a_point_only_itself(asked: Scope) -> None:
    assert covers(Scope.GLOBAL, asked)
    assert covers(Scope.POINT, asked) == (asked is Scope.POINT)


def test_a_limit_must_have_a_direction() -> None:
    with pytest.raises(ValueError, match="a limit must be"):
        Hypothesis("F.tame", "tame", limit=("=", 1.0))


def test_a_theorem_must_have_hypotheses() -> None:
    with pytest.raises(ValueError, match="must have hypotheses"):
        Theorem("t", "t", "s", "b", "c", (), "so", "so")


def test_an_unknown_theorem_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'saddle-avoidance'"):
        entry("saddle-avoidence")


@pytest.mark.parametrize(
    ("step", "largest", "outcome"),
    [(0.1, 0.2, Outcome.APPLIES), (0.3, 0.2, Outcome.FAILS), (0.1, None, Outcome.UNDECIDED)],
)
def test_a_trap_speaks_of_the_steps_it_admits(step: float, largest: float | None, outcome: Outcome) -> None:
    theorem = entry("overparameterised-trap")
    rest = [holding(one) for one in theorem.hypotheses if one.claim not in ("trap.holds", "step.constant")]
    witness = None if largest is None else {"largest_step": largest}
    trap = proof("trap.holds", Scope.POINT, estimate=0.4, witness=witness)
    judgement = judge(theorem, [*rest, trap, proof("step.constant", Scope.RUN, estimate=step)])
    assert judgement.outcome is outcome
    if outcome is Outcome.FAILS:
        assert "above the 0.2 that the trap admits" in judgement.hypotheses[-1].reason
