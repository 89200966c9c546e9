"""A diagnosis as one HTML file that opens offline: no script, no foreign asset, names shown literally."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tameopt import __version__
from tameopt.audit.diagnosis import AnalysisRecord, Diagnosis, QuestionRow
from tameopt.picture import Picture
from tameopt.report import citation, glossary, model
from tameopt.report._derivation_html import derivation_markup
from tameopt.report._evidence_html import finding_markup, ledger_markup
from tameopt.report._field import scale_markup
from tameopt.report.compare import Comparison
from tameopt.report.numbers import seconds
from tameopt.report.svg import draw_svg, legend
from tameopt.report.text import escaped, literal, prose

# The page may load nothing and run nothing, whatever a hostile name smuggles in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(diagnosis: Diagnosis) -> str:
    """The whole page."""
    body = "".join(
        (
            _head(diagnosis),
            _questions(diagnosis),
            _pictures(diagnosis.pictures),
            ledger_markup(diagnosis),
            _section("derivation", "How the class of F is derived", derivation_markup(diagnosis.facts)),
            _others(diagnosis),
            _costs(diagnosis),
            _reproduce(diagnosis),
            _citation(diagnosis),
        )
    )
    body += _glossary(glossary.used(_words(diagnosis)))
    heading = f"{diagnosis.verdict.title}: {model.title(diagnosis)}"
    return _document(heading, body, f" on {escaped(diagnosis.reproducibility.created)}")


def comparison_html(comparison: Comparison) -> str:
    """Several runs side by side as one page."""

    def table(identity: str, heading: str, rows: Sequence[tuple[str, tuple[str, ...]]]) -> str:
        head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in ("", *comparison.names))
        body = "".join(
            f'<tr><th scope="row">{prose(key)}</th>'
            + "".join(
                f'<td data-label="{escaped(name)}">{prose(value)}</td>'
                for name, value in zip(comparison.names, values, strict=True)
            )
            + "</tr>"
            for key, values in rows
        )
        whole = f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return _section(identity, heading, f'<div class="scroll">{whole}</div>' if rows else "")

    pairs = "".join(f"<li>{prose(pair)}</li>" for pair in comparison.pairs) if len(comparison.pairs) > 1 else ""
    body = (
        f'<header><div class="verdict undecided"><p class="title">COMPARISON</p><h1>{prose(comparison.sentence)}</h1>'
        f"{f'<ul>{pairs}</ul>' if pairs else ''}</div></header>"
        f"{_section('pictures', 'Losses', figure(comparison.picture))}"
        f"{table('settings', 'Set differently', comparison.differing)}"
        f"{table('rows', 'Side by side', comparison.rows)}"
    )
    return _document(f"tameopt: {', '.join(comparison.names)}", body)


def _document(heading: str, body: str, when: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="generator" content="tameopt {__version__}"><title>{escaped(heading)}</title>'
        f"<style>{_style()}</style></head><body><main>{body}"
        f"<footer>Written by tameopt {__version__}{when}.</footer></main></body></html>\n"
    )


def save_html(diagnosis: Diagnosis, path: str | os.PathLike[str]) -> Path:
    """Write the page of a diagnosis; raises as `write_page`."""
    return write_page(to_html(diagnosis), path)


def write_page(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page aside and rename it, so that a reader never sees half of it.

    Raises NotADirectoryError when its folder is not there, OSError when that cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise NotADirectoryError(f"the page goes into a folder that exists, {target.parent} does not: make it first.")
    half = target.with_name(target.name + ".half")
    half.write_text(page, encoding="utf-8")
    half.replace(target)
    return target


def to_notebook(diagnosis: Diagnosis) -> str:
    """The page inside a frame, so that its style and the notebook's do not meet."""
    return (
        f'<iframe title="tameopt diagnosis" srcdoc="{escaped(to_html(diagnosis))}" '
        'style="width:100%;height:720px;border:1px solid #8884;border-radius:8px" sandbox></iframe>'
    )


@functools.cache
def _style() -> str:
    return resources.files("tameopt.report").joinpath("style.css").read_text(encoding="utf-8")


def _section(identity: str, heading: str, body: str) -> str:
    return f'<section id="{identity}"><h2>{heading}</h2>{body}</section>' if body else ""


def _head(diagnosis: Diagnosis) -> str:
    verdict = diagnosis.verdict
    tone = model.level(diagnosis).name.lower()
    pieces = "".join(f"<span>{escaped(piece)}</span>" for piece in model.subject(diagnosis))
    evidence = "".join(f"<li>{prose(sentence)}</li>" for sentence in verdict.evidence)
    also = "".join(
        f"<p><span class=soft>Also ({escaped(kind)}):</span> {prose(text)}</p>" for kind, text in verdict.also
    )
    action = model.next_step(diagnosis)
    following = f'<p class="next"><b>Next:</b> {prose(action)}</p>' if action else ""
    notes = "".join(f'<p class="note">{prose(note)}</p>' for note in diagnosis.notes)
    bugs = "".join(
        f'<p class="bug"><b>An error of tameopt itself:</b> {escaped(bug)} Please report it.</p>'
        for bug in diagnosis.bugs
    )
    links = "".join(
        f'<a href="#{identity}">{words}</a>'
        for identity, words, there in (
            ("questions", "Questions", diagnosis.questions),
            ("pictures", "Pictures", diagnosis.pictures),
            ("theorems", "Theorems", diagnosis.judgements),
            ("derivation", "Derivation", derivation_markup(diagnosis.facts)),
            ("costs", "Costs and what was skipped", True),
            ("reproduce", "Do it again", True),
            ("cite", "Cite", True),
            ("glossary", "Glossary", True),
        )
        if there
    )
    return (
        f'<header><p class="subject"><b>{escaped(model.title(diagnosis))}</b></p><p class="subject">{pieces}</p>'
        f'<div class="verdict {tone}"><p class="title">{escaped(verdict.title)}</p>'
        f"<h1>{prose(verdict.sentence)}</h1>{f'<ul>{evidence}</ul>' if evidence else ''}{also}{following}"
        f'<p class="soft">Confidence: {escaped(verdict.confidence)}</p></div>{bugs}{notes}<nav>{links}</nav></header>'
    )


def _questions(diagnosis: Diagnosis) -> str:
    rows = "".join(map(_question, diagnosis.questions))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Question", "Answer", "Evidence", "Confidence"))
    table = f'<table class="stack questions"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return _section("questions", "Questions", table if rows else "")


def _question(row: QuestionRow) -> str:
    worth = verdict_badge(row.verdict) if row.verdict == "PROVED" else escaped(row.confidence)
    length = " long" if len(row.answer) > 60 else ""  # a sentence in bold is hard to read
    return (
        f'<tr><th scope="row">{prose(row.question)}</th><td class="answer{length}">{prose(row.answer)}</td>'
        f'<td class="why" data-label="Evidence">{prose(row.evidence)}</td>'
        f'<td data-label="Confidence">{worth}</td></tr>'
    )


def verdict_badge(verdict: str) -> str:
    """A verdict in words and colour."""
    return f'<span class="badge {escaped(verdict.split(",")[0])}">{escaped(verdict)}</span>'


def _pictures(pictures: tuple[Picture, ...]) -> str:
    return _section(
        "pictures", "Pictures", f'<div class="pictures">{"".join(map(figure, pictures))}</div>' if pictures else ""
    )


def figure(picture: Picture) -> str:
    """A picture with its title, legend and caption as one <figure>."""
    scale = scale_markup(picture.image) if picture.image is not None else ""
    return (
        f"<figure><h3>{prose(picture.title)}</h3>{legend(picture)}{scale}{draw_svg(picture)}"
        f"<figcaption>{prose(picture.caption)}</figcaption></figure>"
    )


def _others(diagnosis: Diagnosis) -> str:
    others = model.other_findings(diagnosis)
    if not others:
        return ""
    body = "".join(finding_markup(finding) for finding in others)
    return (
        '<section id="findings"><details class="more"><summary>'
        f"{len(others)} more findings that no theorem above uses</summary>{body}</details></section>"
    )


def _costs(diagnosis: Diagnosis) -> str:
    rows = "".join(
        f'<tr><th scope="row">{prose(record.question)} <span class="soft">{escaped(record.name)}</span></th>'
        f'<td data-label="Status">{escaped(record.status)}</td><td class="number" data-label="Time">'
        f"{seconds(record.actual.seconds) if record.status != 'skipped' else '—'}</td>"
        f'<td data-label="Remark">'
        f"{escaped(_remark(record))}</td></tr>"
        for record in diagnosis.analyses
    )
    line = model.costs(diagnosis)
    table = (
        '<table class="stack"><thead><tr><th scope="col">Analysis</th><th scope="col">Status</th>'
        f'<th scope="col">Time</th><th scope="col">Remark</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    return _section(
        "costs", "Costs and what was skipped", (f"<p>{escaped(line)}</p>" if line else "") + (table if rows else "")
    )


def _remark(record: AnalysisRecord) -> str:
    return (model.data_passes(record.actual) if record.status == "done" else model.not_run(record)) or "—"


def _reproduce(diagnosis: Diagnosis) -> str:
    record = diagnosis.reproducibility
    settings = diagnosis.settings
    pairs = {
        "target": settings.target,
        "optimizer": settings.optimizer,
        "schedule": settings.schedule,
        "sampling": settings.sampling,
        "start": settings.initial_law or "not said",
        "seed": str(record.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "machine": ", ".join(f"{name} {what}" for name, what in record.machine.items()),
        "created": record.created,
    }
    facts = "".join(f"<dt>{name}</dt><dd>{prose(text)}</dd>" for name, text in pairs.items() if text)
    command = f"<pre>{escaped(record.command)}</pre>" if record.command else ""
    data = "<p>The numbers behind this page, certificates included, are in <code>diagnosis.json</code> beside it.</p>"
    return _section("reproduce", "Do it again", f'{command}<dl class="facts">{facts}</dl>{data}')


def _citation(diagnosis: Diagnosis) -> str:
    items = "".join(
        f"<li>{prose(judgement.title)}: {escaped(judgement.source)}</li>" for judgement in citation.sources(diagnosis)
    )
    listed = f"<p>The theorems that this page applies:</p><ul>{items}</ul>" if items else ""
    return _section("cite", "How to cite", f"{listed}<pre>{escaped(citation.bibtex(diagnosis))}</pre>")


def _glossary(terms: tuple[glossary.Term, ...]) -> str:
    rows = "".join(f"<dt>{escaped(term.word)}</dt><dd>{prose(term.meaning)}</dd>" for term in terms)
    return _section("glossary", "Glossary", f'<dl class="glossary">{rows}</dl>' if rows else "")


def _words(diagnosis: Diagnosis) -> str:
    """The text of the page in which glossary terms are looked for."""
    verdict = diagnosis.verdict
    texts = [verdict.sentence, *verdict.evidence, verdict.next_action, verdict.predicted_effect]
    for row in diagnosis.questions:
        texts += [row.question, row.answer, row.evidence, row.verdict]
    for judgement in diagnosis.judgements:
        texts += [judgement.title, judgement.sentence, str(judgement.outcome)]
        for hypothesis in judgement.hypotheses:
            texts += [hypothesis.statement, hypothesis.reason, model.hypothesis_word(hypothesis)]
    return literal("\n".join(texts))
