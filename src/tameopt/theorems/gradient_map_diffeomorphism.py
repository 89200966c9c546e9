"""The gradient mapping T: theta -> theta - alpha grad F(theta) is a diffeomorphism for 0 < alpha < 1/L."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._hypotheses import STEP_BELOW_1_OVER_L, lipschitz_gradient, smooth
from tameopt.theorems._theorem import Hypothesis, Known, Prediction, Theorem

_LOCAL = (
    "wherever the Hessian exists with norm at most L, I - alpha Hess F is positive definite, so T is a local "
    "diffeomorphism there, which is all that is then concluded"
)


def _predict(known: Known) -> tuple[Prediction, ...]:
    product, top = known.estimate("step.below_1_over_L"), known.estimate("point.lambda_max")
    smooth_constant = known.estimate("gradient.lipschitz")
    if product is None or top is None or smooth_constant is None or not smooth_constant.value > 0:
        return ()
    alpha = product.value / smooth_constant.value
    bound, seen = 1.0 - product.value, 1.0 - alpha * top.value
    return (
        Prediction(
            "smallest eigenvalue of the Jacobian of T at the last iterate",
            f">= 1 - alpha L = {bound:.4g}",
            f"1 - alpha lambda_max = {seen:.4g}",
            seen >= bound - 1e-9 * max(1.0, abs(bound)) or None,
            f"alpha = {alpha:.4g}, L = {smooth_constant.value:.4g}, lambda_max = {top.value:.4g}",
        ),
    )


ENTRY = Theorem(
    name="gradient-map-diffeomorphism",
    title="The gradient mapping is a diffeomorphism below 1/L",
    source="M. Shub (1987); J. D. Lee, M. Simchowitz, M. I. Jordan, B. Recht (2016) (theorem number not checked)",
    bibtex="""@book{Shub1987,
  author = {Shub, Michael}, title = {Global Stability of Dynamical Systems}, publisher = {Springer}, year = {1987},
}""",
    chapter="2 Convergence to local minima for Morse functions",
    hypotheses=(
        smooth(2, _LOCAL),
        lipschitz_gradient(_LOCAL),
        Hypothesis("step.positive", "alpha > 0", Scope.RUN),
        STEP_BELOW_1_OVER_L,
    ),
    conclusion="T(theta) = theta - alpha grad F(theta) is a diffeomorphism of R^d.",
    applied="one step of gradient descent loses no information: T is invertible with differentiable inverse.",
    conclusion_claims=("gradient_map.diffeomorphism",),
    predict=_predict,
)
