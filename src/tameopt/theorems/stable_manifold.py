"""The stable manifold theorem at a hyperbolic fixed point of the gradient mapping."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._hypotheses import STEP_BELOW_1_OVER_L, smooth
from tameopt.theorems._theorem import Hypothesis, Known, Prediction, Theorem


def _predict(known: Known) -> tuple[Prediction, ...]:
    index = known.estimate("point.index")
    lowest, step = known.estimate("point.lambda_min"), known.estimate("step.constant")
    predictions = []
    if index is not None:
        predictions.append(
            Prediction(
                "codimension of the set of starts that converge to this point",
                f"{index.value:.0f}",
                "not observable from one run",
                None,
                "the number of eigenvalues of I - alpha Hess F above 1, which is the index",
            )
        )
    if lowest is not None and step is not None:
        factor = 1.0 - step.value * lowest.value
        predictions.append(
            Prediction(
                "growth of a deviation along the most unstable direction, a step",
                f"x{factor:.6g}",
                "not observable at the point itself",
                None,
                f"1 - alpha lambda_min with alpha = {step.value:.4g}, lambda_min = {lowest.value:.4g}",
            )
        )
    return tuple(predictions)


ENTRY = Theorem(
    name="stable-manifold",
    title="Stable manifold theorem",
    source="M. Shub (1987), theorem III.7",
    bibtex="""@book{Shub1987,
  author = {Shub, Michael}, title = {Global Stability of Dynamical Systems}, publisher = {Springer}, year = {1987},
}""",
    chapter="2 Convergence to local minima for Morse functions",
    hypotheses=(
        smooth(2, "the theorem is local: smoothness near the fixed point is what it asks for"),
        STEP_BELOW_1_OVER_L,
        Hypothesis("point.critical", "the point is a fixed point of T, grad F = 0 there", Scope.POINT),
        Hypothesis("point.hyperbolic", "no eigenvalue of the Hessian there is zero", Scope.POINT),
        Hypothesis("point.strict_saddle", "the Hessian there has a negative eigenvalue", Scope.POINT),
    ),
    conclusion=(
        "Near the point, the starts that converge to it form a differentiable manifold tangent to the "
        "stable space, of "
        "dimension d minus the index: a set of measure zero."
    ),
    applied="the starts near this saddle that converge to it form a manifold of lower dimension, of measure zero.",
    remark="At a minimum nothing is unstable and the theorem has nothing to say.",
    predict=_predict,
)
