"""Linear convergence under KL with exponent 1/2, the Polyak-Lojasiewicz inequality."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._hypotheses import (
    CONSTANT_STEP,
    DESCENT,
    GRADIENT_DESCENT,
    STEP_BELOW_2_OVER_L,
    lipschitz_gradient,
    smooth,
)
from tameopt.theorems._theorem import Hypothesis, Known, Prediction, Theorem

_LOCAL = (
    "the proof uses the descent inequality between consecutive iterates and KL at the iterates, once they are trapped"
)


def _predict(known: Known) -> tuple[Prediction, ...]:
    """F_{k+1} - F* <= (1 - alpha mu (2 - alpha L)) (F_k - F*) for alpha < 2/L."""
    step, mu, L = (known.estimate(name) for name in ("step.constant", "kl.pl_constant", "gradient.lipschitz"))
    seen = known.estimate("rate.linear")
    if step is None or mu is None or L is None or seen is None:
        return ()
    alpha, (low, high) = step.value, mu.evidence.interval or (mu.value, mu.value)
    if not (low > 0 and alpha * L.value < 2):
        return ()
    bound = 1.0 - alpha * low * (2.0 - alpha * L.value)
    tightest = 1.0 - alpha * high * (2.0 - alpha * L.value)
    lower, upper = seen.evidence.interval or (seen.value, seen.value)
    # slower than the bound beyond the fit's error contradicts; between the bound's two ends nothing is decided
    agrees = True if lower <= tightest or upper <= bound else (False if lower > bound else None)
    return (
        Prediction(
            "factor of F - F* a step",
            f"<= {bound:.6g}",
            f"{seen.value:.6g} in [{lower:.6g}, {upper:.6g}]",
            agrees,
            f"1 - alpha mu (2 - alpha L), alpha = {alpha:.4g}, mu = {low:.4g}, L = {L.value:.4g}",
        ),
    )


ENTRY = Theorem(
    name="linear-rate",
    title="KL with exponent 1/2 gives a linear rate",
    source="B. T. Polyak (1963); H. Karimi, J. Nutini, M. Schmidt (2016) (theorem number not checked)",
    bibtex="""@inproceedings{KarimiNutiniSchmidt2016,
  author = {Karimi, Hamed and Nutini, Julie and Schmidt, Mark},
  title = {Linear Convergence of Gradient and Proximal-Gradient Methods Under the {Polyak-{\\L}ojasiewicz} Condition},
  booktitle = {ECML PKDD}, pages = {795--811}, publisher = {Springer}, year = {2016},
}""",
    chapter="4 Convergence to critical points for tame functions",
    hypotheses=(
        smooth(1, _LOCAL, DESCENT),
        lipschitz_gradient(_LOCAL, DESCENT),
        Hypothesis(
            "kl.pl_constant", "norm(grad F)^2 >= 2 mu (F - F*) on the path, mu > 0", Scope.PATH, limit=(">", 0.0)
        ),
        GRADIENT_DESCENT,
        CONSTANT_STEP,
        STEP_BELOW_2_OVER_L,
    ),
    conclusion="F(theta_k) - F* <= (1 - alpha mu (2 - alpha L))^k (F(theta_0) - F*).",
    applied="F - F* shrinks by a constant factor a step for as long as the measured inequality goes on to hold.",
    conclusion_claims=("rate.linear",),
    remark=(
        "The lecture's c is 2 mu and its step 1/L, which gives 1 - c/2L. A constant measured on the path "
        "says nothing "
        "about points the path has not visited."
    ),
    predict=_predict,
)
