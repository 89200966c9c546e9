"""A diagnosis as Markdown for a pull request: the verdict, the questions, the theorems, folded details."""

from __future__ import annotations

import re

from tameopt import __version__
from tameopt.audit.diagnosis import Diagnosis
from tameopt.report import model
from tameopt.report.text import literal
from tameopt.theorems._judgement import Judgement

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def _text(text: object) -> str:
    """Text on one line in which no character is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(literal(text).split()))


def to_markdown(diagnosis: Diagnosis) -> str:
    """The report as GitHub-flavoured Markdown."""
    verdict = diagnosis.verdict
    lines = [f"## {_text(verdict.title)}: {_text(verdict.sentence)}", ""]
    lines += [f"- {_text(sentence)}" for sentence in verdict.evidence]
    if verdict.next_action:
        lines += ["", f"**Next:** {_text(model.next_step(diagnosis))}"]
    lines += [f"\n*Also ({_text(kind)}):* {_text(sentence)}" for kind, sentence in verdict.also]
    lines += ["", f"Confidence: {verdict.confidence}. Run: {_text(model.title(diagnosis))}; "
              + ", ".join(_text(piece) for piece in model.subject(diagnosis)) + ".", ""]  # fmt: skip
    lines += [f"> {_text(note)}\n" for note in diagnosis.notes]
    lines += [f"> **An error of tameopt itself:** {_text(bug)}\n" for bug in diagnosis.bugs]
    if diagnosis.questions:
        lines += ["| Question | Answer | Evidence | Confidence |", "|---|---|---|---|"]
        for row in diagnosis.questions:
            worth = row.verdict if row.verdict == "PROVED" else row.confidence
            lines.append(
                f"| {_text(row.question)} | **{_text(row.answer)}** | {_text(row.evidence)} | {_text(worth)} |"
            )
        lines.append("")
    for group in model.ledger(diagnosis):
        for judgement in group.judgements:
            lines += _theorem(judgement)
    lines += _foot(diagnosis)
    return "\n".join(lines).rstrip() + "\n"


def _theorem(judgement: Judgement) -> list[str]:
    lines = [
        f"<details><summary>Theorem: {_summary(judgement.title)}: <b>{judgement.outcome}</b></summary>",
        "",
        _text(judgement.sentence),
        "",
        "| Hypothesis | Verdict | Why |",
        "|---|---|---|",
    ]
    for hypothesis in judgement.hypotheses:
        word = model.hypothesis_word(hypothesis)
        lines.append(f"| {_text(hypothesis.statement)} | {word} | {_text(hypothesis.reason)} |")
    for one in judgement.predictions:
        agrees = {True: "agrees", False: "**disagrees**", None: "cannot tell"}[one.agrees]
        lines.append("")
        lines.append(
            f"{_text(one.what)}: predicted {_text(one.predicted)}, observed {_text(one.observed)} ({agrees})."
        )
    return [*lines, "", f"Source: {_text(judgement.source)}", "", "</details>", ""]


def _summary(text: str) -> str:
    return literal(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _foot(diagnosis: Diagnosis) -> list[str]:
    lines = []
    if cost := model.costs(diagnosis):
        lines.append(f"Cost: {_text(cost)}.")
    lines += [
        f"- {record.status}: {_text(record.name)} ({_text(model.not_run(record))})"
        for record in diagnosis.analyses
        if record.status in ("skipped", "interrupted")
    ]
    command = diagnosis.reproducibility.command
    lines += [
        "",
        f"Made by tameopt {__version__}" + (f" with `{literal(command).replace('`', chr(39))}`" if command else ""),
    ]
    return lines
