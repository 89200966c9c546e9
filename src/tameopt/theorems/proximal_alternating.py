"""Proximal gradient and PALM on a tame sum converge to one critical point (Bolte, Sabach, Teboulle)."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._hypotheses import BOUNDED_BELOW, ITERATES_BOUNDED, TAME, smooth
from tameopt.theorems._theorem import Hypothesis, Theorem

_STEP = "step.below_1_over_block_L"

ENTRY = Theorem(
    name="proximal-alternating",
    title="Proximal gradient and PALM on a tame sum converge to one critical point",
    source="J. Bolte, S. Sabach, M. Teboulle (2014), Theorem 1",
    bibtex="""@article{BolteSabachTeboulle2014,
  author = {Bolte, J{\\'e}r{\\^o}me and Sabach, Shoham and Teboulle, Marc},
  title = {Proximal Alternating Linearized Minimization for Nonconvex and Nonsmooth Problems},
  journal = {Mathematical Programming}, volume = {146}, pages = {459--494}, year = {2014},
}""",
    chapter="6 Extensions to nonsmooth settings",
    hypotheses=(
        BOUNDED_BELOW,
        smooth(2, ""),
        TAME,
        Hypothesis(
            "penalty.tame",
            "the penalties f_i are closed, bounded below and tame, so that F + sum f_i has the KL property",
            Scope.RUN,
        ),
        ITERATES_BOUNDED,
        Hypothesis(
            "method.proximal_gradient",
            "block by block theta_i <- prox of alpha f_i at theta_i - alpha grad_i F(theta), full batch, no inertia",
            Scope.RUN,
        ),
        Hypothesis(
            _STEP,
            "each step is alpha = 1/(gamma L_i), gamma > 1, L_i the Lipschitz constant of grad_i F in block i",
            Scope.RUN,
            limit=("<", 1.0),
        ),
    ),
    conclusion="theta_k converges to a critical point of F + sum f_i, and its trajectory has finite length.",
    applied="the iterates converge to one critical point of loss plus penalties along a path of finite length.",
    conclusion_claims=("iterates.converge", "iterates.finite_length"),
    remark=(
        "One block is proximal gradient (Attouch, Bolte, Svaiter 2013). The source asks that grad F is Lipschitz on "
        "bounded sets, as it is for C^2 F; a network with kinks is outside, because the proof compares gradients at "
        "consecutive iterates. It also asks for Lipschitz constants of each block's gradient that stay between two "
        "bounds; its proof uses of them only the descent inequality of each block step, which is what is measured. "
        "The point is critical for the sum, not for F alone. Inertial steps are another theorem's (Pock and Sabach "
        "2016)."
    ),
)
