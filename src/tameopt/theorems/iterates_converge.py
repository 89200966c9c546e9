"""Convergence of the iterates of gradient descent under KL (Absil, Mahony, Andrews)."""

from __future__ import annotations

import math

from tameopt.evidence import Scope, Verdict
from tameopt.theorems._hypotheses import (
    BOUNDED_BELOW,
    CONSTANT_STEP,
    DESCENT,
    GRADIENT_DESCENT,
    STEP_BELOW_2_OVER_L,
    lipschitz_gradient,
    smooth,
)
from tameopt.theorems._theorem import Hypothesis, Implication, Known, Prediction, Theorem

_LOCAL = (
    "the proof uses the gradient at the iterates and the descent inequality on the segments between "
    "them, nowhere else"
)


def _predict(known: Known) -> tuple[Prediction, ...]:
    return (*_smallest_gradient(known), *_length(known), *_order(known), *_descent(known))


def _smallest_gradient(known: Known) -> tuple[Prediction, ...]:
    """Summing the descent lemma: min norm(grad F)^2 <= (F_0 - F_K) / (alpha (1 - alpha L/2) K)."""
    step, L = known.estimate("step.constant"), known.estimate("gradient.lipschitz")
    if known.run is None or step is None or L is None or not 0 < step.value * L.value < 2:
        return ()
    steps, losses = known.run.series("full_loss")
    at, norms = known.run.series("full_gradient_norm")
    if len(steps) < 2 or not len(at) or not math.isfinite(losses[0] - losses[-1]) or losses[-1] > losses[0]:
        return ()
    first, last = int(steps[0]), int(steps[-1])
    seen = norms[(at >= first) & (at < last)]
    if not len(seen) or not math.isfinite(float(seen.min())):
        return ()
    decrease = step.value * (1.0 - step.value * L.value / 2.0)
    bound = math.sqrt(float(losses[0] - losses[-1]) / (decrease * (last - first)))
    smallest = float(seen.min())
    every_step = len(seen) == last - first
    return (
        Prediction(
            "smallest gradient norm of the run",
            f"<= {bound:.4g}",
            f"{smallest:.4g}" + ("" if every_step else " on the recorded grid"),
            # a grid can miss the smallest one, so only a full record can contradict
            smallest <= bound * (1 + 1e-9) or (False if every_step else None),
            f"sqrt((F_0 - F_K)/(alpha (1 - alpha L/2) K)), alpha = {step.value:.4g}, L = {L.value:.4g}, "
            f"K = {last - first:,}",
        ),
    )


def _length(known: Known) -> tuple[Prediction, ...]:
    """Under PL with constant mu: length <= 2 phi(F_0 - F*), phi(t) = sqrt(2 t / mu)."""
    length, mu = known.estimate("iterates.finite_length"), known.estimate("kl.pl_constant")
    below = known.estimate("F.bounded_below")
    if known.run is None or length is None or mu is None or below is None or not mu.value > 0:
        return ()
    _, losses = known.run.series("full_loss")
    if not len(losses) or not losses[0] >= below.value:
        return ()
    lowest = (mu.evidence.interval or (mu.value, mu.value))[0]
    if not lowest > 0:
        return ()
    bound = 2.0 * math.sqrt(2.0 * float(losses[0] - below.value) / lowest)
    return (
        Prediction(
            "length of the trajectory",
            f"<= {bound:.4g}",
            f"{length.value:.4g}",
            length.value <= bound or None,
            f"2 sqrt(2 (F_0 - F_low)/mu), mu >= {lowest:.4g} on the path, F_low = {below.value:.4g}",
        ),
    )


def _order(known: Known) -> tuple[Prediction, ...]:
    """F_k - F* = O(k^(-1/(2 theta - 1))) for theta in (1/2, 1), theta and the power as the run shows them."""
    theta, power = known.estimate("kl.exponent"), known.estimate("rate.sublinear")
    if theta is None or power is None or power.verdict is Verdict.REFUTED or theta.verdict is Verdict.REFUTED:
        return ()
    low, high = theta.evidence.interval or (theta.value, theta.value)
    if not (theta.value > 0.5 and high < 1.0):
        return ()
    slowest, fastest = 1 / (2 * high - 1), 1 / (2 * low - 1) if low > 0.5 else math.inf
    seen_low, seen_high = power.evidence.interval or (power.value, power.value)
    return (
        Prediction(
            "power of 1/k in F - F*",
            f"{1 / (2 * theta.value - 1):.3g} in [{slowest:.3g}, {fastest:.3g}]",
            f"{power.value:.3g} in [{seen_low:.3g}, {seen_high:.3g}]",
            # theta is a slope along the path, no bound: intervals that miss each other decide nothing
            (seen_high >= slowest and seen_low <= fastest) or None,
            f"1/(2 theta - 1), theta = {theta.value:.3f} [{low:.3f}, {high:.3f}] on the path; Attouch and Bolte 2009",
        ),
    )


def _descent(known: Known) -> tuple[Prediction, ...]:
    share = known.estimate("values.descend")
    if share is None:
        return ()
    return (
        Prediction(
            "share of recorded steps at which F decreases",
            "1",
            f"{share.value:.4g}",
            share.value >= 1.0 or (False if share.verdict is Verdict.REFUTED else None),
            "the descent lemma; rounding can break it once F - F* reaches the accuracy of the sum",
        ),
    )


ENTRY = Theorem(
    name="iterates-converge",
    title="Gradient descent on a KL function converges to one critical point",
    source="P.-A. Absil, R. Mahony, B. Andrews (2005); H. Attouch, J. Bolte, B. F. Svaiter (2013)",
    bibtex="""@article{AbsilMahonyAndrews2005,
  author = {Absil, P.-A. and Mahony, Robert and Andrews, Benjamin},
  title = {Convergence of the Iterates of Descent Methods for Analytic Cost Functions},
  journal = {SIAM Journal on Optimization}, volume = {16}, number = {2}, pages = {531--547}, year = {2005},
}""",
    chapter="4 Convergence to critical points for tame functions",
    hypotheses=(
        BOUNDED_BELOW,
        smooth(1, _LOCAL, DESCENT),
        lipschitz_gradient(_LOCAL, DESCENT),
        Hypothesis(
            "F.kl",
            "F has the KL property",
            implied_by=(
                Implication(("F.tame", "F.C1"), "Kurdyka (1998)"),
                Implication(("F.tame", "F.locally_lipschitz"), "Bolte, Daniilidis, Lewis, Shiota (2007)"),
            ),
        ),
        Hypothesis(
            "F.compact_sublevel",
            "the sublevel set {F <= F(theta_0)} is compact",
            implied_by=(
                Implication(("iterates.bounded",), "the proof uses it only to bound the iterates", Scope.RUN),
            ),
        ),
        GRADIENT_DESCENT,
        CONSTANT_STEP,
        STEP_BELOW_2_OVER_L,
    ),
    conclusion="theta_k converges to a critical point of F, and its trajectory has finite length.",
    applied="the iterates converge to one critical point along a path of finite length.",
    conclusion_claims=("iterates.converge", "iterates.finite_length"),
    remark=(
        "Stated for alpha = 1/L; the proof needs only that F decreases enough, as it does for alpha < 2/L. "
        "Without KL it can fail for "
        "C^infinity F (the Mexican hat). It names no limit and no time."
    ),
    predict=_predict,
)
