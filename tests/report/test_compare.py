"""Comparisons claim an order only where the records show one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tameopt.report.compare import Contestant, compare, contestant
from tameopt.report.html import comparison_html
from tameopt.run import Run


def _run(folder: Path, name: str, losses: list[float], steps: list[int] | None = None, **meta: object) -> Contestant:
    settings = {"problem": "p", "d": 3, "n": 9, "optimizer": {"name": "SGD", "arguments": {"lr": 0.1}}, **meta}
    with Run.create(folder / name, settings) as run:
        run.record_many(steps or range(len(losses)), {"full_loss": losses})
        return contestant(run, name, None)


def test_a_run_that_is_lower_at_every_shared_step_ends_lower(tmp_path: Path) -> None:
    falling = [10.0 / (k + 1) for k in range(50)]
    a = _run(tmp_path, "a", falling)
    b = _run(tmp_path, "b", [loss + 0.01 for loss in falling])
    found = compare([b, a])
    assert found.sentence.startswith("a ends lower than b: at each of the 10 recorded steps")
    assert "by 0.01 to 0.01" in found.sentence


def test_fluctuating_runs_are_not_told_apart(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 60))
    a, b = (_run(tmp_path, name, (1 + 0.1 * row).tolist()) for name, row in zip("ab", noise, strict=True))
    assert "a and b cannot be told apart" in compare([a, b]).sentence


def test_runs_of_different_lengths_are_compared_by_their_ranges(tmp_path: Path) -> None:
    a = _run(tmp_path, "a", [2.0] * 25 + [1.0] * 25)
    b = _run(tmp_path, "b", [3.0] * 80, list(range(100, 180)))
    assert "a ends lower than b: F stays in [1, 1] over its last fifth (to step 49)" in compare([a, b]).sentence
    c = _run(tmp_path, "c", [0.5, 3.5] * 40, list(range(200, 280)))
    assert "cannot be told apart: the ranges of F" in compare([b, c]).sentence


@pytest.mark.parametrize(("key", "value"), [("problem", "q"), ("d", 4), ("n", 10), ("reduction", "sum")])
def test_different_functions_are_not_compared(tmp_path: Path, key: str, value: object) -> None:
    a = _run(tmp_path, "a", [1.0] * 50, reduction="mean")
    b = _run(tmp_path, "b", [2.0] * 50, **{"reduction": "mean", key: value})
    assert "cannot be compared by their losses" in compare([a, b]).sentence
    assert "ends lower" not in compare([a, b]).sentence


def test_nan_and_short_records_decide_nothing(tmp_path: Path) -> None:
    a = _run(tmp_path, "a", [1.0] * 49 + [float("nan")])
    b = _run(tmp_path, "b", [float("nan")] * 50)
    short = _run(tmp_path, "short", [0.1, 0.1])
    none = _run(tmp_path, "none", [])
    assert "too few finite" in compare([a, b]).sentence
    assert "too few finite" in compare([a, short]).sentence
    assert "none has no full-data loss on record" in compare([a, none]).sentence
    with pytest.raises(ValueError, match="compare takes at least two runs, got 1"):
        compare([a])


def test_of_three_the_lowest_is_named_only_when_it_beats_both(tmp_path: Path) -> None:
    a, b, c = (_run(tmp_path, name, [level] * 50) for name, level in (("a", 1.0), ("b", 2.0), ("c", 3.0)))
    assert compare([c, a, b]).sentence.startswith("a ends lowest")
    other = _run(tmp_path, "other", [0.1] * 50, problem="q")
    assert compare([a, b, other]).sentence.startswith("No run ends lower than all the others")
    assert len(compare([a, b, c]).pairs) == 3


def test_what_was_set_differently_is_listed(tmp_path: Path) -> None:
    a = _run(tmp_path, "a", [1.0] * 50)
    b = _run(tmp_path, "<b>", [1.0] * 50, optimizer={"name": "Adam", "arguments": {"lr": 0.001}})
    found = compare([a, b])
    assert found.differing == (("optimizer", ("SGD(lr=0.1)", "Adam(lr=0.001)")),)
    page = comparison_html(found)
    assert "Adam(lr=0.001)" in page and "<b>" not in page.split("</style>")[1].replace("<b>Next", "")
