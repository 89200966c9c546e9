"""Every theorem can be used: its claims are looked at by some analysis, its citation parses, it predicts truly."""

from __future__ import annotations

import re

import pytest

from tameopt.audit.plan import analyses
from tameopt.evidence import Scope
from tameopt.theorems import Theorem, entry, names


@pytest.fixture(params=names())
def theorem(request: pytest.FixtureRequest) -> Theorem:
    return entry(request.param)


def test_some_analysis_looks_at_every_hypothesis(theorem: Theorem) -> None:
    looked_at = {claim for analysis in analyses() for claim in analysis.claims}
    for hypothesis in theorem.hypotheses:
        ways = [{hypothesis.claim}, *(set(way.claims) for way in hypothesis.implied_by)]
        assert any(way <= looked_at for way in ways), f"{theorem.name}: nothing looks at {hypothesis.claim}"


def test_the_citation_is_whole(theorem: Theorem) -> None:
    entries = re.findall(r"@(\w+)\{(\w+),", theorem.bibtex)
    assert entries
    assert theorem.bibtex.count("{") == theorem.bibtex.count("}")
    for field in ("author", "title", "year"):
        assert len(re.findall(rf"\b{field} = \{{", theorem.bibtex)) == len(entries), field
    assert re.search(r"\((1[89]|20)\d\d\)", theorem.source)


def test_words_are_sentences_and_chapters_are_the_lectures(theorem: Theorem) -> None:
    assert (theorem.applied.endswith(".") and theorem.applied[0].islower()) or theorem.applied[0] == "F"
    assert theorem.conclusion.endswith(".")
    assert re.match(r"[2-6] ", theorem.chapter)
    for hypothesis in theorem.hypotheses:
        # a reason why less is enough is asked for only where the theorem asks for everything
        assert not hypothesis.local_suffices or hypothesis.scope is Scope.GLOBAL
