"""The ODE method: the interpolated stochastic gradient process follows the gradient flow (Ljung, Benaim)."""

from __future__ import annotations

from tameopt.theorems._hypotheses import (
    BOUNDED_VARIANCE,
    ITERATES_BOUNDED,
    STEPS_DIVERGE,
    STEPS_SQUARE_SUMMABLE,
    STOCHASTIC_GRADIENT,
    UNBIASED,
    smooth,
)
from tameopt.theorems._theorem import Hypothesis, Implication, Theorem

LIPSCHITZ_ON_BOUNDED_SETS = Hypothesis(
    "gradient.lipschitz",
    "grad F is Lipschitz (on the bounded set of the iterates)",
    implied_by=(Implication(("F.C2",), "a C^2 function has a Lipschitz gradient on every bounded set"),),
)

ENTRY = Theorem(
    name="ode-method",
    title="The stochastic gradient process follows the gradient flow",
    source="L. Ljung (1977); M. Benaim (1996), and section 4 of Benaim (1999)",
    bibtex="""@article{Benaim1996,
  author = {Bena{\\"\\i}m, Michel}, title = {A Dynamical System Approach to Stochastic Approximations},
  journal = {SIAM Journal on Control and Optimization}, volume = {34}, number = {2}, pages = {437--472},
  year = {1996},
}
@article{Ljung1977,
  author = {Ljung, Lennart}, title = {Analysis of Recursive Stochastic Algorithms},
  journal = {IEEE Transactions on Automatic Control}, volume = {22}, number = {4}, pages = {551--575}, year = {1977},
}""",
    chapter="5 Approaching critical points with noise",
    hypotheses=(
        smooth(1, ""),
        LIPSCHITZ_ON_BOUNDED_SETS,
        STOCHASTIC_GRADIENT,
        UNBIASED,
        BOUNDED_VARIANCE,
        STEPS_DIVERGE,
        STEPS_SQUARE_SUMMABLE,
        ITERATES_BOUNDED,
    ),
    conclusion="For every T, sup over s <= T of norm(w(t + s) - S(w(t), s)) tends to 0 as t grows.",
    applied="in the long run the interpolated process w shadows solutions of theta' = -grad F(theta).",
    conclusion_claims=("ode.pseudo_trajectory",),
    remark="A constant step never satisfies sum alpha_k^2 < infinity: then the process only stays near the flow.",
)
