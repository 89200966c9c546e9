"""The one-sentence verdict: which kind of long-run behaviour the findings and the record show, and what to do next.

The first kind that matches, in the order below, is the verdict; the others are told as "also". What is broken comes
before what has arrived, what has arrived before what is going on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tameopt.analysis import Context
from tameopt.audit import kinds_broken as broken
from tameopt.audit import kinds_going as going
from tameopt.audit.diagnosis import KINDS, TrainingVerdict
from tameopt.audit.scene import Candidate, Scene
from tameopt.evidence import Finding

_ORDER: tuple[Callable[[Scene], Candidate | None], ...] = (
    broken.not_trained,
    broken.diverged,
    broken.resume_jump,
    broken.dead_units,
    broken.chance_level,
    broken.late_rise,
    going.strict_saddle,
    going.step_too_large,
    going.converged,
    going.kink,
    broken.spikes,
    going.oscillation,
    broken.epoch_steps,
    going.step_too_small,
    going.plateau,
    going.noise_floor,
    going.converging,
)


def decide(
    context: Context, findings: Iterable[Finding], facts: Mapping[str, Mapping[str, Any]] | None = None
) -> TrainingVerdict:
    """The verdict on a run, from the findings about it, the facts of the analyses, and its record."""
    scene = Scene(context, tuple(findings), facts or {})
    matched = [candidate for look in _ORDER if (candidate := look(scene)) is not None]
    best = matched[0] if matched else going.undecided(scene)
    others = {other.kind: other.sentence for other in matched[1:] if other.kind != best.kind}
    return TrainingVerdict(
        kind=best.kind,
        title=KINDS[best.kind],
        sentence=best.sentence,
        evidence=best.evidence,
        confidence=best.confidence,
        next_action=best.next_action,
        predicted_effect=best.predicted_effect,
        also=tuple(others.items()),
    )
