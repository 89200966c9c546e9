"""The stochastic subgradient method converges on tame functions (Davis, Drusvyatskiy, Kakade, Lee)."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._hypotheses import (
    BOUNDED_VARIANCE,
    ITERATES_BOUNDED,
    LOCALLY_LIPSCHITZ,
    STEPS_DIVERGE,
    STEPS_SQUARE_SUMMABLE,
    STOCHASTIC_GRADIENT,
    TAME,
    UNBIASED,
)
from tameopt.theorems._theorem import Hypothesis, Theorem

ENTRY = Theorem(
    name="stochastic-subgradient-tame",
    title="The stochastic subgradient method on tame functions",
    source="D. Davis, D. Drusvyatskiy, S. Kakade, J. D. Lee (2020), corollary 5.9",
    bibtex="""@article{DavisDrusvyatskiyKakadeLee2020,
  author = {Davis, Damek and Drusvyatskiy, Dmitriy and Kakade, Sham and Lee, Jason D.},
  title = {Stochastic Subgradient Method Converges on Tame Functions},
  journal = {Foundations of Computational Mathematics}, volume = {20}, pages = {119--154}, year = {2020},
}""",
    chapter="6 Extensions to nonsmooth settings",
    hypotheses=(
        TAME,
        LOCALLY_LIPSCHITZ,
        Hypothesis(
            "F.autodiff",
            "v_k is an element of a conservative gradient of F (the Clarke subdifferential is one)",
        ),
        STOCHASTIC_GRADIENT,
        UNBIASED,
        BOUNDED_VARIANCE,
        Hypothesis("step.positive", "alpha_k > 0", Scope.RUN),
        STEPS_DIVERGE,
        STEPS_SQUARE_SUMMABLE,
        ITERATES_BOUNDED,
    ),
    conclusion=(
        "Almost surely F(theta_k) converges, and 0 belongs to the (conservative) gradient at every "
        "accumulation point."
    ),
    applied="F(theta_k) converges, and every accumulation point is critical for the gradient that backprop computes.",
    conclusion_claims=("values.converge", "values.limit_set"),
    remark=(
        "Critical for backprop's conservative gradient: for almost every start and step this is Clarke "
        "critical (Bolte, "
        "Pauwels 2021). It does not say that theta_k converges."
    ),
)
