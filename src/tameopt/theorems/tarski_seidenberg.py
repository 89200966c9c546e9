"""Tarski-Seidenberg, as the lecture uses it: what is built from a semialgebraic loss is semialgebraic."""

from __future__ import annotations

from tameopt.theorems._theorem import Hypothesis, Theorem

ENTRY = Theorem(
    name="tarski-seidenberg",
    title="Projections of semialgebraic sets are semialgebraic",
    source="A. Tarski (1951); A. Seidenberg (1954); M. Coste (2002), theorem 2.3",
    bibtex="""@book{Coste2002,
  author = {Coste, Michel}, title = {An Introduction to Semialgebraic Geometry},
  publisher = {Istituti editoriali e poligrafici internazionali}, address = {Pisa}, year = {2002},
}""",
    chapter="3 On the structure of deep learning training loss",
    hypotheses=(Hypothesis("F.semialgebraic", "F is semialgebraic"),),
    conclusion=(
        "Whatever a first-order formula defines from F is semialgebraic: its derivatives, its set of "
        "critical points, "
        "its sublevel sets."
    ),
    applied=(
        "the derivatives, critical set and sublevel sets of F are semialgebraic; along any segment F is monotone on "
        "finitely many pieces."
    ),
    conclusion_claims=("F.tame",),
    remark="An exponential or logarithm in the loss leaves this class; tame geometry (Wilkie 1996) takes its place.",
)
