"""Corollary of the ODE method for tame losses: F(theta_k) converges and accumulation points are critical."""

from __future__ import annotations

from tameopt.theorems._hypotheses import (
    BOUNDED_VARIANCE,
    ITERATES_BOUNDED,
    STEPS_DIVERGE,
    STEPS_SQUARE_SUMMABLE,
    STOCHASTIC_GRADIENT,
    TAME,
    UNBIASED,
    smooth,
)
from tameopt.theorems._theorem import Theorem
from tameopt.theorems.ode_method import LIPSCHITZ_ON_BOUNDED_SETS

ENTRY = Theorem(
    name="tame-sgd",
    title="Stochastic gradient on a tame loss: values converge, limits are critical",
    source="M. Benaim (1999), with the tame Morse-Sard theorem; the lecture, chapter 5",
    bibtex="""@incollection{Benaim1999,
  author = {Bena{\\"\\i}m, Michel}, title = {Dynamics of Stochastic Approximation Algorithms},
  booktitle = {S{\\'e}minaire de Probabilit{\\'e}s XXXIII}, series = {Lecture Notes in Mathematics}, volume = {1709},
  pages = {1--68}, publisher = {Springer}, year = {1999},
}""",
    chapter="5 Approaching critical points with noise",
    hypotheses=(
        TAME,
        smooth(1, ""),
        LIPSCHITZ_ON_BOUNDED_SETS,
        STOCHASTIC_GRADIENT,
        UNBIASED,
        BOUNDED_VARIANCE,
        STEPS_DIVERGE,
        STEPS_SQUARE_SUMMABLE,
        ITERATES_BOUNDED,
    ),
    conclusion="Almost surely F(theta_k) converges, and every accumulation point of theta_k is critical.",
    applied="F(theta_k) converges to one critical value, and every accumulation point is critical.",
    conclusion_claims=("values.converge", "values.limit_set"),
    remark="It does not say that theta_k itself converges, nor how fast.",
)
