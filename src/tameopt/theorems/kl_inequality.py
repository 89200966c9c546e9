"""The Kurdyka-Lojasiewicz inequality holds for tame functions."""

from __future__ import annotations

from tameopt.theorems._hypotheses import LOCALLY_LIPSCHITZ, TAME
from tameopt.theorems._theorem import Theorem

ENTRY = Theorem(
    name="kl-inequality",
    title="Tame functions satisfy the Kurdyka-Lojasiewicz inequality",
    source=(
        "S. Lojasiewicz (1963); K. Kurdyka (1998); J. Bolte, A. Daniilidis, A. Lewis, M. Shiota "
        "(2007) for "
        "nonsmooth F"
    ),
    bibtex="""@article{Kurdyka1998,
  author = {Kurdyka, Krzysztof}, title = {On Gradients of Functions Definable in o-minimal Structures},
  journal = {Annales de l'Institut Fourier}, volume = {48}, number = {3}, pages = {769--783}, year = {1998},
}""",
    chapter="4 Convergence to critical points for tame functions",
    hypotheses=(TAME, LOCALLY_LIPSCHITZ),
    conclusion=(
        "Near every point there are a concave phi with phi(0) = 0, phi' > 0 such that phi'(F - F_bar) "
        "dist(0, dF) >= 1 "
        "where F > F_bar."
    ),
    applied="F can be desingularised near every point: no valley of F winds for ever.",
    conclusion_claims=("F.kl",),
    remark="The theorem gives phi no number: exponent and constant are measured apart (kl.exponent).",
)
