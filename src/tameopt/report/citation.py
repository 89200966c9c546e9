"""How to cite a diagnosis: tameopt itself, and the theorems that say something about the run."""

from __future__ import annotations

from tameopt import __version__
from tameopt.audit.diagnosis import Diagnosis
from tameopt.evidence import Outcome
from tameopt.theorems._judgement import Judgement


def tameopt_bibtex() -> str:
    """BibTeX of this version of tameopt."""
    return (
        "@software{tameopt,\n"
        "  title   = {tameopt: optimizers for deep learning, and where a training run is going and why},\n"
        "  author  = {{The tameopt authors}},\n"
        f"  version = {{{__version__}}},\n"
        "  year    = {2026}\n"
        "}"
    )


TELLING = (Outcome.APPLIES, Outcome.AS_MEASURED, Outcome.LOCALLY)


def sources(diagnosis: Diagnosis) -> tuple[Judgement, ...]:
    """The theorems whose conclusions the report states for this run."""
    return tuple(judgement for judgement in diagnosis.judgements if judgement.outcome in TELLING)


def bibtex(diagnosis: Diagnosis) -> str:
    """BibTeX of tameopt and of those theorems that this tameopt knows, each entry once."""
    from tameopt import catalogue

    known = catalogue.entries("tameopt.theorems")
    found = [tameopt_bibtex()]
    for judgement in sources(diagnosis):
        theorem = known.get(judgement.theorem)
        for item in theorem.bibtex.strip().split("\n\n") if theorem is not None else ():
            if item and item not in found:
                found.append(item)
    return "\n\n".join(found)
