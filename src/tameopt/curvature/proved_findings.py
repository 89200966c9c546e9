"""What a proof at the critical point next to the last iterate says, as findings; None where it is silent."""

from __future__ import annotations

from tameopt.curvature.classification import Classification
from tameopt.evidence import Finding, Scope, proved, refuted

_HOW_PROVED = "interval Newton or exact arithmetic at the critical point next to the last iterate"


def proved_strict_saddle(point: Classification) -> Finding | None:
    proof = point.proof
    if proof is None or proof.index is None:
        return None
    if proof.index > 0:
        return proved(
            "point.strict_saddle",
            proof.statement,
            proof.certificate,
            method=_HOW_PROVED,
            estimate=point.spectrum.lambda_min,
            scope=Scope.POINT,
        )
    return refuted(
        "point.strict_saddle",
        proof.statement,
        {"index": 0, "nullity": proof.nullity, "distance": proof.distance},
        method=_HOW_PROVED,
        certificate=proof.certificate,
        scope=Scope.POINT,
    )


def proved_second_order(point: Classification) -> Finding | None:
    proof = point.proof
    if proof is None or proof.index is None:
        return None
    if proof.index == 0:
        return proved(
            "point.second_order",
            proof.statement,
            proof.certificate,
            method=_HOW_PROVED,
            estimate=point.spectrum.lambda_min,
            scope=Scope.POINT,
        )
    return refuted(
        "point.second_order",
        proof.statement,
        {"index": proof.index, "distance": proof.distance},
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
    return refuted(
        "point.hyperbolic",
        f"{proof.nullity} Hessian eigenvalues are exactly 0. {proof.statement}",
        {"nullity": proof.nullity, "distance": proof.distance},
        method=_HOW_PROVED,
        certificate=proof.certificate,
        scope=Scope.POINT,
    )


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
