"""What the audit learns from the structure room: which theorems the loss is in reach of, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Certificate, Cost, Finding, Scope, proved, refuted, unknown
from tameopt.picture import Picture
from tameopt.structure.certificate import certify, certify_outputs
from tameopt.structure.derivation import as_data, derivation
from tameopt.structure.kink_witness import Kink, find_kink
from tameopt.structure.plane_pieces import plane_pieces
from tameopt.structure.program import Place
from tameopt.structure.statement import Structure
from tameopt.structure.tame import STRUCTURE_SOURCE, is_o_minimal

CLAIMS = (
    "F.tame", "F.semialgebraic", "F.polynomial_degree", "F.continuous", "F.locally_lipschitz", "F.C1", "F.C2",
    "F.analytic", "F.path_differentiable", "F.critical_values_finite", "F.kl", "F.bounded_below", "F.autodiff",
    "F.homogeneous", "F.convex",
)  # fmt: skip
_METHOD = "operator certificate, replayed by a separate checker"
_MOST_OPERATIONS = 400  # our choice: a longer derivation is no reading matter in a report
_MOST_WORK = 20_000  # our choice: parameters x samples x operators that a picture in exact arithmetic may cost
_REMEDY = "tame.structure.certify(problem).obstructions"


@dataclass(frozen=True)
class _Facts:
    """A certificate and what was found beside it."""

    structure: Structure
    kink: Kink | None

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(
            f"{Place(operation.line, operation.module)}: {operation.operator}"
            for operation in self.structure.kinks[:20]
        )

    @property
    def blocked(self) -> str:
        """Why nothing follows, or ""."""
        if self.structure.replayed:
            return ""
        return (
            str(self.structure.obstructions[0]) if self.structure.obstructions else "the certificate did not replay"
        )

    def proof(self, claim: str, statement: str, source: str = "", value: float | None = None) -> Finding:
        assert self.structure.certificate is not None
        data: dict[str, Any] = {**self.structure.certificate.data, "finding": claim, "value": value}
        return proved(
            claim,
            statement,
            Certificate(self.structure.certificate.checker, data),
            method=_METHOD,
            scope=Scope.GLOBAL,
            estimate=value,
            error_kind="exact" if value is not None else "",
            source=source,
            lines=self.lines,
        )

    def open(self, claim: str, statement: str, missing: str) -> Finding:
        return unknown(
            claim,
            statement,
            missing=self.blocked or missing,
            remedy=_REMEDY,
            method=_METHOD,
            scope=Scope.GLOBAL,
            lines=self.lines,
        )


def findings_of(structure: Structure, kink: Kink | None, network: Structure | None) -> tuple[Finding, ...]:
    """All findings that follow from a certificate of F, a kink found on a line, and the network's certificate."""
    facts = _Facts(structure, kink)
    return (*_class(facts), *_smoothness(facts), *_consequences(facts), *_shape(facts), *_homogeneous(network))


def _class(facts: _Facts) -> Iterator[Finding]:
    found = facts.structure
    source = STRUCTURE_SOURCE.get(found.definable, "")
    where = "" if found.total else ", on the set where it is defined"
    if found.replayed and is_o_minimal(found.definable):
        yield facts.proof(
            "F.tame",
            f"F is definable in an o-minimal structure ({found.definable}, {len(found.operators)} operators){where}.",
            source,
        )
    else:
        beyond = next((item for item in found.operations if item.result.startswith("not definable")), None)
        reason = f"{beyond.operator} at {Place(beyond.line, beyond.module)}" if beyond else "an operator"
        yield facts.open(
            "F.tame",
            "It is not known whether F is tame.",
            f"an o-minimal structure for {reason} on an unbounded range"
            if found.definable == "not definable"
            else "a certificate",
        )
    if found.replayed and found.definable in ("polynomial", "piecewise polynomial", "semialgebraic"):
        yield facts.proof("F.semialgebraic", f"F is {found.definable}.", STRUCTURE_SOURCE["semialgebraic"])
    else:
        yield facts.open(
            "F.semialgebraic",
            "F was not shown to be semialgebraic.",
            f"a proof without {found.definable} operators: the class found is {found.definable}",
        )
    if found.replayed and found.degree is not None:
        yield facts.proof(
            "F.polynomial_degree",
            f"F is {found.definable} of degree at most {found.degree}.",
            "",
            float(found.degree),
        )


_LEVELS = (
    ("F.continuous", "continuous", ("continuous", "locally Lipschitz", "C^", "analytic")),
    ("F.locally_lipschitz", "locally Lipschitz", ("locally Lipschitz", "C^", "analytic")),
    ("F.C1", "continuously differentiable", ("C^", "analytic")),
    ("F.C2", "twice continuously differentiable", ("C^", "analytic")),
    ("F.analytic", "real analytic", ("analytic",)),
)


def _smoothness(facts: _Facts) -> Iterator[Finding]:
    found = facts.structure
    for claim, words, enough in _LEVELS:
        holds = found.replayed and found.total and found.smoothness.startswith(enough)
        if claim == "F.C2" and found.smoothness == "C^1":
            holds = False
        if holds:
            yield facts.proof(claim, f"F is {words}: every operator on its way is.")
        elif facts.kink is not None and claim in ("F.C1", "F.C2", "F.analytic"):
            kink = facts.kink
            yield refuted(
                claim,
                f"F has a kink: along a line its slope jumps from {kink.slope_left:.6g} to {kink.slope_right:.6g} "
                f"within {kink.width:.1g}.",
                kink.to_json(),
                method="bisection along a random line, slopes confirmed by differences of F",
                scope=Scope.GLOBAL,
                lines=facts.lines,
                seed=kink.seed,
            )
        else:
            yield facts.open(claim, f"F was not shown to be {words}.", _why_not(found))


def _why_not(found: Structure) -> str:
    if not found.total:
        return "a proof that F is defined everywhere: an operator's argument may leave its domain"
    if found.kinks:
        first = found.kinks[0]
        return f"a proof across {first.operator} at {Place(first.line, first.module)} ({first.smoothness} there)"
    return "a certificate"


def _consequences(facts: _Facts) -> Iterator[Finding]:
    found = facts.structure
    tame = found.replayed and is_o_minimal(found.definable)
    lipschitz, smooth = found.locally_lipschitz, found.smoothness.startswith(("C^", "analytic"))
    why = _why_not(found)
    if tame and lipschitz:
        yield facts.proof(
            "F.path_differentiable",
            "F obeys the chain rule along Lipschitz curves: it is tame and locally Lipschitz.",
            "Davis, Drusvyatskiy, Kakade and Lee 2020, Theorem 5.8",
        )
        yield facts.proof(
            "F.critical_values_finite",
            "F has finitely many critical values: it is tame and "
            + ("C^1 (definable Morse-Sard)." if smooth else "locally Lipschitz (nonsmooth Morse-Sard, Clarke)."),
            "Bolte, Daniilidis, Lewis and Shiota 2007, Corollary 9",
        )
    else:
        yield facts.open("F.path_differentiable", "The chain rule along curves was not shown.", why)
        yield facts.open("F.critical_values_finite", "Finitely many critical values were not shown.", why)
    if tame and found.total and found.smoothness not in ("discontinuous", "unknown"):
        yield facts.proof(
            "F.kl",
            "F has the Kurdyka-Lojasiewicz property at every point: it is tame and "
            + ("C^1." if smooth else "continuous (for Clarke subgradients)."),
            "Kurdyka 1998, Theorem 1" if smooth else "Bolte, Daniilidis, Lewis and Shiota 2007, Theorem 14",
        )
    else:
        yield facts.open("F.kl", "The Kurdyka-Lojasiewicz property was not shown.", why)
    if tame and lipschitz and found.autodiff in ("classical", "Clarke", "conservative"):
        meaning = {
            "classical": "the gradient of F everywhere",
            "Clarke": "a Clarke subgradient of F everywhere",
            "conservative": "an element of a conservative gradient of F everywhere, the gradient almost everywhere",
        }[found.autodiff]
        yield facts.proof(
            "F.autodiff",
            f"Autodiff computes {meaning}, in exact arithmetic.",
            "Bolte and Pauwels 2021, Theorem 8 and Corollary 6",
        )
    else:
        yield facts.open("F.autodiff", f"Autodiff was not shown to be conservative (level: {found.autodiff}).", why)


def _shape(facts: _Facts) -> Iterator[Finding]:
    found = facts.structure
    if found.replayed and found.total and found.lower_bound is not None:
        yield facts.proof("F.bounded_below", f"F >= {found.lower_bound:.6g}.", "", found.lower_bound)
    else:
        yield facts.open("F.bounded_below", "No lower bound of F was shown.", "a lower bound from the last operators")
    if found.replayed and found.total and found.shape in ("affine", "convex"):
        yield facts.proof("F.convex", f"F is {found.shape} by its composition rules.", "Grant, Boyd and Ye 2006")
    else:
        yield facts.open(
            "F.convex",
            "F was not shown to be convex.",
            "a proof: convexity holds for linear models with convex losses",
        )


def _homogeneous(network: Structure | None) -> Iterator[Finding]:
    if network is None:
        return
    facts = _Facts(network, None)
    if network.replayed and network.total and network.homogeneous is not None and network.homogeneous > 0:
        h = network.homogeneous
        yield facts.proof(
            "F.homogeneous", f"The network is positively homogeneous of degree {h} in its parameters.", "", float(h)
        )
    else:
        yield facts.open(
            "F.homogeneous",
            "The network was not shown to be positively homogeneous in its parameters.",
            "a proof: biases after the first layer, normalisation and smooth activations break homogeneity",
        )


def _analyse(context: Context) -> Answer:
    problem = context.problem
    context.notify("certifying the structure of F")
    structure = certify(problem, seed=context.seed)
    network = certify_outputs(problem) if problem.forward is None else None
    kink = None
    gradients = 0.0
    if structure.smoothness == "locally Lipschitz":
        context.notify("looking for a kink of F")
        kink = find_kink(
            problem, context.theta.to(problem.theta), context.seed, min(2.0, context.deadline_seconds / 4)
        )
        gradients = 60.0
    pictures = _pictures(context, structure)
    seconds = structure.seconds + (network.seconds if network else 0.0)
    facts = {
        **structure.to_json(),
        "kink": None if kink is None else kink.to_json(),
        "derivation": as_data(derivation(structure), _MOST_OPERATIONS),
    }
    return Answer(
        findings_of(structure, kink, network), pictures, facts, cost=Cost(gradients=2.0 + gradients, seconds=seconds)
    )


def _pictures(context: Context, structure: Structure) -> tuple[Picture, ...]:
    """The pieces of a tiny piecewise polynomial loss on a plane through theta; none for other losses."""
    problem = context.problem
    size = problem.theta.numel() * problem.n * len(structure.operations)
    if structure.definable != "piecewise polynomial" or size > _MOST_WORK:
        return ()
    seconds = min(5.0, max(2.0, context.deadline_seconds / 4))
    try:
        found = plane_pieces(problem, theta=context.theta, points=21, seed=context.seed, seconds=seconds)
    except ValueError:
        return ()  # an operator without an exact form, or too slow here
    return (found.picture(),)


ANALYSES: tuple[Analysis, ...] = (
    Analysis(
        "structure.certificate",
        "What kind of function is the loss, and what does autodiff compute?",
        CLAIMS,
        lambda context: Cost(gradients=64.0),
        _analyse,
    ),
)
