"""Findings at the last iterate: is it critical, and which way does the loss curve there."""

from __future__ import annotations

import math
import time
from typing import Any

from tameopt.analysis import Answer, Context
from tameopt.curvature.classification import Classification, classify
from tameopt.curvature.eigenvalues import Spectrum
from tameopt.curvature.planes import loss_plane
from tameopt.curvature.proved_findings import (
    proved_hyperbolic,
    proved_index,
    proved_second_order,
    proved_strict_saddle,
)
from tameopt.evidence import Cost, Finding, Scope, measured, proved, refuted, unknown
from tameopt.picture import Picture, Series

POINT_CLAIMS = (
    "point.critical",
    "point.lambda_min",
    "point.lambda_max",
    "point.strict_saddle",
    "point.second_order",
    "point.hyperbolic",
    "point.index",
)


def analyse_point(context: Context) -> Answer:
    """Yields POINT_CLAIMS, a picture of the eigenvalues with their error bars, and the table behind it."""
    began = time.perf_counter()
    point = classify(
        context.problem,
        context.theta,
        dense_below=50 if context.problem.n_total > 1 else 200,
        max_products=240,
        generator=context.generator(2),
        rigorous=_worth_a_proof(context),
        notify=context.notify,
    )
    found = point.spectrum
    if found.all_ritz.numel() == 0:
        missing = found.failure or "finite Hessian products at the last iterate"
        findings = tuple(
            unknown(
                claim, "The Hessian at the last iterate could not be evaluated.", missing=missing, scope=Scope.POINT
            )
            for claim in POINT_CLAIMS
        )
        return Answer(findings, cost=Cost(1, found.products, time.perf_counter() - began))
    how = f"{'dense Hessian' if found.complete else 'block Lanczos'}, {found.products} Hessian products"
    shared: dict[str, Any] = {"method": how, "scope": Scope.POINT, "seed": context.seed}
    findings = (
        _critical(point),
        *_ends(point, shared),
        proved_strict_saddle(point) or _strict_saddle(point, shared),
        proved_second_order(point) or _second_order(point, shared),
        proved_hyperbolic(point) or _hyperbolic(point, shared),
        proved_index(point) or _index(point, shared),
    )
    facts = {
        "kind": point.kind,
        "hessian_kind": point.hessian_kind,
        "reason": point.reason,
        "eigenvalues": found.rows(),
        "gradient_norm": point.gradient_norm,
    }
    pictures = (eigenvalue_picture(point.spectrum, "Hessian eigenvalues at the last iterate"), *_plane(context))
    return Answer(findings, pictures, facts, Cost(1, found.products, time.perf_counter() - began))


def _plane(context: Context) -> tuple[Picture, ...]:
    """The loss on the plane of the run's two main directions, where that costs half a second at most."""
    run = context.run
    if run is None or context.problem.dim < 2 or context.problem.dim * max(context.problem.n_total, 1) > 10_000_000:
        return ()
    saved = run.vector_steps("theta")
    # our choice: 60 points show the path, and consecutive ones of a recorded window add nothing to the plane
    steps = sorted({int(saved[j]) for j in range(0, saved.size, max(1, saved.size // 60))} | set(saved[-1:].tolist()))
    path = [run.vector(step) for step in steps]
    if len(path) < 3 or not all(bool(theta.isfinite().all()) for theta in path):
        return ()
    plane = loss_plane(context.problem, path, points=15, generator=context.generator(4))
    return (plane.picture("The loss around the run"),) if bool(plane.losses.isfinite().all()) else ()


def _worth_a_proof(context: Context) -> bool:
    # our choice: the tape of F has some 10 operations a parameter and sample, and a proof takes a second there
    return context.problem.dim <= 24 and context.problem.dim * max(context.problem.n_total, 1) <= 400


def _critical(point: Classification) -> Finding:
    how = "full-data gradient, largest curvature found"
    g, distance = point.gradient_norm, point.distance_to_critical
    proof = point.proof
    if proof is not None and proof.index is not None and proof.radius == 0 and proof.distance == 0:
        return proved(
            "point.critical",
            "The last iterate is a critical point: its gradient is exactly 0.",
            proof.certificate,
            method="exact rational arithmetic",
            estimate=0.0,
            scope=Scope.POINT,
        )
    if not math.isfinite(g):
        return unknown(
            "point.critical",
            "The gradient at the last iterate is not finite.",
            missing="a finite gradient",
            method=how,
            scope=Scope.POINT,
        )
    if point.kind == "not critical":
        return refuted(
            "point.critical",
            f"The last iterate is not critical: norm(grad F) = {g:.3g}; a critical point is at least about "
            f"{distance:.2g} away.",
            {"gradient_norm": g, "distance_at_least_about": distance},
            method=how,
            estimate=g,
            scope=Scope.POINT,
        )
    return measured(
        "point.critical",
        f"The last iterate is critical to working accuracy: norm(grad F) = {g:.2g}, about {distance:.1g} in theta.",
        g,
        method=how,
        error_kind="rounding",
        scope=Scope.POINT,
    )


def _ends(point: Classification, shared: dict[str, Any]) -> tuple[Finding, Finding]:
    found = point.spectrum
    known = math.isfinite(found.missed)
    low_error, high_error = float(found.errors[0]), float(found.errors[-1])
    reach = found.missed if known else math.nan
    if found.complete:
        kind, low_reach, high_reach = "bound (all eigenvalues, rounding)", low_error, high_error
    elif known:
        kind, low_reach, high_reach = "99% interval (random start)", max(low_error, reach), max(high_error, reach)
    else:
        kind, low_reach, high_reach = "an eigenvalue lies within; others may be beyond", low_error, high_error
    low, high = found.lambda_min, found.lambda_max
    return (
        measured(
            "point.lambda_min",
            f"The least curvature found is {low:.3g} (+- {low_error:.1g}).",
            low,
            interval=(low - low_reach, low + found.noise),
            error_kind=kind,
            **shared,
        ),
        measured(
            "point.lambda_max",
            f"The steepest curvature is {high:.4g} (+- {high_error:.1g}).",
            high,
            interval=(high - found.noise, high + high_reach),
            error_kind=kind,
            **shared,
        ),
    )


def _negative_witness(point: Classification) -> dict[str, float]:
    found = point.spectrum
    return {"lambda_min": found.lambda_min, "error": float(found.errors[0]), "gradient_norm": point.gradient_norm}


def _strict_saddle(point: Classification, shared: dict[str, Any]) -> Finding:
    claim, low = "point.strict_saddle", point.spectrum.lambda_min
    if point.kind == "not critical":
        curves = (
            f"but a direction curves down ({low:.3g})"
            if point.hessian_kind in ("strict saddle", "maximum")
            else "and no direction found curves down beyond the error"
        )
        return refuted(
            claim,
            f"Not a saddle: the last iterate is not critical (norm(grad F) = {point.gradient_norm:.2g}), {curves}.",
            _negative_witness(point),
            **shared,
        )
    if point.kind in ("strict saddle", "maximum"):
        return measured(
            claim,
            f"A strict saddle to working accuracy: critical, and a direction curves down with {low:.3g}.",
            low,
            interval=(low - float(point.spectrum.errors[0]), low + point.spectrum.noise),
            error_kind="residual bound",
            **shared,
        )
    if point.kind == "minimum":
        return refuted(
            claim,
            f"Not a saddle: every direction curves up, by at least {low:.3g} as far as found.",
            _negative_witness(point),
            **shared,
        )
    return unknown(
        claim,
        f"Whether this is a strict saddle is open: {point.reason}",
        missing="a smallest eigenvalue that is farther from 0 than its error",
        remedy="tame.curvature.classify(problem, theta, k=20, max_products=2000)",
        **shared,
    )


def _second_order(point: Classification, shared: dict[str, Any]) -> Finding:
    claim, low, found = "point.second_order", point.spectrum.lambda_min, point.spectrum
    if point.kind == "not critical":
        return refuted(
            claim,
            f"Not a second-order point: the gradient is not 0 (norm {point.gradient_norm:.2g}).",
            _negative_witness(point),
            **shared,
        )
    if point.kind in ("strict saddle", "maximum"):
        return refuted(
            claim,
            f"Not a second-order point: a direction curves down ({low:.3g}).",
            _negative_witness(point),
            **shared,
        )
    if point.kind in ("minimum", "degenerate"):
        reach = max(float(found.errors[0]), found.missed if math.isfinite(found.missed) else 0.0)
        flat = (
            ""
            if point.kind == "minimum"
            else "; some directions are flat, which floating point cannot tell from down"
        )
        return measured(
            claim,
            f"Second-order critical as far as measured: lambda_min = {low:.2g}{flat}.",
            low,
            interval=(low - reach, low + found.noise),
            error_kind="bound (rounding)" if found.complete else "99% interval (random start)",
            **shared,
        )
    return unknown(
        claim,
        f"Whether this is a second-order point is open: {point.reason}",
        missing="a smallest eigenvalue that is farther from 0 than its error",
        remedy="tame.curvature.classify(problem, theta, k=20, max_products=2000)",
        **shared,
    )


def _hyperbolic(point: Classification, shared: dict[str, Any]) -> Finding:
    claim, found = "point.hyperbolic", point.spectrum
    if point.kind == "not critical":
        return unknown(claim, "Not at a critical point.", missing="a critical point", **shared)
    smallest = float(found.all_ritz.abs().min())
    sure = found.complete and point.nullity == 0
    if sure or point.kind in ("minimum", "maximum"):
        return measured(
            claim,
            f"No eigenvalue is 0: the smallest in size is {smallest:.2g}.",
            smallest,
            interval=(smallest - (found.noise if found.complete else found.missed), smallest + found.noise),
            error_kind="bound (rounding)" if found.complete else "99% interval (random start)",
            **shared,
        )
    if found.complete:
        return unknown(
            claim,
            f"{point.nullity} of {found.dim:,} eigenvalues cannot be told from 0.",
            missing="exact arithmetic: rounding hides whether they are 0",
            **shared,
        )
    return unknown(
        claim,
        f"Whether some eigenvalue is 0 is not known: {found.eigenvalues.numel()} of {found.dim:,} were computed.",
        missing="the eigenvalues in the middle of the spectrum",
        remedy=f"tame.curvature.classify(problem, theta, dense_below={found.dim})",
        **shared,
    )


def _index(point: Classification, shared: dict[str, Any]) -> Finding:
    found = point.spectrum
    low, high = point.index_interval
    estimate = float(point.index if point.index is not None else low)
    at = "" if point.kind != "not critical" else " (of the Hessian; the point is not critical)"
    if point.index is not None and low == high:
        statement = f"{point.index} of {found.dim:,} directions curve down{at}."
    elif point.index is not None:
        statement = f"{point.index} of {found.dim:,} directions curve down, {point.nullity} are flat to rounding{at}."
    else:
        statement = f"At least {low} of {found.dim:,} directions curve down{at}."
    return measured(
        "point.index",
        statement,
        estimate,
        interval=(float(low), float(high)),
        error_kind="bound (interlacing of Ritz values, rounding)",
        **shared,
    )


def eigenvalue_picture(found: Spectrum, title: str = "Hessian eigenvalues") -> Picture:
    """The eigenvalues that were found, with error bars."""
    values = found.eigenvalues.tolist()
    # the two ends side by side: the middle was not computed
    positions = [float(j + 1) for j in range(len(values))]
    bars_x: list[float] = []
    bars_y: list[float] = []
    for position, middle, error in zip(positions, values, found.errors.tolist(), strict=True):
        bars_x += [position, position, math.nan]
        bars_y += [middle - error, middle + error, math.nan]
    return Picture(
        name="eigenvalues",
        title=title,
        x_label="number, from the smallest",
        y_label="eigenvalue",
        series=(
            Series.of("eigenvalue", positions, values, "points"),
            Series.of("error bar", bars_x, bars_y),
            Series("0", y=(0.0,), style="hline"),
        ),
        caption="Below 0 the loss curves down. "
        + ("All eigenvalues." if found.complete else f"The two ends of {found.dim:,} eigenvalues, side by side."),
    )
