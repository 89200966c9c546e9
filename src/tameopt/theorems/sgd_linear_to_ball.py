"""Stochastic gradient with a constant step under PL: linear to a ball, then a noise floor."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._hypotheses import (
    BOUNDED_VARIANCE,
    CONSTANT_STEP,
    DESCENT,
    STEP_BELOW_1_OVER_L,
    STOCHASTIC_GRADIENT,
    UNBIASED,
    lipschitz_gradient,
    smooth,
)
from tameopt.theorems._theorem import Hypothesis, Known, Prediction, Theorem

_LOCAL = "the proof uses the descent inequality between consecutive iterates, nowhere else"


def _predict(known: Known) -> tuple[Prediction, ...]:
    """E F - F* <= alpha L tr Sigma / (2 mu) in the limit, for alpha <= 1/L."""
    step, mu, L = (known.estimate(name) for name in ("step.constant", "kl.pl_constant", "gradient.lipschitz"))
    variance, floor = known.estimate("noise.bounded_variance"), known.estimate("run.noise_floor")
    if step is None or mu is None or L is None or variance is None or floor is None:
        return ()
    low = (mu.evidence.interval or (mu.value, mu.value))[0]
    if not low > 0:
        return ()
    bound = step.value * L.value * variance.value / (2.0 * low)
    return (
        Prediction(
            "height of the noise floor, F - F*",
            f"<= {bound:.4g}",
            f"at most F = {floor.value:.4g}",
            floor.value <= bound or None,
            f"alpha L tr Sigma / (2 mu), alpha = {step.value:.4g}, L = {L.value:.4g}, tr Sigma = "
            f"{variance.value:.4g}, "
            f"mu = {low:.4g}",
        ),
    )


ENTRY = Theorem(
    name="sgd-linear-to-ball",
    title="SGD with a constant step under PL is linear to a ball",
    source="H. Karimi, J. Nutini, M. Schmidt (2016) (theorem number not checked)",
    bibtex="""@inproceedings{KarimiNutiniSchmidt2016,
  author = {Karimi, Hamed and Nutini, Julie and Schmidt, Mark},
  title = {Linear Convergence of Gradient and Proximal-Gradient Methods Under the {Polyak-{\\L}ojasiewicz} Condition},
  booktitle = {ECML PKDD}, pages = {795--811}, publisher = {Springer}, year = {2016},
}""",
    chapter="5 Approaching critical points with noise",
    hypotheses=(
        smooth(1, _LOCAL, DESCENT),
        lipschitz_gradient(_LOCAL, DESCENT),
        Hypothesis(
            "kl.pl_constant", "norm(grad F)^2 >= 2 mu (F - F*) on the path, mu > 0", Scope.PATH, limit=(">", 0.0)
        ),
        STOCHASTIC_GRADIENT,
        UNBIASED,
        BOUNDED_VARIANCE,
        CONSTANT_STEP,
        STEP_BELOW_1_OVER_L,
    ),
    conclusion="E F(theta_k) - F* <= (1 - alpha mu)^k (F(theta_0) - F*) + alpha L sigma^2 / (2 mu).",
    applied="F falls linearly until it reaches a floor proportional to the step, and stays there.",
    remark=(
        "The theorem bounds the second moment of the gradient; with alpha <= 1/L the variance sigma^2 is enough, by "
        "the same two lines."
    ),
    predict=_predict,
)
