"""The table of the report: the questions people ask, each answered from the findings."""

from __future__ import annotations

from collections.abc import Iterable

from tameopt.audit.diagnosis import Confidence, QuestionRow
from tameopt.evidence import Evidence, Finding, Verdict
from tameopt.run import Run

# question -> the claims that answer it, most telling first
_QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Does the loss converge?", ("run.diverged", "run.noise_floor", "values.converge", "values.limit_set")),
    ("At which rate?", ("rate.linear", "rate.sublinear")),
    ("How long still?", ("rate.steps_to_target",)),
    ("Do the weights converge?", ("iterates.converge", "iterates.finite_length", "iterates.bounded")),
    ("Minimum or saddle?", ("point.strict_saddle", "point.second_order", "point.critical", "point.lambda_min")),
    ("At a kink?", ("point.kinks", "point.clarke_critical", "goldstein.stationary")),
    ("Is the step stable?", ("step.stable", "step.below_1_over_L")),
    ("How steep is the loss?", ("gradient.lipschitz", "point.lambda_max")),
    ("How noisy are the gradients?", ("noise.bounded_variance", "noise.scale")),
    ("Do the steps suit the theory?", ("step.square_summable", "step.sum_diverges")),
    ("What kind of function is F?", ("F.semialgebraic", "F.tame", "F.polynomial_degree")),
    ("How smooth is F?", ("F.analytic", "F.C2", "F.C1", "F.locally_lipschitz")),
    ("Is backprop a subgradient?", ("point.backprop_clarke", "F.autodiff")),
    ("Which KL exponent?", ("kl.exponent", "kl.pl_constant")),
    ("Can it fit every sample?", ("trap.holds", "trap.flow", "trap.margin", "ntk.lambda_min")),
)
# these say something only when they hold: "it did not diverge" answers no question
_ONLY_WHEN_TRUE = {
    "run.diverged",
    "run.noise_floor",
    "rate.linear",
    "rate.sublinear",
    "trap.holds",
    "trap.flow",
    "trap.margin",
}


def question_table(findings: Iterable[Finding], run: Run | None) -> tuple[QuestionRow, ...]:
    """One row a question that any finding speaks to; a row is as sure as the finding it rests on."""
    held = tuple(findings)
    rows = []
    for question, claims in _QUESTIONS:
        row = _row(question, claims, held)
        if row is not None:
            rows.append(row)
    return tuple(rows)


def _row(question: str, claims: tuple[str, ...], findings: tuple[Finding, ...]) -> QuestionRow | None:
    about = [one for claim in claims for one in findings if one.claim == claim]
    decided = [
        one
        for one in about
        if one.verdict is not Verdict.UNKNOWN
        and not (one.verdict is Verdict.REFUTED and one.claim in _ONLY_WHEN_TRUE)
    ]
    if decided:
        best = decided[0]
        return QuestionRow(question, best.statement, _how(best.evidence), _confidence(best), best.verdict.name)
    open_ones = [one for one in about if one.verdict is Verdict.UNKNOWN]
    if open_ones:
        one = open_ones[0]
        remedy = f"; try {one.evidence.remedy}" if one.evidence.remedy else ""
        return QuestionRow(question, one.statement, f"missing: {one.evidence.missing}{remedy}", "low", "UNKNOWN")
    return None


def _how(evidence: Evidence) -> str:
    parts = [evidence.method]
    if evidence.interval is not None:
        parts.append(f"[{evidence.interval[0]:.4g}, {evidence.interval[1]:.4g}] {evidence.error_kind}".strip())
    if evidence.sample_size is not None:
        parts.append(f"{evidence.sample_size:,} samples")
    if evidence.certificate is not None:
        parts.append("certificate replayed")
    return ", ".join(part for part in parts if part)


def _confidence(finding: Finding) -> Confidence:
    if finding.verdict in (Verdict.PROVED, Verdict.REFUTED):
        return "high"
    return "high" if finding.evidence.interval is not None or "exact" in finding.evidence.error_kind else "medium"
