"""A diagnosis on the terminal: the verdict first, then questions, theorems, costs and what was skipped.

Short by default, so that the verdict stays on the screen; `full` prints what lies beneath each line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tameopt import __version__
from tameopt.audit.diagnosis import Diagnosis
from tameopt.evidence import Outcome
from tameopt.report import model
from tameopt.report.citation import TELLING
from tameopt.report.model import Level
from tameopt.report.text import literal

if TYPE_CHECKING:
    from tameopt.theorems._judgement import Judgement

_LEVEL_STYLE = {
    Level.FINE: "bold green",
    Level.UNDECIDED: "bold cyan",
    Level.WARNING: "bold yellow",
    Level.PROBLEM: "bold red",
}
_VERDICT_STYLE = {"PROVED": "green", "MEASURED": "cyan", "REFUTED": "red", "UNKNOWN": "yellow"}
_SHORT = 44  # letters that fit a quarter of a wide terminal on two lines
_OUTCOME_STYLE = {
    Outcome.APPLIES: "bold green",
    Outcome.AS_MEASURED: "bold cyan",
    Outcome.LOCALLY: "bold cyan",
    Outcome.UNDECIDED: "yellow",
    Outcome.FAILS: "dim",
}


def render(diagnosis: Diagnosis, report_path: str = "", full: bool = False) -> RenderableType:
    """The diagnosis as one rich renderable.

    report_path: of the HTML report, shown at the end. full: the evidence of each answer and every theorem with its
    hypotheses, rather than one line each.
    """
    parts: list[RenderableType] = [_head(diagnosis), Text(), _verdict(diagnosis)]
    if diagnosis.bugs:
        parts += [Text(), *(Text(literal(f"BUG OF TAMEOPT  {bug}"), "bold red") for bug in diagnosis.bugs)]
    if diagnosis.questions:
        parts += [Text(), Padding(_questions(diagnosis, full), (0, 0, 0, 1))]
    if full:
        for group in model.ledger(diagnosis):
            for judgement in group.judgements:
                parts += [Text(), Padding(_theorem(judgement), (0, 0, 0, 1))]
    else:
        parts += _theorems_briefly(diagnosis)
    parts += [Text(), *_foot(diagnosis, report_path, full)]
    return Group(*parts)


def show(diagnosis: Diagnosis, console: Console, report_path: str = "", full: bool = False) -> None:
    """Print the diagnosis on a console."""
    console.print(render(diagnosis, report_path, full))


def _head(diagnosis: Diagnosis) -> Text:
    line = Text(f"tameopt {__version__}", "dim")
    line.append(f"  {literal(model.title(diagnosis))}", "bold not dim")
    return line.append("   ".join(["", *(literal(piece) for piece in model.subject(diagnosis))]))


def _verdict(diagnosis: Diagnosis) -> RenderableType:
    verdict = diagnosis.verdict
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row(
        Text(literal(verdict.title), _LEVEL_STYLE[model.level(diagnosis)]),
        Text(literal(verdict.sentence), "bold"),
    )
    for sentence in verdict.evidence:
        table.add_row("", Text(literal(sentence)))
    if verdict.next_action:
        table.add_row("", Text("Next: ", "bold").append(literal(model.next_step(diagnosis)), "not bold"))
    for kind, sentence in verdict.also:
        table.add_row("", Text(f"Also ({literal(kind)}): ", "dim").append(literal(sentence), "not dim"))
    if verdict.confidence != "high":
        table.add_row("", Text(f"Confidence: {verdict.confidence}", "dim"))
    for note in diagnosis.notes:
        table.add_row("", Text(literal(note), "yellow"))
    return table


def _questions(diagnosis: Diagnosis, full: bool) -> Table:
    # short answers stand beside their evidence; sentences get the width, with the evidence, if wanted, under them
    short = all(len(row.answer) <= _SHORT and len(row.evidence) <= _SHORT for row in diagnosis.questions)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("Question", ratio=2)
    table.add_column("Answer", ratio=5)
    if short:
        table.add_column("Evidence", ratio=5)
    table.add_column("Confidence", no_wrap=True)
    for row in diagnosis.questions:
        proof = row.verdict == "PROVED"
        worth = Text(row.verdict, _VERDICT_STYLE["PROVED"]) if proof else Text(row.confidence)
        question, answer, why = Text(literal(row.question)), Text(literal(row.answer)), Text(literal(row.evidence))
        if short:
            answer.stylize("bold")
            table.add_row(question, answer, why, worth)
        else:
            why.stylize("dim")
            table.add_row(question, Group(answer, why) if full else answer, worth)
    return table


def _theorem(judgement: Judgement) -> RenderableType:
    head = Text("Theorem: ", "dim").append(literal(judgement.title), "bold not dim")
    head.append(f"   {str(judgement.outcome).upper()}", _OUTCOME_STYLE[judgement.outcome])
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(ratio=5)
    table.add_column(no_wrap=True)
    table.add_column(ratio=7)
    for hypothesis in judgement.hypotheses:
        style = _VERDICT_STYLE[str(hypothesis.verdict)]
        table.add_row(
            Text(literal(hypothesis.statement)),
            Text(model.hypothesis_word(hypothesis), style),
            Text(literal(hypothesis.reason)),
        )
    parts: list[RenderableType] = [head, Padding(table, (0, 0, 0, 2))]
    if judgement.sentence:
        parts.append(Padding(Text("so: ", "dim").append(literal(judgement.sentence), "not dim"), (0, 0, 0, 2)))
    for prediction in judgement.predictions:
        agrees = {True: "agrees", False: "DISAGREES", None: "cannot tell"}[prediction.agrees]
        line = Text(literal(f"{prediction.what}: predicted {prediction.predicted}, observed {prediction.observed}"))
        line.append(f" ({agrees})", "red" if prediction.agrees is False else "dim")
        parts.append(Padding(line, (0, 0, 0, 2)))
    return Group(*parts)


def _theorems_briefly(diagnosis: Diagnosis) -> list[RenderableType]:
    """One line for each theorem that says something about this run, and how many do not."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    silent = []
    for group in model.ledger(diagnosis):
        if group.outcome not in TELLING:
            many = len(group.judgements) > 1
            word = "do not apply" if many and group.outcome is Outcome.FAILS else str(group.outcome)
            silent.append(f"{len(group.judgements)} {word}")
            continue
        for judgement in group.judgements:
            line = Text(literal(judgement.title))
            if any(prediction.agrees is False for prediction in judgement.predictions):
                line.append("  a prediction DISAGREES", "red")
            table.add_row(Text(str(group.outcome), _OUTCOME_STYLE[group.outcome]), line)
    parts: list[RenderableType] = []
    if table.rows or silent:
        parts += [Text(), Padding(Text("Theorems", "dim"), (0, 0, 0, 1))]
    if table.rows:
        parts.append(Padding(table, (0, 0, 0, 1)))
    if silent:
        parts.append(Padding(Text(f"others: {', '.join(silent)} (--full says why)", "dim"), (0, 0, 0, 1)))
    return parts


def _foot(diagnosis: Diagnosis, report_path: str, full: bool) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if cost := model.costs(diagnosis):
        lines.append(Text(f" cost: {cost}", "dim"))
    missing = [record for record in diagnosis.analyses if record.status in ("skipped", "interrupted")]
    # what would cost too much, or was cut short, can still be asked for; what does not fit this problem cannot
    told = [one for one in missing if full or one.include or one.status == "interrupted"]
    lines += [Text(literal(f" {one.status}: {one.name} ({model.not_run(one)})"), "dim") for one in told]
    if len(told) < len(missing):
        names = ", ".join(one.name for one in missing if one not in told)
        lines.append(Text(literal(f" not for this run: {names}"), "dim"))
    if report_path:
        lines.append(Text(" report: ", "dim").append(literal(report_path), "bold not dim"))
    return lines
