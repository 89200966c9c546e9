"""What a proof at the critical point next to the last iterate says, as findings; None where it is silent."""

from __future__ import annotations

from collections.abc import Callable

from tameopt.curvature.classification import Classification
from tameopt.curvature.rigorous import PointProof
from tameopt.evidence import Finding, Scope, proved, refuted

_HOW_PROVED = "interval Newton or exact arithmetic at the critical point next to the last iterate"


def proved_strict_saddle(point: Classification) -> Finding | None:
    return _by_index(point, "point.strict_saddle", lambda index: index > 0)


def proved_second_order(point: Classification) -> Finding | None:
    return _by_index(point, "point.second_order", lambda index: index == 0)


def _by_index(point: Classification, claim: str, holds: Callable[[int], bool]) -> Finding | None:
    """The claim, proved or refuted by the proved number of negative Hessian eigenvalues."""
    proof = point.proof
    if proof is None or proof.index is None:
        return None
    if holds(proof.index):
        return proved(
            claim,
            proof.statement,
            proof.certificate,
            method=_HOW_PROVED,
            estimate=point.spectrum.lambda_min,
            scope=Scope.POINT,
        )
    return _refuted(claim, proof.statement, {"index": proof.index, "nullity": proof.nullity}, proof)


def _refuted(claim: str, statement: str, witness: dict[str, int | None], proof: PointProof) -> Finding:
    return refuted(
        claim,
        statement,
        {**witness, "distance": proof.distance},
        method=_HOW_PROVED,
        certificate=proof.certificate,
        scope=Scope.POINT,
    )


def proved_hyperbolic(point: Classification) -> Finding | None:
    proof = point.proof
    if proof is None or proof.nullity is None:
        return None
    if proof.nullity == 0:
        statement = f"No Hessian eigenvalue is 0 there. {proof.statement}"
        return proved("point.hyperbolic", statement, proof.certificate, method=_HOW_PROVED, scope=Scope.POINT)
    statement = f"{proof.nullity} Hessian eigenvalues are exactly 0. {proof.statement}"
    return _refuted("point.hyperbolic", statement, {"nullity": proof.nullity}, proof)


def proved_index(point: Classification) -> Finding | None:
    proof = point.proof
    if proof is None or proof.index is None:
        return None
    return proved(
        "point.index",
        proof.statement,
        proof.certificate,
        method=_HOW_PROVED,
        estimate=float(proof.index),
        interval=(float(proof.index), float(proof.index)),
        scope=Scope.POINT,
    )
