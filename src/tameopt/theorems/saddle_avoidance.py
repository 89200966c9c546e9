"""Gradient descent from a random start does not converge to a strict saddle."""

from __future__ import annotations

from tameopt.evidence import Scope, Verdict
from tameopt.theorems._hypotheses import (
    CONSTANT_STEP,
    GRADIENT_DESCENT,
    STEP_BELOW_1_OVER_L,
    lipschitz_gradient,
    smooth,
)
from tameopt.theorems._theorem import Hypothesis, Known, Theorem

_LOCAL = (
    "an open convex set that T maps into itself and that carries the law of theta_0 is enough (Panageas, Piliouras "
    "2017); the path is a sample of such a set"
)


def _qualify(known: Known) -> str:
    """What the theorem does not say about the point reached: it speaks of strict saddles alone."""
    lowest = known.estimate("point.lambda_min")
    critical = any(one.verdict in (Verdict.MEASURED, Verdict.PROVED) for one in known.about("point.critical"))
    if lowest is None:
        return "Whether the point reached is a saddle was not measured, and non-strict saddles are not avoided."
    lower, upper = lowest.evidence.interval or (lowest.value, lowest.value)
    if not critical:
        return ""
    if upper < 0:
        return (
            "Yet the last iterate looks like a strict saddle: the run has not left it yet, or it started on the "
            "exceptional set."
        )
    if lower <= 0:
        return (
            f"It says nothing about the point reached, where lambda_min = {lowest.value:.3g} in [{lower:.3g}, "
            f"{upper:.3g}] is not shown to be negative: a saddle without negative curvature is not avoided."
        )
    return ""


ENTRY = Theorem(
    name="saddle-avoidance",
    title="Gradient descent only converges to minimisers",
    source="J. D. Lee, M. Simchowitz, M. I. Jordan, B. Recht (2016) (theorem number not checked)",
    bibtex="""@inproceedings{LeeSimchowitzJordanRecht2016,
  author = {Lee, Jason D. and Simchowitz, Max and Jordan, Michael I. and Recht, Benjamin},
  title = {Gradient Descent Only Converges to Minimizers}, booktitle = {Conference on Learning Theory},
  series = {PMLR}, volume = {49}, pages = {1246--1257}, year = {2016},
}""",
    chapter="2 Convergence to local minima for Morse functions",
    hypotheses=(
        smooth(2, _LOCAL),
        lipschitz_gradient(_LOCAL),
        CONSTANT_STEP,
        STEP_BELOW_1_OVER_L,
        GRADIENT_DESCENT,
        Hypothesis("init.absolutely_continuous", "theta_0 is drawn from a law with a density", Scope.RUN),
    ),
    conclusion="For every strict saddle, the probability that theta_k converges to it is 0.",
    applied="if the iterates converge, then almost surely not to a strict saddle (one with a negative eigenvalue).",
    remark=(
        "Strict means a negative Hessian eigenvalue. x^2/2 + y^3/3 has a saddle at 0 without one, and a half of the "
        "starts converges to it. The theorem gives no time: leaving a saddle can take exponentially long."
    ),
    qualify=_qualify,
)
