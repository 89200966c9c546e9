"""What every rendering of a diagnosis shows, in words: the report's plain view, computed once.

Nothing here judges: levels and groups are fixed tables over the verdicts that the audit reached.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tameopt.audit.diagnosis import AnalysisRecord, Diagnosis
from tameopt.evidence import Cost, Finding, Outcome, Verdict
from tameopt.report.numbers import pretty, seconds
from tameopt.theorems._judgement import HypothesisStatus, Judgement


class Level(enum.IntEnum):
    """How much a verdict asks of the person; `--fail-on` compares with it."""

    FINE = 0
    UNDECIDED = 1
    WARNING = 2
    PROBLEM = 3


_LEVELS = {
    "converging": Level.FINE,
    "converged": Level.FINE,
    "kink": Level.FINE,
    "undecided": Level.UNDECIDED,
    "not trained": Level.UNDECIDED,
    "diverged": Level.PROBLEM,
    "non-finite": Level.PROBLEM,
    "chance level": Level.PROBLEM,
    "dead units": Level.PROBLEM,
}

OUTCOME_ORDER = (Outcome.APPLIES, Outcome.AS_MEASURED, Outcome.LOCALLY, Outcome.UNDECIDED, Outcome.FAILS)


def level(diagnosis: Diagnosis) -> Level:
    """The level of the verdict on top; kinds that are neither fine nor broken are warnings.

    An error of tameopt itself is a problem whatever the verdict.
    """
    if diagnosis.bugs:
        return Level.PROBLEM
    return _LEVELS.get(diagnosis.verdict.kind, Level.WARNING)


@dataclass(frozen=True)
class LedgerGroup:
    """The theorems with one outcome."""

    outcome: Outcome
    judgements: tuple[Judgement, ...]


def ledger(diagnosis: Diagnosis) -> tuple[LedgerGroup, ...]:
    """The theorems by outcome, those that say something about this run first."""
    groups = []
    for outcome in OUTCOME_ORDER:
        members = tuple(judgement for judgement in diagnosis.judgements if judgement.outcome is outcome)
        if members:
            groups.append(LedgerGroup(outcome, members))
    return tuple(groups)


def subject(diagnosis: Diagnosis) -> list[str]:
    """What was audited, as short pieces: problem, optimizer, parameters, samples, steps."""
    settings = diagnosis.settings
    pieces = [settings.optimizer] if settings.optimizer else []
    if settings.schedule and settings.schedule not in settings.optimizer:
        pieces.append(f"schedule {settings.schedule}")
    if settings.batch_size > 0 and settings.n > 1:
        whole = settings.sampling == "reshuffled" and settings.batch_size >= settings.n
        full = whole or settings.sampling == "full batch"
        pieces.append("full batch" if full else f"batch {settings.batch_size:,}")
    if settings.d > 0:
        pieces.append(f"{settings.d:,} parameter{'s' if settings.d != 1 else ''}")
    if settings.n > 1:
        pieces.append(f"{settings.n:,} samples")
    if settings.steps_done >= 0:
        planned = f" of {settings.steps_planned:,}" if settings.steps_planned >= 0 else ""
        pieces.append(f"step {settings.steps_done:,}{planned}")
    if settings.dtype:
        pieces.append(settings.dtype.removeprefix("torch."))
    return pieces


def next_step(diagnosis: Diagnosis) -> str:
    """The next action and its predicted effect as sentences; "" when there is none."""
    parts = (diagnosis.verdict.next_action.strip(), diagnosis.verdict.predicted_effect.strip())
    return " ".join(_sentence(part) for part in parts if part)


def _sentence(text: str) -> str:
    """text with a capital, unless it begins with a name of the notation, and a full stop."""
    first = text.split()[0]
    if first.isalpha() and first not in ("alpha", "eps", "lr"):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def title(diagnosis: Diagnosis) -> str:
    """The run's path, or the problem's name."""
    return diagnosis.settings.run_path or diagnosis.settings.problem or diagnosis.settings.target


def costs(diagnosis: Diagnosis) -> str:
    """What training, recording and analysing cost, in one line."""
    record = diagnosis.reproducibility
    parts = []
    if record.seconds_training > 0:
        share = 100 * record.seconds_recording / record.seconds_training
        parts.append(
            f"training {seconds(record.seconds_training)}, of which recording {seconds(record.seconds_recording)} "
            f"({pretty(share, 2)}%)"
        )
    if record.seconds_analysing > 0:
        parts.append(f"analysing {seconds(record.seconds_analysing)}")
    passes = data_passes(diagnosis.cost)
    if passes:
        parts.append(passes)
    return "; ".join(parts)


def data_passes(cost: Cost) -> str:
    """Gradients and Hessian products over the whole data set, in words; "" when there were none."""
    parts = []
    if cost.gradients > 0:
        parts.append(f"{pretty(cost.gradients, 3)} gradients")
    if cost.hessian_products > 0:
        parts.append(f"{pretty(cost.hessian_products, 3)} Hessian products")
    return f"{' and '.join(parts)} over the whole data" if parts else ""


def not_run(record: AnalysisRecord) -> str:
    """Why an analysis did not run, what it would cost, and how to run it."""
    text = record.reason or record.status
    if record.estimated.seconds > 0:
        text += f"; would take {seconds(record.estimated.seconds)}"
    if record.include:
        text += f"; {record.include}"
    return text


def counts(verdicts: Sequence[Verdict]) -> list[tuple[Verdict, int]]:
    """How often each verdict occurs, in the order of the enumeration."""
    return [(verdict, verdicts.count(verdict)) for verdict in Verdict if verdict in verdicts]


def hypothesis_word(hypothesis: HypothesisStatus) -> str:
    """The verdict of a hypothesis as the ledger shows it.

    "locally" is part of the word, so that no rendering can drop it.
    """
    return f"{hypothesis.verdict}, locally" if hypothesis.locally else str(hypothesis.verdict)


def other_findings(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """The findings that no theorem's hypothesis shows."""
    shown = [
        finding
        for judgement in diagnosis.judgements
        for hypothesis in judgement.hypotheses
        for finding in hypothesis.findings
    ]
    return tuple(finding for finding in diagnosis.findings if finding not in shown)
