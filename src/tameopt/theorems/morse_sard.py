"""Morse-Sard for tame functions: finitely many critical values."""

from __future__ import annotations

from tameopt.theorems._hypotheses import LOCALLY_LIPSCHITZ, TAME
from tameopt.theorems._theorem import Theorem

ENTRY = Theorem(
    name="morse-sard",
    title="A tame function has finitely many critical values",
    source="J. Bolte, A. Daniilidis, A. Lewis, M. Shiota (2007), the Morse-Sard corollary",
    bibtex="""@article{BolteDaniilidisLewisShiota2007,
  author = {Bolte, J{\\'e}r{\\^o}me and Daniilidis, Aris and Lewis, Adrian and Shiota, Masahiro},
  title = {Clarke Subgradients of Stratifiable Functions}, journal = {SIAM Journal on Optimization},
  volume = {18}, number = {2}, pages = {556--572}, year = {2007},
}""",
    chapter="3 On the structure of deep learning training loss",
    hypotheses=(TAME, LOCALLY_LIPSCHITZ),
    conclusion="The set of (Clarke) critical values of F is finite.",
    applied="F takes only finitely many values at its (Clarke) critical points.",
    conclusion_claims=("F.critical_values_finite",),
    remark=(
        "It bounds neither how many there are nor where they lie. Critical points themselves need not be isolated."
    ),
)
