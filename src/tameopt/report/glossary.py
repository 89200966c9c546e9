"""The words a report uses, explained in a sentence each."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """word: as shown. forms: lower-case regular expressions that say that a text uses it. meaning: one sentence."""

    word: str
    forms: tuple[str, ...]
    meaning: str


TERMS = (
    Term(
        "PROVED",
        (r"\bproved\b",),
        "A separate checker replayed the proof in exact or outward-rounded arithmetic; no rounding can undo it.",
    ),
    Term(
        "MEASURED",
        (r"\bmeasured\b",),
        "An estimate with its error; true as far as the measurement reaches, and not beyond.",
    ),
    Term("REFUTED", (r"\brefuted\b",), "A witness shows that the statement fails; it is given beside it."),
    Term("UNKNOWN", (r"\bunknown\b",), "Not decided; what is missing, and what would supply it, is given beside it."),
    Term(
        "APPLIES LOCALLY",
        (r"\blocally\b",),
        "The hypotheses hold where the run went, as far as measured, though not for every parameter.",
    ),
    Term("F", (r"\bF\b",), "The training loss over all samples, as a function of the parameters theta."),
    Term(
        "theta",
        (r"\btheta\b", r"\biterates?\b"),
        "All trainable parameters as one vector; an iterate is its value at one step.",
    ),
    Term(
        "critical point",
        (r"\bcritical\b",),
        "A point where the gradient of F is zero (at a kink: where zero lies in the Clarke subdifferential).",
    ),
    Term(
        "strict saddle",
        (r"\bsaddle",),
        "A critical point with a direction along which F bends down: the smallest Hessian eigenvalue is negative.",
    ),
    Term(
        "Hessian, lambda_min, lambda_max",
        (r"\bhessian\b", r"lambda_m"),
        "The matrix of second derivatives of F, and its smallest and largest eigenvalues: how F bends.",
    ),
    Term(
        "L (Lipschitz constant of the gradient)",
        (r"\bL\b", r"\bsmooth", r"lipschitz"),
        "The gradient changes by at most L times the distance moved; steps of gradient descent below 1/L never "
        "raise F, and above 2/L they overshoot.",
    ),
    Term(
        "step (alpha)",
        (r"\bstep size\b", r"\balpha\b", r"\blr\b"),
        "The learning rate: what the gradient is multiplied with before it is subtracted.",
    ),
    Term(
        "noise floor",
        (r"\bfloor\b",),
        "The height above the minimum at which a constant step and noisy gradients keep the loss; it shrinks "
        "with the step.",
    ),
    Term(
        "tame, definable, semialgebraic",
        (r"\btame\b", r"definable", r"semialgebraic", r"o-minimal"),
        "Built from polynomials, comparisons, exp and the like, so that F cannot oscillate endlessly: the class of "
        "functions for which the lecture's convergence theorems hold.",
    ),
    Term(
        "Kurdyka-Lojasiewicz (KL), desingularising phi, exponent",
        (r"\bKL\b", r"kurdyka", r"lojasiewicz"),
        "Near its limit F is sharp after a change of scale phi; the exponent says how fast descent must converge "
        "(1/2: linearly; above: like a power of the step number).",
    ),
    Term(
        "PL constant (mu)",
        (r"\bPL\b", r"\bmu\b"),
        "The largest mu with norm(grad F)^2 >= 2 mu (F - F*): F has no flat valley above its minimum.",
    ),
    Term(
        "Clarke subdifferential",
        (r"clarke", r"subgradient", r"subdifferential"),
        "At a kink, all averages of the gradients nearby: the set that takes the gradient's place.",
    ),
    Term(
        "Goldstein stationary",
        (r"goldstein",),
        "Some average of gradients within a distance delta is shorter than eps: nearly Clarke-critical, testable.",
    ),
    Term(
        "NTK (tangent kernel)",
        (r"\bntk\b", r"tangent kernel"),
        "The matrix of inner products of the outputs' gradients; when its smallest eigenvalue is positive, gradient "
        "descent can fit every training label.",
    ),
    Term(
        "Robbins-Monro steps",
        (r"robbins", r"square.summable", r"sum of (the )?steps"),
        "Steps whose sum is infinite and whose squares have a finite sum: small enough to average noise away, large "
        "enough to reach any point.",
    ),
    Term(
        "ODE method, gradient flow",
        (r"\bode\b", r"gradient flow", r"pseudo.trajectory"),
        "With small steps the iterates follow the curve theta' = -grad F(theta), so its limits are their limits.",
    ),
    Term(
        "backprop",
        (r"backprop", r"autodiff"),
        "What automatic differentiation returns; at a kink it need not be a Clarke subgradient.",
    ),
    Term(
        "interval",
        (r"\binterval\b",),
        "The range in which the measured number lies with the stated confidence; a bound is never exceeded.",
    ),
)


def used(text: str) -> tuple[Term, ...]:
    """The terms that a text uses, in the glossary's order; F, L, KL and the like are matched with their capitals.

    >>> [term.word for term in used("a strict saddle of F")]
    ['F', 'strict saddle']
    """
    lower = text.lower()
    return tuple(
        term
        for term in TERMS
        if any(
            re.search(form, text if re.search(r"[A-Z]", form.replace("\\B", "")) else lower) for form in term.forms
        )
    )
