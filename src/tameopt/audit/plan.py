"""Plan analyses by cost inside a budget, run them guarded, and keep what each one became."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tameopt.analysis import Analysis, Answer, Context
from tameopt.audit.diagnosis import AnalysisRecord
from tameopt.audit.findings import symptom_analyses
from tameopt.evidence import Cost, Finding, Scope, Verdict, unknown
from tameopt.picture import Picture

ROOMS = ("structure", "curvature", "dynamics", "kl", "noise", "nonsmooth")


@dataclass(frozen=True)
class Step:
    """One analysis of the plan: what it would cost, and why it is left out ("" when it runs)."""

    analysis: Analysis
    estimated: Cost
    left_out: str = ""
    include: str = ""


@dataclass(frozen=True)
class Results:
    """What the plan yielded."""

    findings: tuple[Finding, ...]
    pictures: tuple[Picture, ...]
    facts: dict[str, dict[str, object]]
    records: tuple[AnalysisRecord, ...]
    interrupted: bool


def analyses() -> tuple[Analysis, ...]:
    """Every analysis of every room, in the order of the lecture.

    Raises TypeError naming a room whose ANALYSES are not what `analysis.Analysis` says.
    """
    found: list[Analysis] = []
    for room in ROOMS:
        name = f"tameopt.{room}.findings"
        if importlib.util.find_spec(name) is None:
            continue
        offered = getattr(importlib.import_module(name), "ANALYSES", None)
        if not isinstance(offered, tuple) or not all(isinstance(one, Analysis) for one in offered):
            raise TypeError(f"{name} must define ANALYSES, a tuple of Analysis; it has {offered!r}.")
        found.extend(offered)
    return tuple(found)


def plan(
    context: Context,
    offered: Iterable[Analysis],
    budget_seconds: float,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> tuple[Step, ...]:
    """Choose analyses, cheapest first, until the budget is spent; `include` runs whatever it costs.

    A skipped one keeps its reason and its estimate. Raises ValueError for an unknown name in `include`, `exclude`.
    """
    wanted, unwanted, listed = set(include), set(exclude), tuple(offered)
    _check_names((*wanted, *unwanted), listed)
    steps: dict[str, Step] = {}
    costs: list[tuple[float, int, Analysis, Cost]] = []
    unit = _gradient_seconds(context)
    for position, one in enumerate(listed):
        if one.name in unwanted:
            steps[one.name] = Step(one, Cost(), "excluded by you")
            continue
        try:
            reason = one.skip(context)
            cost = Cost() if reason else _in_seconds(one.estimate(context), unit)
        except Exception as error:  # noqa: BLE001  one room's bug must not take the others with it
            steps[one.name] = Step(one, Cost(), f"internal error: {type(error).__name__}: {error}")
            continue
        if reason:
            steps[one.name] = Step(one, cost, reason)
            continue
        costs.append((cost.seconds, position, one, cost))
    spent = 0.0
    for seconds, _, one, cost in sorted(costs, key=lambda entry: entry[:2]):
        if one.name in wanted or spent + seconds <= budget_seconds:
            spent += seconds
            steps[one.name] = Step(one, cost)
        else:
            steps[one.name] = Step(
                one,
                cost,
                f"the budget of {budget_seconds:.3g} s does not reach",
                f"--include {one.name}",
            )
    return tuple(steps[one.name] for one in listed)


def _gradient_seconds(context: Context) -> float:
    """Seconds of one gradient of F, the unit of the estimates; the first call, which sets things up, is not it."""
    seconds = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        context.problem.gradient(context.theta)
        seconds = time.perf_counter() - begun
    return seconds


def _in_seconds(cost: Cost, unit: float) -> Cost:
    """The cost with at least the seconds that its passes take; a Hessian product is about two gradients."""
    return dataclasses.replace(cost, seconds=max(cost.seconds, unit * (cost.gradients + 2.0 * cost.hessian_products)))


def carry_out(
    steps: Iterable[Step],
    context: Context,
    budget_seconds: float,
    notify: Callable[[str], None],
    interrupted: bool = False,
) -> Results:
    """Run the plan, cheapest first. Ctrl-C ends it with what has been measured so far; `interrupted`: it came before.

    An exception inside an analysis is its internal error and costs nothing else. Every certificate is replayed once
    more: what does not replay is no proof.
    """
    listed = tuple(steps)
    records: dict[str, AnalysisRecord] = {}
    answers: dict[str, Answer] = {}
    deadline = time.perf_counter() + budget_seconds
    for step in sorted(listed, key=lambda one: one.estimated.seconds):
        name, question = step.analysis.name, step.analysis.question
        if step.left_out:
            status = "internal error" if step.left_out.startswith("internal error: ") else "skipped"
            reason = step.left_out.removeprefix("internal error: ")
            records[name] = AnalysisRecord(name, question, status, reason, step.estimated, Cost(), step.include)  # type: ignore[arg-type]
            continue
        if interrupted:
            records[name] = AnalysisRecord(name, question, "interrupted", "Ctrl-C came before it", step.estimated)
            continue
        notify(question)
        begun = time.perf_counter()
        here = dataclasses.replace(context, deadline_seconds=max(1.0, deadline - begun), notify=notify)
        status, reason, answer = _run(step.analysis, here)
        interrupted = status == "interrupted"
        spent = time.perf_counter() - begun
        cost = dataclasses.replace(answer.cost, seconds=spent)
        records[name] = AnalysisRecord(name, question, status, reason, step.estimated, cost)  # type: ignore[arg-type]
        answers[name] = answer
    # findings in the order of the lecture, whatever the order of work was
    done = [answers[step.analysis.name] for step in listed if step.analysis.name in answers]
    return Results(
        tuple(replayed(finding) for answer in done for finding in answer.findings),
        tuple(picture for answer in done for picture in answer.pictures),
        {
            step.analysis.name: answers[step.analysis.name].facts
            for step in listed
            if step.analysis.name in answers and answers[step.analysis.name].facts
        },
        tuple(records[step.analysis.name] for step in listed),
        interrupted,
    )


def conduct(
    context: Context,
    budget_seconds: float,
    include: Iterable[str],
    exclude: Iterable[str],
    notify: Callable[[str], None],
) -> Results:
    """Plan and run the rooms' analyses, then the symptoms, which read what the rooms found.

    Raises ValueError for an unknown name in `include` or `exclude`.
    """
    rooms = analyses()
    check_names((*include, *exclude))
    begun = time.perf_counter()
    steps = plan(context, rooms, budget_seconds, _among(include, rooms), _among(exclude, rooms))
    first = carry_out(steps, context, budget_seconds, notify)
    # symptoms are cheap and decide the verdict: they get a fifth of the budget even when the rooms overran theirs
    left = max(budget_seconds / 5, budget_seconds - (time.perf_counter() - begun))
    symptoms = symptom_analyses(first.findings)
    steps = plan(context, symptoms, left, _among(include, symptoms), _among(exclude, symptoms))
    second = carry_out(steps, context, left, notify, interrupted=first.interrupted)
    return Results(
        first.findings + second.findings,
        first.pictures + second.pictures,
        {**first.facts, **second.facts},
        first.records + second.records,
        first.interrupted or second.interrupted,
    )


def _among(names: Iterable[str], offered: Iterable[Analysis]) -> list[str]:
    known = {one.name for one in offered}
    return [name for name in names if name in known]


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError, with the nearest name, for one that is no analysis of the audit."""
    _check_names(names, (*analyses(), *symptom_analyses(())))


def _check_names(names: Iterable[str], offered: Iterable[Analysis]) -> None:
    known = {one.name for one in offered}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name!r} is no analysis; there are {', '.join(sorted(known))}.{hint}")


def _run(analysis: Analysis, context: Context) -> tuple[str, str, Answer]:
    try:
        answer = analysis.analyse(context)
    except KeyboardInterrupt:
        return "interrupted", "Ctrl-C came while it ran", Answer(())
    except Exception as error:  # noqa: BLE001  reported as our bug, with its type; the other analyses go on
        where = _place(error)
        return "internal error", f"{type(error).__name__}: {error}{where}", Answer(())
    stray = {finding.claim for finding in answer.findings} - set(analysis.claims)
    if stray:
        return "internal error", f"it yields findings about {sorted(stray)} that it does not declare", answer
    return "done", "", answer


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"


def replayed(finding: Finding) -> Finding:
    """The finding, its certificate replayed; UNKNOWN when its own checker rejects or cannot read it."""
    certificate = finding.evidence.certificate
    if finding.verdict is not Verdict.PROVED or certificate is None:
        return finding
    try:
        accepted, why = certificate.replay(), "its checker rejects it"
    except Exception as error:  # noqa: BLE001  a certificate that cannot be checked proves nothing
        accepted, why = False, f"{type(error).__name__}: {error}"
    if accepted:
        return finding
    return unknown(
        finding.claim,
        f"{finding.statement} (not proved: the certificate did not replay, {why})",
        missing=f"a certificate that {certificate.checker} accepts; please report this as a bug of tameopt",
        method=finding.evidence.method,
        scope=Scope(finding.scope),
    )
