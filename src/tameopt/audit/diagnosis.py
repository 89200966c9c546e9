"""Diagnosis: everything an audit found, as immutable plain data that serialises to JSON.

The report renders it and computes nothing; `tameopt compare` and dashboards read its JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tameopt.audit.codec import decode, encode
from tameopt.evidence import Cost, Finding
from tameopt.picture import Picture
from tameopt.theorems._judgement import Judgement

SCHEMA = "tameopt.diagnosis"
SCHEMA_VERSION = 1

Confidence = Literal["high", "medium", "low"]
Status = Literal["done", "skipped", "interrupted", "internal error"]

# kind -> the words on top of the report. The kinds are stable: scripts compare them.
KINDS: dict[str, str] = {
    "converging": "CONVERGING",
    "converged": "CONVERGED",
    "strict saddle": "AT A STRICT SADDLE",
    "kink": "AT A KINK",
    "degenerate": "FLAT",
    "noise floor": "NOISE FLOOR",
    "diverged": "DIVERGED",
    "step too large": "STEP TOO LARGE",
    "step too small": "STEP TOO SMALL",
    "oscillation": "OSCILLATING",
    "plateau": "PLATEAU",
    "chance level": "AT CHANCE LEVEL",
    "dead units": "DEAD UNITS",
    "non-finite": "NOT FINITE",
    "spikes": "SPIKES",
    "late rise": "RISING LATE",
    "epoch-aligned steps": "FALLING AT EPOCHS",
    "resume discontinuity": "RESUME JUMP",
    "not trained": "NOT TRAINED",
    "undecided": "UNDECIDED",
}


@dataclass(frozen=True)
class TrainingVerdict:
    """Where this training is going, in one sentence, with one next step.

    kind: a key of KINDS; title: its words in capitals. sentence: the answer. evidence: sentences with a number and
    its error each, most telling first. next_action: one thing to do; predicted_effect: what it should change, in
    numbers where they are known. also: other kinds that matched, with their sentences.
    """

    kind: str
    title: str
    sentence: str
    evidence: tuple[str, ...]
    confidence: Confidence
    next_action: str
    predicted_effect: str
    also: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a verdict's kind must be one of {', '.join(KINDS)}, got {self.kind!r}.")

    def __str__(self) -> str:
        return f"{self.title}: {self.sentence}"


@dataclass(frozen=True)
class QuestionRow:
    """One row of the table: a question as people ask it, the answer, and why it is believed.

    verdict: "PROVED", "MEASURED", "REFUTED", "UNKNOWN", or "" where the row rests on no single finding.
    """

    question: str
    answer: str
    evidence: str
    confidence: Confidence
    verdict: str = ""


@dataclass(frozen=True)
class AnalysisRecord:
    """What became of one planned analysis.

    status: "done", "skipped" (reason says why), "interrupted", or "internal error" (reason holds the exception's
    type and text: our bug, the other analyses are unaffected). estimated, actual: costs before and after.
    include: the option that would run it although it was skipped, or "".
    """

    name: str
    question: str
    status: Status
    reason: str = ""
    estimated: Cost = field(default_factory=Cost)
    actual: Cost = field(default_factory=Cost)
    include: str = ""


@dataclass(frozen=True)
class Settings:
    """What was audited: the line under the title of the report. Empty strings and -1 where unknown.

    optimizer: as a person writes it, "SGD(lr=0.05, momentum=0.9)". schedule: str of the schedule.
    """

    target: str
    problem: str
    d: int
    n: int
    dtype: str
    optimizer: str = ""
    schedule: str = ""
    batch_size: int = -1
    sampling: str = ""
    initial_law: str = ""
    seed: int = 0
    steps_done: int = -1
    steps_planned: int = -1
    status: str = ""
    run_path: str = ""


@dataclass(frozen=True)
class Reproducibility:
    """Enough to do it again: the command, versions, machine, seed and times (seconds)."""

    command: str
    versions: dict[str, str]
    machine: dict[str, str]
    seed: int
    created: str
    seconds_training: float = 0.0
    seconds_recording: float = 0.0
    seconds_analysing: float = 0.0


@dataclass(frozen=True)
class Diagnosis:
    """The result of an audit; `tameopt.audit(...)` returns one.

    verdict: the sentence on top. questions: the table. findings: all of them, certificates included.
    judgements: one a theorem, those that apply first. pictures: what the analyses want drawn. facts: numbers that
    are no claims, by analysis name. analyses: what ran, what was skipped and what that would cost. notes: sentences
    about the audit itself (interrupted, budget spent, buffers missing). interrupted: Ctrl-C ended it early.
    """

    settings: Settings
    verdict: TrainingVerdict
    questions: tuple[QuestionRow, ...]
    findings: tuple[Finding, ...]
    judgements: tuple[Judgement, ...]
    pictures: tuple[Picture, ...]
    facts: dict[str, Any]
    analyses: tuple[AnalysisRecord, ...]
    reproducibility: Reproducibility
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def __repr__(self) -> str:
        return f"Diagnosis({self.settings.problem}: {self.verdict})"

    @property
    def skipped(self) -> tuple[AnalysisRecord, ...]:
        """The analyses that were not run, with the reason and the cost."""
        return tuple(record for record in self.analyses if record.status == "skipped")

    @property
    def cost(self) -> Cost:
        """What the analyses cost together."""
        total = Cost()
        for record in self.analyses:
            total = total + record.actual
        return total

    @property
    def bugs(self) -> tuple[str, ...]:
        """What tameopt itself got wrong in this audit: internal errors and violated theorems."""
        errors = tuple(
            f"{record.name}: {record.reason}" for record in self.analyses if record.status == "internal error"
        )
        return errors + tuple(f"{one.theorem}: {one.bug}" for one in self.judgements if one.bug)

    # -- JSON ----------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data with "schema" and "schema_version"; `json.dumps` writes it as valid JSON."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **encode(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Diagnosis:
        """The diagnosis that `to_json` wrote.

        Raises ValueError when this is no diagnosis, or one of a newer version.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise ValueError(f"a diagnosis must have schema {SCHEMA!r}: this JSON is of another program.")
        version = data.get("schema_version")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ValueError(
                f"this diagnosis has schema version {version}, this tameopt reads up to {SCHEMA_VERSION}: "
                "upgrade tameopt."
            )
        found: Diagnosis = decode(cls, dict(data), "diagnosis")
        return found

    def save_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `diagnosis.json`; written aside and renamed, so that a reader never sees half of it."""
        target = Path(path)
        half = target.with_name(target.name + ".half")
        half.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False), encoding="utf-8")
        half.replace(target)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Diagnosis:
        """Read a `diagnosis.json`, or the one in a run's folder.

        Raises FileNotFoundError, ValueError when it is no diagnosis.
        """
        source = Path(path)
        if source.is_dir():
            source = source / "diagnosis.json"
        if not source.is_file():
            raise FileNotFoundError(f"no diagnosis at {source}: run the audit first.")
        try:
            data = json.loads(source.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{source} must be a diagnosis in JSON, it is not: {error}") from error
        return cls.from_json(data)

    # -- rendering: the report stands above the audit, so it is imported where a person asks for it ---------

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the self-contained HTML report."""
        from tameopt import report

        return Path(report.save_html(self, path))

    def to_markdown(self) -> str:
        """The report as Markdown, for a pull request."""
        from tameopt import report

        return str(report.to_markdown(self))

    def _repr_html_(self) -> str:
        from tameopt import report

        return str(report.to_notebook(self))
