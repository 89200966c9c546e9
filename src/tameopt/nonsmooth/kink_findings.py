"""What the audit says about kinks, in findings: who sits on one, what backprop is worth there, what is critical."""

from __future__ import annotations

import math

from tameopt.evidence import Finding, Scope, Verdict, measured, proved, unknown
from tameopt.evidence import refuted as refuted_finding
from tameopt.nonsmooth.backprop import Backprop
from tameopt.nonsmooth.clarke_distance import ClarkeDistance
from tameopt.nonsmooth.kinks import Census
from tameopt.picture import Picture, Series

_METHODS = {
    "smooth": "replayed from the list of operators",
    "lemma": "replayed from the list of operators",
    "margins": "enclosures",
    "membership": "gradients along directions that decide every kink, in rationals",
}
_BIAS_LEMMA = "bias lemma, tameopt.nonsmooth._lemma_checker"


def kinks_finding(found: Census, backprop: Backprop) -> Finding:
    """point.kinks: the count of inputs on a kink."""
    if found.smooth:
        return measured(
            "point.kinks",
            "No operator of the loss has a kink: the Clarke subdifferential is the gradient.",
            0.0,
            method="list of the operators that read theta",
            error_kind="exact",
            unit="count",
            scope=Scope.GLOBAL,
        )
    where = ", ".join(sorted({site.op.split(".")[1] for site in found.sites}))
    statement = (
        f"{found.active:,} of {found.entries:,} inputs of {where} sit exactly on a kink; "
        f"the nearest of the others is {_next_nearest(found):.1e} away."
        if found.active
        else f"None of {found.entries:,} inputs of {where} sits on a kink; the nearest is {found.nearest:.1e} away."
    )
    if backprop.how == "margins" and backprop.certificate is not None:
        return proved(
            "point.kinks",
            statement,
            backprop.certificate,
            method="enclosures of every kink input, all rounding included",
            scope=Scope.POINT,
            estimate=0.0,
            interval=(0.0, 0.0),
            error_kind="exact",
            unit="count",
            sample_size=found.entries,
        )
    return measured(
        "point.kinks",
        statement,
        float(found.active),
        method="floating-point forward pass over all data",
        error_kind="rounding of the forward pass",
        unit="count",
        sample_size=found.entries,
        scope=Scope.POINT,
    )


def _next_nearest(found: Census) -> float:
    return min((site.nearest_inactive for site in found.sites), default=math.inf)


def backprop_finding(found: Census, backprop: Backprop) -> Finding:
    """point.backprop_clarke: whether backprop's output is a Clarke subgradient."""
    claim = "point.backprop_clarke"
    if backprop.verdict is Verdict.PROVED and backprop.certificate is not None:
        words = {
            "smooth": "Backprop returns the gradient: no operator of the loss has a kink.",
            "lemma": "What backprop computes is, in exact arithmetic, a Clarke subgradient at every theta, for every "
            "batch: each kink has trainable parameters of its own that move it to the side whose derivative PyTorch "
            "takes (to both, where it takes their mean).",
            "margins": "Backprop returns the gradient here: every kink input is away from its kink by more "
            "than all rounding.",
            "membership": f"Backprop's output is a Clarke subgradient here: {backprop.reason}.",
        }
        return proved(
            claim,
            words[backprop.how],
            backprop.certificate,
            method=_METHODS[backprop.how],
            scope=Scope.POINT if backprop.how in ("margins", "membership") else Scope.GLOBAL,
            source=_BIAS_LEMMA if backprop.how == "lemma" else "",
        )
    if backprop.how == "membership" and backprop.distance is not None and backprop.verdict is Verdict.MEASURED:
        return measured(
            claim,
            f"Backprop's output is a Clarke subgradient here: {backprop.reason}.",
            backprop.distance,
            method="distance to the exact Clarke subdifferential, in rationals",
            error_kind="rounding",
            unit="distance to the Clarke subdifferential",
            sample_size=found.entries,
            scope=Scope.POINT,
        )
    if backprop.verdict is Verdict.MEASURED:
        return measured(
            claim,
            f"Backprop returns the gradient here as far as the forward pass shows: {backprop.reason}.",
            found.nearest,
            method="floating-point forward pass over all data",
            error_kind="rounding of the forward pass",
            unit="distance of the nearest kink input",
            interval=(0.0, found.nearest),
            sample_size=found.entries,
            scope=Scope.POINT,
        )
    if backprop.verdict is Verdict.REFUTED:
        return refuted_finding(
            claim,
            f"Backprop's output is no Clarke subgradient here: {backprop.reason}.",
            {"distance": backprop.distance, "active_kinks": found.active},
            method="distance to the Clarke subdifferential",
            scope=Scope.POINT,
        )
    return unknown(
        claim,
        f"Whether backprop's output is a Clarke subgradient here is open: {backprop.reason}.",
        missing=backprop.reason,
        remedy="tame.nonsmooth.safe_gradient(problem) returns one",
        scope=Scope.POINT,
    )


def clarke_finding(found: Census, backprop: Backprop, distance: ClarkeDistance | None = None) -> Finding:
    """point.clarke_critical: the distance from 0 to the Clarke subdifferential, or bounds on it."""
    claim, size = "point.clarke_critical", float(backprop.gradient.norm())

    def within(
        statement: str, lower: float, upper: float, method: str, kind: str, sample: int | None = None
    ) -> Finding:
        return measured(
            claim,
            statement,
            upper,
            method=method,
            error_kind=kind,
            interval=(lower, upper),
            unit="norm of a subgradient",
            sample_size=sample,
            scope=Scope.POINT,
        )

    if found.smooth or (found.active == 0 and not found.unread and backprop.verdict is not Verdict.UNKNOWN):
        exact = found.smooth or backprop.how == "margins"
        method = "norm of the full-batch gradient" + ("" if exact else "; no kink active in the forward pass")
        statement = f"The Clarke subdifferential here is the gradient alone, at distance {size:.2e} from 0."
        return within(statement, size, size, method, "rounding")
    if backprop.clarke is not None and not backprop.clarke.empty:
        solution, exact = backprop.clarke.min_norm(), backprop.clarke.status == "exact"
        least = f"{'' if exact else 'at most '}{solution.distance:.2e}"
        return within(
            f"{backprop.clarke.kinks} kinks are active; 0 is {least} from the Clarke subdifferential.",
            solution.lower_bound if exact else 0.0,
            solution.distance,
            "exact cells of the active kinks, least-norm point of their hull",
            "rounding" if exact else "upper bound",
        )
    if distance is not None:
        least = f"between {distance.lower:.2e} and" if distance.lower > 0 else "at most"
        method = f"least norm in the hull of {distance.elements} limits of gradients from {distance.calls} directions"
        return within(
            f"{found.active:,} kinks are active; 0 is {least} {distance.upper:.2e} from the Clarke subdifferential "
            f"(backprop's output has norm {size:.2e}).",
            distance.lower,
            distance.upper,
            method + (f"; from below by a {distance.outer}" if distance.lower > 0 else ""),
            "enclosure" if distance.lower > 0 else "upper bound",
            distance.calls,
        )
    if backprop.verdict is Verdict.PROVED:
        return within(
            f"{found.active:,} kinks are active; 0 is within {size:.2e} of the Clarke subdifferential.",
            0.0,
            size,
            "norm of backprop's output, a Clarke subgradient",
            "upper bound",
        )
    return unknown(
        claim,
        f"The distance from 0 to the Clarke subdifferential is open: {backprop.reason}.",
        missing=backprop.reason,
        remedy="tame.nonsmooth.goldstein(...) bounds it from above nearby",
        scope=Scope.POINT,
    )


def kinks_picture(found: Census) -> tuple[Picture, ...]:
    """How near the kinks are, by operator."""
    series = [
        Series.of(site.step, site.decades, site.histogram, "steps") for site in found.sites if sum(site.histogram)
    ]
    if not series:
        return ()
    return (
        Picture(
            "kinks",
            "How near the kinks are",
            "log10 of the distance of an input to its kink",
            "inputs",
            tuple(series),
            y_log=True,
            caption="Inputs of each nonsmooth operator by their distance to its kink, over all data.",
        ),
    )
