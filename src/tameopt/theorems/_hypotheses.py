"""Hypotheses that several theorems share, each written once with the reason why a local form is enough."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._theorem import Hypothesis, Implication

TAME = Hypothesis(
    "F.tame",
    "F is tame (definable in an o-minimal structure)",
    implied_by=(Implication(("F.semialgebraic",), "semialgebraic functions are tame"),),
)

LOCALLY_LIPSCHITZ = Hypothesis(
    "F.locally_lipschitz",
    "F is locally Lipschitz",
    implied_by=(Implication(("F.C1",), "a C^1 function is locally Lipschitz"),),
)

BOUNDED_BELOW = Hypothesis(
    "F.bounded_below",
    "F is bounded below",
    implied_by=(
        Implication(
            ("F.continuous", "iterates.bounded"),
            "the proof uses it only along the run, and a continuous F is bounded on bounded sets",
            Scope.RUN,
        ),
    ),
)

GRADIENT_DESCENT = Hypothesis(
    "method.gradient_descent", "theta_{k+1} = theta_k - alpha grad F(theta_k), full batch", Scope.RUN
)

CONSTANT_STEP = Hypothesis("step.constant", "the step alpha is constant", Scope.RUN)

STEP_BELOW_1_OVER_L = Hypothesis("step.below_1_over_L", "0 < alpha < 1/L", Scope.RUN, limit=("<", 1.0))

# where a proof needs only sufficient decrease; the claim's number is alpha L / 2 for gradient descent
STEP_BELOW_2_OVER_L = Hypothesis("step.stable", "0 < alpha < 2/L", Scope.RUN, limit=("<", 1.0))

STOCHASTIC_GRADIENT = Hypothesis(
    "method.stochastic_gradient",
    "theta_{k+1} = theta_k - alpha_k (v_k + M_{k+1}), no momentum, no preconditioning",
    Scope.RUN,
    implied_by=(Implication(("method.gradient_descent",), "gradient descent is the case M = 0"),),
)

UNBIASED = Hypothesis(
    "noise.unbiased", "the noise M_{k+1} is a martingale difference: E[M_{k+1} | past] = 0", Scope.RUN
)

BOUNDED_VARIANCE = Hypothesis("noise.bounded_variance", "the conditional variance of the noise is bounded", Scope.RUN)

STEPS_DIVERGE = Hypothesis("step.sum_diverges", "sum alpha_k = infinity", Scope.RUN)

STEPS_SQUARE_SUMMABLE = Hypothesis("step.square_summable", "sum alpha_k^2 < infinity", Scope.RUN)

ITERATES_BOUNDED = Hypothesis("iterates.bounded", "the iterates stay bounded", Scope.RUN)


DESCENT = ("descent.inequality",)


def smooth(order: int, why_local: str, local_claims: tuple[str, ...] = ()) -> Hypothesis:
    """F is C^order; `why_local` says why smoothness along the path is enough, or is ""."""
    name = {1: "F.C1", 2: "F.C2"}[order]
    words = {1: "F is continuously differentiable", 2: "F is twice continuously differentiable"}[order]
    stronger = ("F.analytic",) if order == 2 else ("F.C2", "F.analytic")
    return Hypothesis(
        name,
        words,
        local_suffices=why_local,
        implied_by=tuple(Implication((one,), f"{one[2:]} is stronger") for one in stronger),
        local_claims=local_claims,
    )


def lipschitz_gradient(why_local: str, local_claims: tuple[str, ...] = ()) -> Hypothesis:
    """grad F is L-Lipschitz; `why_local` says why a bound along the path is enough, or is ""."""
    return Hypothesis(
        "gradient.lipschitz", "grad F is L-Lipschitz", local_suffices=why_local, local_claims=local_claims
    )
