"""Tame locally Lipschitz functions obey the chain rule along curves: they are path differentiable."""

from __future__ import annotations

from tameopt.theorems._hypotheses import LOCALLY_LIPSCHITZ, TAME
from tameopt.theorems._theorem import Theorem

ENTRY = Theorem(
    name="chain-rule",
    title="Tame losses are path differentiable",
    source=(
        "D. Davis, D. Drusvyatskiy, S. Kakade, J. D. Lee (2020), theorem 5.8; J. Bolte, E. Pauwels (2021) for "
        "backpropagation"
    ),
    bibtex="""@article{BoltePauwels2021,
  author = {Bolte, J{\\'e}r{\\^o}me and Pauwels, Edouard},
  title = {Conservative Set Valued Fields, Automatic Differentiation, Stochastic Gradient Methods and Deep Learning},
  journal = {Mathematical Programming}, volume = {188}, pages = {19--51}, year = {2021},
}""",
    chapter="6 Extensions to nonsmooth settings",
    hypotheses=(TAME, LOCALLY_LIPSCHITZ),
    conclusion=(
        "For every Lipschitz curve, (F o theta)' = <v, theta'> for every Clarke subgradient v, almost everywhere."
    ),
    applied="F decreases along solutions of theta' in -dF(theta) at the speed dist(0, dF)^2.",
    conclusion_claims=("F.path_differentiable", "chain_rule.along_run"),
    remark="Locally Lipschitz functions without structure can violate it at every point of a curve.",
)
