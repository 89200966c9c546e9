"""The plan keeps to its budget, survives any analysis, and replays every certificate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tameopt.analysis import Analysis, Answer, Context
from tameopt.audit.plan import analyses, carry_out, plan, replayed
from tameopt.evidence import Certificate, Cost, Evidence, Finding, Scope, Verdict, measured
from tameopt.problem import Problem


@pytest.fixture
def context() -> Context:
    problem = Problem.from_function(lambda theta: theta.square().sum(), torch.ones(2, dtype=torch.float64))
    return Context(problem, None, problem.theta)


def _finding(claim: str = "F.convex") -> Finding:
    return measured(claim, "so", 1.0, method="test", error_kind="exact", scope=Scope.GLOBAL)


def analysis(name: str, seconds: float, act: Callable[[Context], Answer] | None = None, skip: str = "") -> Analysis:
    return Analysis(
        name,
        f"{name}?",
        ("F.convex",),
        lambda context: Cost(seconds=seconds),
        act or (lambda context: Answer((_finding(),))),
        lambda context: skip,
    )


def test_the_cheapest_run_first_and_the_rest_say_what_they_cost(context: Context) -> None:
    offered = (analysis("a.dear", 20.0), analysis("a.cheap", 1.0), analysis("a.middle", 5.0))
    steps = plan(context, offered, 7.0)
    assert [step.left_out == "" for step in steps] == [False, True, True]
    assert "does not reach" in steps[0].left_out and steps[0].estimated.seconds == 20.0
    assert steps[0].include == "--include a.dear"
    results = carry_out(steps, context, 7.0, lambda message: None)
    assert [record.status for record in results.records] == ["skipped", "done", "done"]
    assert len(results.findings) == 2


def test_include_and_exclude(context: Context) -> None:
    offered = (analysis("a.dear", 20.0), analysis("a.cheap", 1.0))
    steps = plan(context, offered, 7.0, include=["a.dear"], exclude=["a.cheap"])
    assert [step.left_out for step in steps] == ["", "excluded by you"]
    with pytest.raises(ValueError, match=r"'a\.chepa' is no analysis; there are a\.cheap, a\.dear"):
        plan(context, offered, 7.0, include=["a.chepa"])


def test_one_broken_analysis_costs_nothing_else(context: Context) -> None:
    def explode(context: Context) -> Answer:
        raise ZeroDivisionError("of my own making")

    offered = (analysis("a.broken", 1.0, explode), analysis("a.whole", 2.0))
    results = carry_out(plan(context, offered, 9.0), context, 9.0, lambda message: None)
    assert results.records[0].status == "internal error"
    assert "ZeroDivisionError: of my own making (test_plan.py:" in results.records[0].reason
    assert len(results.findings) == 1


def test_a_broken_estimate_or_skip_is_told_too(context: Context) -> None:
    def explode(context: Context) -> Cost:
        raise RuntimeError("no idea")

    broken = Analysis("a.broken", "?", (), explode, lambda context: Answer(()))
    results = carry_out(plan(context, (broken,), 9.0), context, 9.0, lambda message: None)
    assert results.records[0].status == "internal error"
    assert results.records[0].reason == "RuntimeError: no idea"


def test_an_undeclared_claim_is_an_internal_error(context: Context) -> None:
    offered = (analysis("a.stray", 1.0, lambda context: Answer((_finding("F.tame"),))),)
    results = carry_out(plan(context, offered, 9.0), context, 9.0, lambda message: None)
    assert results.records[0].status == "internal error"
    assert "F.tame" in results.records[0].reason


def test_ctrl_c_keeps_what_is_done(context: Context) -> None:
    def interrupt(context: Context) -> Answer:
        raise KeyboardInterrupt

    offered = (analysis("a.first", 1.0), analysis("a.second", 2.0, interrupt), analysis("a.third", 3.0))
    results = carry_out(plan(context, offered, 9.0), context, 9.0, lambda message: None)
    assert results.interrupted
    assert [record.status for record in results.records] == ["done", "interrupted", "interrupted"]
    assert len(results.findings) == 1


@pytest.mark.parametrize("checker", ["tameopt.audit.plan:analyses", "tameopt.nowhere:check", "os:system"])
def test_a_certificate_that_does_not_replay_proves_nothing(checker: str) -> None:
    evidence = Evidence(method="test", certificate=Certificate(checker, {}))
    claimed = Finding("F.convex", Verdict.PROVED, "F is convex", evidence, Scope.GLOBAL)
    found = replayed(claimed)
    assert found.verdict is Verdict.UNKNOWN
    assert "did not replay" in found.statement
    assert "bug of tameopt" in found.evidence.missing


def test_the_rooms_offer_analyses_with_names_of_their_own() -> None:
    names = [one.name for one in analyses()]
    assert len(set(names)) == len(names)
    assert all("." in name for name in names)
