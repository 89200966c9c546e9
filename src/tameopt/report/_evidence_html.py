"""The theorem ledger of the HTML report: each hypothesis opens on its evidence."""

from __future__ import annotations

import json

from tameopt.audit.diagnosis import Diagnosis
from tameopt.evidence import Evidence, Finding, Outcome
from tameopt.report import citation, model
from tameopt.report.machine import plain
from tameopt.report.numbers import estimate
from tameopt.report.text import escaped, prose
from tameopt.theorems._judgement import HypothesisStatus, Judgement
from tameopt.theorems._theorem import Prediction

_MOST_LETTERS = 4000  # of a certificate or witness on the page; all of it is in diagnosis.json
_HEADINGS = {
    Outcome.APPLIES: "apply",
    Outcome.AS_MEASURED: "apply as far as measured",
    Outcome.LOCALLY: "apply locally, as far as measured",
    Outcome.UNDECIDED: "are undecided",
    Outcome.FAILS: "do not apply",
}


def ledger_markup(diagnosis: Diagnosis) -> str:
    """The theorems by outcome."""
    groups = []
    for group in model.ledger(diagnosis):
        count = len(group.judgements)
        heading = f"{count} theorem{'s' if count != 1 else ''} {_HEADINGS[group.outcome]}"
        if count == 1:
            heading = (
                heading.replace(" apply", " applies")
                .replace("are ", "is ")
                .replace("do not applies", "does not apply")
            )
        body = "".join(_theorem(judgement) for judgement in group.judgements)
        groups.append(f'<p class="soft">{heading}</p>{body}')
    if not groups:
        return ""
    lead = "<p>Each line is a hypothesis; open it for its evidence.</p>"
    return f'<section id="theorems"><h2>Theorems</h2>{lead}{"".join(groups)}</section>'


def _theorem(judgement: Judgement) -> str:
    # Evidence is one click away everywhere: a theorem that says something lists its hypotheses closed, another one
    # is closed itself (its sentence says which hypothesis is missing) and lists them open.
    telling = judgement.outcome in citation.TELLING
    hypotheses = "".join(_hypothesis(hypothesis, "" if telling else " open") for hypothesis in judgement.hypotheses)
    bug = f'<p class="bug">An error of tameopt itself: {escaped(judgement.bug)}</p>' if judgement.bug else ""
    remark = f'<p class="soft">{prose(judgement.remark)}</p>' if judgement.remark else ""
    return (
        f'<details class="theorem"{" open" if telling else ""}><summary><h3>{prose(judgement.title)}</h3>'
        f'<span class="badge {judgement.outcome.name}">{escaped(judgement.outcome)}</span>'
        f'<span class="soft">{prose(judgement.sentence)}</span></summary><div class="body">{bug}{hypotheses}'
        f"{_predictions(judgement.predictions)}"
        f'<details class="more"><summary>What the theorem says, and its source</summary>'
        f"<p>{prose(judgement.conclusion)}</p>{remark}"
        f'<p class="soft">{escaped(judgement.source)}. Lecture: {escaped(judgement.chapter)}.</p></details>'
        "</div></details>"
    )


def _hypothesis(hypothesis: HypothesisStatus, state: str) -> str:
    findings = "".join(finding_markup(finding) for finding in hypothesis.findings)
    return (
        f'<details class="hypothesis"{state}><summary><span>{prose(hypothesis.statement)}</span>'
        f'<span><span class="badge {hypothesis.verdict}">{escaped(model.hypothesis_word(hypothesis))}</span></span>'
        f'<span class="soft">{prose(hypothesis.reason)}</span></summary>'
        f'<div class="evidence"><p class="soft">Asked for: {escaped(hypothesis.scope)}.</p>'
        f"{findings or '<p>No analysis of this audit speaks about it.</p>'}</div></details>"
    )


def _predictions(predictions: tuple[Prediction, ...]) -> str:
    if not predictions:
        return ""
    words = {True: '<span class="yes">agrees</span>', False: '<span class="no">disagrees</span>', None: "cannot tell"}
    rows = "".join(
        f'<tr><th scope="row">{prose(one.what)}{_detail(one.detail)}</th>'
        f'<td data-label="Predicted">{prose(one.predicted)}</td>'
        f'<td data-label="Observed">{prose(one.observed)}</td>'
        f"<td>{words[one.agrees]}</td></tr>"
        for one in predictions
    )
    return (
        '<table class="stack"><thead><tr><th scope="col">Prediction</th><th scope="col">Predicted</th>'
        f'<th scope="col">Observed</th><th scope="col"></th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _detail(detail: str) -> str:
    return f'<br><span class="soft">{prose(detail)}</span>' if detail else ""


def finding_markup(finding: Finding) -> str:
    """One finding with everything that is known about how it is known."""
    evidence = finding.evidence
    rows = {
        "number": estimate(evidence),
        "holds": str(finding.scope),
        "method": evidence.method,
        "seed": "" if evidence.seed is None else str(evidence.seed),
        "missing": evidence.missing,
        "to get it": evidence.remedy,
        "source": evidence.source,
        "cost": model.data_passes(evidence.cost),
    }
    facts = "".join(f"<dt>{name}</dt><dd>{prose(text)}</dd>" for name, text in rows.items() if text)
    return (
        f'<p><span class="badge {finding.verdict}">{finding.verdict}</span> {prose(finding.statement)} '
        f'<code class="soft">{escaped(finding.claim)}</code></p><dl>{facts}</dl>{_exhibits(evidence)}'
    )


def _exhibits(evidence: Evidence) -> str:
    parts = []
    if evidence.lines:
        listed = "".join(f"<li><code>{escaped(line)}</code></li>" for line in evidence.lines[:40])
        parts.append(f"<ul>{listed}</ul>")
    if evidence.witness:
        parts.append(f"<p>Witness:</p><pre>{escaped(_shortened(evidence.witness))}</pre>")
    if evidence.certificate is not None:
        parts.append(
            f'<details class="more"><summary>Certificate, replayed by <code>{escaped(evidence.certificate.checker)}'
            f"</code></summary><pre>{escaped(_shortened(evidence.certificate.data))}</pre></details>"
        )
    return "".join(parts)


def _shortened(data: object) -> str:
    text = json.dumps(plain(data), indent=1, ensure_ascii=False)
    if len(text) <= _MOST_LETTERS:
        return text
    return f"{text[:_MOST_LETTERS]}\n… {len(text) - _MOST_LETTERS:,} more letters; all of it is in diagnosis.json"
