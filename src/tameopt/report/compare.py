"""Several runs side by side: what was set differently, where each is, and what can be told between them.

Losses are compared only where they are the same function: same problem, parameters, samples and reduction. Two runs
are told apart when one is lower at every recorded step that the last fifths of their records share or, without
shared steps, when the ranges of their losses do not meet; else the difference may be fluctuation, and the sentence
says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tameopt.audit.diagnosis import Diagnosis
from tameopt.picture import Picture, Series
from tameopt.report.numbers import aligned, pretty, seconds
from tameopt.run import Run

_TAIL = 5  # our choice: the last fifth of the record says where a run is
_FEWEST = 5  # full-data losses in the tail, below which a range says too little
_ASIDE = {
    "created", "finished", "status", "steps_done", "seconds_training", "seconds_recording", "windows", "target",
    "initial_law",
}  # fmt: skip


@dataclass(frozen=True)
class Tail:
    """The full-data loss over the last fifth of a record: its range, its last value, how many values."""

    first_step: int
    last_step: int
    low: float
    high: float
    last: float
    count: int

    @property
    def span(self) -> str:
        """The range as text."""
        width = self.high - self.low
        return f"[{aligned(self.low, width, 3)}, {aligned(self.high, width, 3)}]"

    def __str__(self) -> str:
        last = aligned(self.last, self.high - self.low, 3)
        return f"{last}, range {self.span} over steps {self.first_step:,} to {self.last_step:,}"


@dataclass(frozen=True)
class Contestant:
    """One run: its name, settings, tail, and its diagnosis where it was audited."""

    name: str
    meta: dict[str, Any]
    tail: Tail | None
    losses: tuple[tuple[int, ...], tuple[float, ...]] = field(repr=False)
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class Comparison:
    """What several runs say together.

    sentence: one sentence. differing: setting -> its value in each run. rows: a question -> each run's answer.
    pairs: what can be told of each pair. picture: their losses.
    """

    sentence: str
    names: tuple[str, ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    pairs: tuple[str, ...]
    picture: Picture


def contestant(run: Run, name: str, diagnosis: Diagnosis | None) -> Contestant:
    """What of a run is compared."""
    steps, losses = run.series("full_loss")
    count = max(1, len(steps) // _TAIL)
    tail = None
    if len(steps):
        chosen = losses[-count:]
        tail = Tail(
            int(steps[-count]), int(steps[-1]), float(chosen.min()), float(chosen.max()), float(chosen[-1]), count
        )
    return Contestant(
        name,
        run.meta,
        tail,
        (tuple(int(step) for step in steps), tuple(float(loss) for loss in losses)),
        diagnosis,
    )


def compare(runs: Sequence[Contestant]) -> Comparison:
    """Compare at least two runs.

    Raises ValueError for fewer.
    """
    if len(runs) < 2:
        raise ValueError(f"compare takes at least two runs, got {len(runs)}.")
    pairs = tuple(_pair(a, b) for a, b in itertools.combinations(runs, 2))
    return Comparison(
        _sentence(runs, pairs),
        tuple(one.name for one in runs),
        _differing(runs),
        _rows(runs),
        pairs,
        _picture(runs),
    )


def _same_objective(a: Contestant, b: Contestant) -> str:
    """Why two losses are not the same function; "" when nothing says so."""
    for key, words in (("problem", "problem"), ("d", "number of parameters"), ("n", "number of samples"),
                       ("reduction", "reduction of the loss")):  # fmt: skip
        left, right = a.meta.get(key), b.meta.get(key)
        if left is not None and right is not None and left != right:
            return f"their {words} differs ({left} and {right})"
    return ""


def _shared(a: Contestant, b: Contestant) -> list[tuple[float, float]]:
    """Both losses at the recorded steps that the two tails share, where both are finite."""
    if a.tail is None or b.tail is None:
        return []
    left, right = (dict(zip(*one.losses, strict=True)) for one in (a, b))
    first = max(a.tail.first_step, b.tail.first_step)
    steps = [step for step in left if step >= first and step in right]
    both = [(left[step], right[step]) for step in steps]
    return [pair for pair in both if math.isfinite(pair[0]) and math.isfinite(pair[1])]


def _order(a: Contestant, b: Contestant) -> int | None:
    """-1 when a is lower, 1 when b is, 0 when they cannot be told apart; None when nothing can be said."""
    if _same_objective(a, b) or a.tail is None or b.tail is None:
        return None
    shared = _shared(a, b)
    if len(shared) >= _FEWEST:
        lower = [left < right for left, right in shared]
        higher = [left > right for left, right in shared]
        return -1 if all(lower) else (1 if all(higher) else 0)
    tails = (a.tail, b.tail)
    if any(math.isnan(tail.low) or math.isnan(tail.high) or tail.count < _FEWEST for tail in tails):
        return None
    return -1 if a.tail.high < b.tail.low else (1 if b.tail.high < a.tail.low else 0)


def _pair(a: Contestant, b: Contestant) -> str:
    if reason := _same_objective(a, b):
        return f"{a.name} and {b.name} cannot be compared by their losses: {reason}."
    if a.tail is None or b.tail is None:
        missing = a.name if a.tail is None else b.name
        return f"{missing} has no full-data loss on record: nothing is compared."
    order, shared = _order(a, b), _shared(a, b)
    if order is None:
        return f"{a.name} and {b.name} have too few finite full-data losses at their ends to be told apart."
    if order == 0 and len(shared) >= _FEWEST:
        count = sum(left < right for left, right in shared)
        return (
            f"{a.name} and {b.name} cannot be told apart: {a.name} is lower at {count} of the {len(shared)} recorded "
            "steps that the last fifths of both share."
        )
    if order == 0:
        return (
            f"{a.name} and {b.name} cannot be told apart: the ranges of F over the last fifth meet "
            f"({a.tail.span} and {b.tail.span})."
        )
    low, high = (a, b) if order < 0 else (b, a)
    assert low.tail is not None and high.tail is not None
    if len(shared) >= _FEWEST:
        gaps = sorted(abs(left - right) for left, right in shared)
        return (
            f"{low.name} ends lower than {high.name}: at each of the {len(shared)} recorded steps that their last "
            f"fifths share, by {pretty(gaps[0])} to {pretty(gaps[-1])}."
        )
    return (
        f"{low.name} ends lower than {high.name}: F stays in {low.tail.span} over its last fifth (to step "
        f"{low.tail.last_step:,}), {high.name} in {high.tail.span} (to step {high.tail.last_step:,})."
    )


def _sentence(runs: Sequence[Contestant], pairs: Sequence[str]) -> str:
    if len(runs) == 2:
        return pairs[0]
    lowest = [a for a in runs if all(a is b or _order(a, b) == -1 for b in runs)]
    if lowest:
        tail = lowest[0].tail
        assert tail is not None
        return f"{lowest[0].name} ends lowest: F stays in {tail.span} over its last fifth."
    return "No run ends lower than all the others beyond its fluctuation; the pairs are below."


def _text(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{key}={_text(entry)}" for key, entry in value.items() if key not in ("name", "kind"))
        head = value.get("name", value.get("kind", ""))
        if "arguments" in value and isinstance(value["arguments"], dict):
            inner = ", ".join(f"{key}={_text(entry)}" for key, entry in value["arguments"].items())
        return f"{head}({inner})" if head else inner
    if isinstance(value, float):
        return pretty(value, 4)
    return "—" if value is None or value == "" else str(value)


def _differing(runs: Sequence[Contestant]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    keys = sorted(set().union(*(one.meta for one in runs)) - _ASIDE)
    table = ((key, tuple(_text(one.meta.get(key)) for one in runs)) for key in keys)
    return tuple((key.replace("_", " "), values) for key, values in table if len(set(values)) > 1)


def _rows(runs: Sequence[Contestant]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    rows = [
        ("status", tuple(f"{one.meta.get('status', '—')} at step {one.meta.get('steps_done', '—')}" for one in runs)),
        ("F at the end", tuple(str(one.tail) if one.tail else "not recorded" for one in runs)),
        ("training time", tuple(_time(one.meta) for one in runs)),
        ("verdict", tuple(str(one.diagnosis.verdict) if one.diagnosis else "not audited yet" for one in runs)),
    ]
    answers = [{row.question: row.answer for row in one.diagnosis.questions} if one.diagnosis else {} for one in runs]
    questions = list(dict.fromkeys(question for answer in answers for question in answer))
    rows += [(question, tuple(answer.get(question, "—") for answer in answers)) for question in questions]
    return tuple(rows)


def _time(meta: dict[str, Any]) -> str:
    spent = meta.get("seconds_training")
    return seconds(float(spent)) if isinstance(spent, (int, float)) else "—"


def _picture(runs: Sequence[Contestant]) -> Picture:
    drawn = [one for one in runs if one.losses[0]]
    positive = all(loss > 0 for one in drawn for loss in one.losses[1] if math.isfinite(loss))
    return Picture(
        "compare-losses",
        "Full-data loss",
        "step k",
        "F(theta_k)",
        tuple(Series.of(one.name, one.losses[0], one.losses[1]) for one in drawn),
        y_log=positive,
        caption="F over all samples, as recorded.",
    )
