"""The over-parameterised trap: gradient descent on least squares reaches zero training loss."""

from __future__ import annotations

from tameopt.evidence import Scope, Verdict
from tameopt.theorems._hypotheses import CONSTANT_STEP, GRADIENT_DESCENT
from tameopt.theorems._theorem import Hypothesis, Known, Theorem


def _fit(known: Known) -> tuple[Verdict, str] | None:
    """The certificate speaks of steps up to its own: the run's must not be larger."""
    trap, step = known.estimate("trap.holds"), known.estimate("step.constant")
    if trap is None or step is None:
        return Verdict.UNKNOWN, "the certificate's largest step or the run's step is not known"
    largest = (trap.evidence.witness or {}).get("largest_step")
    if largest is None:
        return Verdict.UNKNOWN, "the certificate does not say for which steps it holds"
    if step.value <= float(largest):
        return None
    return Verdict.REFUTED, f"the run's step {step.value:.4g} is above the {float(largest):.4g} that the trap admits"


ENTRY = Theorem(
    name="overparameterised-trap",
    title="Over-parameterised least squares traps gradient descent",
    source=(
        "S. S. Du, X. Zhai, B. Poczos, A. Singh (2019); S. Oymak, M. Soltanolkotabi (2019); tameopt's "
        "Kantorovich form"
    ),
    bibtex="""@inproceedings{DuZhaiPoczosSingh2019,
  author = {Du, Simon S. and Zhai, Xiyu and Poczos, Barnab{\\'a}s and Singh, Aarti},
  title = {Gradient Descent Provably Optimizes Over-parameterized Neural Networks},
  booktitle = {International Conference on Learning Representations}, year = {2019},
}""",
    chapter="4 Convergence to critical points for tame functions",
    hypotheses=(
        Hypothesis("loss.least_squares", "F(theta) = norm(f(theta) - y)^2 up to a factor"),
        Hypothesis(
            "ntk.lambda_min", "lambda_min(J J^T) > 0: the Jacobian is surjective", Scope.POINT, limit=(">", 0.0)
        ),
        Hypothesis(
            "trap.holds",
            "h = ell norm(u) / sigma_min(J)^2 <= 1/2, with J ell-Lipschitz on the ball, and the step below 1/Lambda",
            Scope.POINT,
        ),
        GRADIENT_DESCENT,
        CONSTANT_STEP,
    ),
    conclusion="theta_k stays in a ball around theta_0, and norm(u_k) shrinks by a constant factor a step to 0.",
    applied="gradient descent interpolates the training data, at a linear rate, without leaving the ball.",
    conclusion_claims=("iterates.converge",),
    fit=_fit,
    remark="Zero training loss says nothing about test error; far from the lazy regime the condition rarely holds.",
)
