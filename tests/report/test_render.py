"""One diagnosis in four renderings: nothing is upgraded, dropped or run, whatever its names are."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tameopt.audit.diagnosis import KINDS, Diagnosis
from tameopt.evidence import Verdict
from tameopt.picture import Picture, Series
from tameopt.report import Level, dumps, level, render, save_html, to_html, to_markdown, to_notebook
from tameopt.report.citation import TELLING, bibtex

VOID = {"meta", "br", "link", "img", "input", "hr", "rect", "path", "image", "use"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[2J\u202e|`*_[x](javascript:1)"


class _Page(HTMLParser):
    """Tags balance; every tag and attribute is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _page(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def _terminal(diagnosis: Diagnosis, width: int = 120, colour: bool = False, full: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour, no_color=not colour, markup=False)
    console.print(render(diagnosis, "runs/x/report.html", full))
    return stream.getvalue()


def _hostile(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with hostile text in every string that can hold any."""

    def poison(thing: object, key: str = "") -> object:
        if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
            keep = {"kind", "claim", "checker", "status", "confidence", "style", "theorem", "verdict"}
            changed = {
                field.name: poison(getattr(thing, field.name), field.name)
                for field in dataclasses.fields(thing)
                if field.name not in keep or not isinstance(getattr(thing, field.name), str)
            }
            return dataclasses.replace(thing, **changed)
        if isinstance(thing, tuple):
            return tuple(poison(entry) for entry in thing)
        if isinstance(thing, dict):
            return {name: poison(entry) for name, entry in thing.items()}
        return thing + HOSTILE if isinstance(thing, str) else thing

    changed = poison(dataclasses.replace(diagnosis, findings=(), judgements=diagnosis.judgements[:2]))
    assert isinstance(changed, Diagnosis)
    return changed


def test_the_page_is_one_file_that_asks_for_nothing(diagnosis: Diagnosis, tmp_path: Path) -> None:
    path = save_html(diagnosis, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = _page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        for name in ("src", "href", "srcset", "data", "action"):
            where = attributes.get(name)
            assert where is None or where.startswith(("#", "data:image/png;base64,")), (tag, where)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert not (tmp_path / "report.html.half").exists()
    assert len(text.encode()) < 300_000


def test_the_verdict_comes_first_everywhere(diagnosis: Diagnosis) -> None:
    shown = _terminal(diagnosis)
    assert shown.index("NOISE FLOOR") < shown.index("Question")
    assert "Next: Halve the step: lr 0.05 -> 0.025. The floor should fall about twofold." in shown
    page = to_html(diagnosis)
    assert page.index("<h1>The loss has stopped falling") < page.index("<table")
    assert to_markdown(diagnosis).startswith("## NOISE FLOOR: The loss has stopped falling at this step size.\n")


def test_no_rendering_upgrades_a_verdict(diagnosis: Diagnosis) -> None:
    hypotheses = [one for judgement in diagnosis.judgements for one in judgement.hypotheses]
    proved = sum(one.verdict is Verdict.PROVED for one in hypotheses)
    shown = [one for one in hypotheses for _ in one.findings]
    page = to_html(diagnosis)
    for verdict in Verdict:
        expected = sum(one.verdict is verdict for one in hypotheses)
        expected += sum(f.verdict is verdict for one in hypotheses for f in one.findings)
        expected += sum(
            f.verdict is verdict for f in diagnosis.findings if not any(f in one.findings for one in shown)
        )
        expected += sum(row.verdict == verdict.value == "PROVED" for row in diagnosis.questions)
        assert page.count(f'class="badge {verdict}"') == expected
    rows = sum(row.verdict == "PROVED" for row in diagnosis.questions)
    assert to_markdown(diagnosis).count("| PROVED |") == proved + rows


def test_every_hypothesis_opens_on_its_evidence(diagnosis: Diagnosis) -> None:
    page = to_html(diagnosis)
    assert page.count('<details class="hypothesis"') == sum(len(one.hypotheses) for one in diagnosis.judgements)
    assert "95% interval [12.8, 13.4], sample size 24" in page
    assert "tameopt.noise.series_checker:check" in page
    assert "model.py:12: relu" in page
    assert "the infimum of F" in page


def test_hostile_names_stay_text(diagnosis: Diagnosis) -> None:
    bad = _hostile(diagnosis)
    page = _page(to_html(bad))
    for tag, attributes in page.tags:
        assert tag not in ("script", "img")
        assert not any(name.startswith("on") for name in attributes)
    assert any("<script>alert(1)</script>" in piece for piece in page.text)
    for text in (to_html(bad), _terminal(bad), to_markdown(bad), to_notebook(bad)):
        assert "\x1b" not in text and "\u202e" not in text
    from markdown_it import MarkdownIt

    rendered = _page(MarkdownIt("commonmark").enable("table").render(to_markdown(bad)))
    assert {tag for tag, _ in rendered.tags} & {"script", "img", "a"} == set()


def test_markdown_tables_keep_their_columns(diagnosis: Diagnosis) -> None:
    for line in to_markdown(_hostile(diagnosis)).splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_fits_any_width(diagnosis: Diagnosis, width: int) -> None:
    shown = _terminal(diagnosis, width, full=True)
    assert max(map(len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    assert "\x1b[" in _terminal(diagnosis, colour=True)


def test_what_was_skipped_says_what_it_would_cost(diagnosis: Diagnosis) -> None:
    line = "kl.ntk (n=1,797 is large; would take 41 s; --include kl.ntk)"
    assert line in " ".join(_terminal(diagnosis).split())
    assert "would take 41 s; --include kl.ntk" in to_html(diagnosis)
    assert "would take 41 s; --include kl.ntk" in to_markdown(diagnosis)


def test_our_own_errors_are_loud(diagnosis: Diagnosis) -> None:
    broken = dataclasses.replace(
        diagnosis,
        analyses=(dataclasses.replace(diagnosis.analyses[0], status="internal error", reason="KeyError: 'x'"),),
    )
    assert level(broken) is Level.PROBLEM
    assert "BUG OF TAMEOPT  curvature.lipschitz: KeyError: 'x'" in _terminal(broken)
    assert "An error of tameopt itself" in to_html(broken)
    assert "An error of tameopt itself" in to_markdown(broken)


def test_every_kind_has_a_level_and_renders(diagnosis: Diagnosis) -> None:
    for kind, title in KINDS.items():
        verdict = dataclasses.replace(diagnosis.verdict, kind=kind, title=title)
        one = dataclasses.replace(diagnosis, verdict=verdict, judgements=())
        assert isinstance(level(one), Level)
        assert title in _terminal(one)


def test_a_page_with_large_pictures_stays_small(diagnosis: Diagnosis) -> None:
    many = list(range(10_000))
    heavy = Picture("h", "h", "x", "y", tuple(Series.of(f"s{i}", many, many, "points") for i in range(6)))
    lines = Picture("l", "l", "x", "y", tuple(Series.of(f"s{i}", many, many) for i in range(6)))
    page = to_html(dataclasses.replace(diagnosis, pictures=(heavy, lines) * 4))
    assert len(page.encode()) < 3_000_000


def test_json_is_strict(diagnosis: Diagnosis) -> None:
    text = dumps({"d": diagnosis.findings[2], "bad": [float("nan"), float("inf")], "verdict": Verdict.PROVED})
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["bad"] == ["NaN", "Infinity"]
    assert data["d"]["evidence"]["interval"] == [12.8, 13.4]
    with pytest.raises(TypeError, match="JSON needs plain data, got object: convert it"):
        dumps({"x": object()})


def test_the_citation_names_each_source_once(diagnosis: Diagnosis) -> None:
    text = bibtex(diagnosis)
    keys = re.findall(r"^@\w+\{([^,]+),", text, flags=re.MULTILINE)
    assert keys[0] == "tameopt"
    assert len(keys) == len(set(keys))


def test_a_page_in_a_folder_that_is_not_there_is_refused(diagnosis: Diagnosis, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="make it first"):
        save_html(diagnosis, tmp_path / "missing" / "page.html")


def test_the_terminal_is_short_unless_full(diagnosis: Diagnosis) -> None:
    short, full = _terminal(diagnosis), _terminal(diagnosis, full=True)
    assert short.count("\n") < 0.75 * full.count("\n")
    telling = [one for one in diagnosis.judgements if one.outcome in TELLING]
    for one in telling:
        assert one.title[:40] in short
    for one in diagnosis.judgements:
        assert one.title[:40] in full
    if len(telling) < len(diagnosis.judgements):
        assert "--full says why" in short
