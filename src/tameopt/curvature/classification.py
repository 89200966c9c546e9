"""What kind of point theta is: critical or not, minimum, strict saddle, maximum, degenerate, or undecided.

Floating-point arithmetic cannot prove that an eigenvalue is 0, nor that a gradient is. What it can show, and what
is reported, is which eigenvalues lie farther from 0 than their errors, and how far the nearest critical point must
at least be. `curvature.rigorous` proves more for small problems.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tameopt.curvature.eigenvalues import Spectrum, spectrum
from tameopt.curvature.linear_networks import Inertia, inertia
from tameopt.curvature.nearby import change_on_the_way, falls_along, kernel_part, newton_step, slope_jump
from tameopt.curvature.rigorous import NoProof, PointProof, prove_point
from tameopt.evidence import Verdict
from tameopt.problem import Problem

KINDS = ("minimum", "strict saddle", "maximum", "degenerate", "not critical", "undecided")

# A point counts as critical when the lower bound norm(g) / L on its distance to a critical point is below this
# share of max(1, norm(theta)). Our choice: 1e-6 is what optimizers run to convergence in float64 reach easily.
GRADIENT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
# Eigenvalues this small against the largest count as 0. Our choice: at a point that is critical to 1e-6, a zero
# eigenvalue of the critical point shows up at about 1e-6 times the Hessian's own Lipschitz constant.
ZERO_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
# Signs count all eigenvalues where those called 0 are this much smaller than any other. Our choice.
_CLEAR_GAP = 1e3
# A gradient along directions that count as flat is told from a degenerate point, which is reached slowly, by the step
# that it asks for: 1e-9 of the largest eigenvalue, as far as a search goes, over 1e-6 of it. Our choice.
_FLAT_STEP = 1e-3
_FAR_STEP = 0.1  # of norm(theta), how far along a flat gradient is looked; our choice
_MOSTLY_FLAT = 0.7  # share of norm(g) in the kernel; our choice


@dataclass(frozen=True)
class Classification:
    """A point and its curvature.

    kind: one of KINDS; "maximum" and "strict saddle" both have a negative direction (Lee et al. 2016 call both
        strict saddles). hessian_kind: what the Hessian alone says, whatever the gradient ("minimum" then means
        that no direction curves down).
    index, nullity: numbers of negative and of zero eigenvalues, None when not all were found.
    index_interval, nullity_interval: what they lie in given the errors; an upper end of d means "not known".
    eigenvalues, residuals: (p,) found, ascending. negative_directions: (d, q), one column for each of the q
        surely negative eigenvalues that were found.
    gradient_norm: norm(grad F(theta)). distance_to_critical: at least this far to any critical point, as far as
        the largest eigenvalue found bounds the gradient's Lipschitz constant on the way.
    theta: (d,) the point. value: F(theta).
    verdict: MEASURED, UNKNOWN for "undecided", PROVED only with `rigorous=True`; then `proof` holds the certificate
        and says how far from theta the proved critical point lies. reason: in words.
    """

    kind: str
    hessian_kind: str
    index: int | None
    nullity: int | None
    index_interval: tuple[int, int]
    nullity_interval: tuple[int, int]
    eigenvalues: torch.Tensor
    residuals: torch.Tensor
    negative_directions: torch.Tensor
    gradient_norm: float
    distance_to_critical: float
    value: float
    verdict: Verdict
    reason: str
    spectrum: Spectrum
    theta: torch.Tensor
    proof: PointProof | None = None

    def __repr__(self) -> str:
        index = f"index {self.index}" if self.index is not None else f"index in {list(self.index_interval)}"
        nullity = f", nullity {self.nullity}" if self.nullity is not None else ""
        return f"Classification({self.kind}, {index}{nullity}, norm(g) {self.gradient_norm:.2e}, {self.verdict})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p><p>{html.escape(self.reason)}</p>{self.spectrum._repr_html_()}"


def classify(
    problem: Problem,
    theta: torch.Tensor | None = None,
    *,
    k: int = 10,
    gradient_tolerance: float | None = None,
    zero_tolerance: float | None = None,
    dense_below: int = 1000,
    max_products: int | None = None,
    start: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    rigorous: bool = False,
    notify: Callable[[str], None] = lambda message: None,
) -> Classification:
    """Classify theta by its gradient and the eigenvalues of its Hessian.

    theta: (d,), by default the model's parameters now. gradient_tolerance: theta is critical when norm(g) <=
    gradient_tolerance * max(1, norm(theta)) * max abs(eigenvalue), or norm(g) is within rounding of 0.
    zero_tolerance: eigenvalues up to this share of the largest count as 0. dense_below: up to this d all
    eigenvalues are computed, by d products; beyond it, k at each end by block Lanczos, and then index and nullity
    are intervals, except for deep linear networks (`linear_networks.inertia`).
    rigorous: try a proof in interval or exact arithmetic (`rigorous.prove_point`; small problems only);
    where it fails, the reason says why and the measured kind stands. The other arguments are those of `spectrum`.

    The kind is MEASURED unless proved. Cost: one gradient and `result.spectrum.products` Hessian products.

    >>> F = lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2
    >>> classify(Problem.from_function(F, torch.zeros(2, dtype=torch.float64)))
    Classification(strict saddle, index 1, nullity 0, norm(g) 0.00e+00, MEASURED)
    """
    at = problem.theta if theta is None else theta
    value, gradient = problem.value_and_gradient(at)
    if gradient_tolerance is None:
        gradient_tolerance = GRADIENT_TOLERANCE.get(problem.dtype, 1e-3)
    if zero_tolerance is None:
        zero_tolerance = ZERO_TOLERANCE.get(problem.dtype, 1e-3)
    signs = inertia(problem, at) if problem.dim > dense_below else None
    found = spectrum(
        problem,
        at,
        k,
        dense_below=dense_below,
        # where the signs are known, the eigenvalues are for show: 200 products (our choice) bound their time
        max_products=200 if signs is not None and max_products is None else max_products,
        start=start,
        generator=generator,
        notify=notify,
    )
    point = judge(found, float(value), float(gradient.double().norm()), at, gradient_tolerance, zero_tolerance)
    if point.kind in ("minimum", "strict saddle", "maximum", "degenerate") and point.gradient_norm > 0:
        point = _at_the_critical_point(problem, point, gradient, gradient_tolerance, zero_tolerance)
    elif point.kind == "undecided" and found.all_ritz.numel() and not found.complete:
        point = _unless_flat(problem, point, gradient, max(found.noise, zero_tolerance * found.norm))
    if signs is not None:
        point = _with_signs(point, signs, zero_tolerance)
    point = _with_kink(problem, point, gradient)
    return _with_proof(point, prove_point(problem, at)) if rigorous else point


def _with_kink(problem: Problem, point: Classification, gradient: torch.Tensor) -> Classification:
    """The classification, or what is left of it where F has a kink at theta: gradient and Hessian are one piece's."""
    if not math.isfinite(point.value + point.gradient_norm):
        return point
    jump = slope_jump(problem, point.theta, point.value)
    if jump == 0:
        return point
    kink = (
        f"F has a kink at theta: along a random line its slope jumps by {abs(jump):.2g}. Gradient and Hessian are "
        "those of the piece that autodiff takes; tame.nonsmooth.clarke_distance looks at all pieces."
    )
    if point.kind == "not critical" and falls_along(problem, point.theta, gradient, point.value):
        return dataclasses.replace(point, reason=f"{point.reason} {kink} F falls along -g all the same.")
    return dataclasses.replace(point, kind="undecided", verdict=Verdict.UNKNOWN, reason=kink)


def _at_the_critical_point(
    problem: Problem, point: Classification, gradient: torch.Tensor, gradient_tolerance: float, zero_tolerance: float
) -> Classification:
    """The classification with what may change between theta and the critical point, or with why there is none."""
    found = point.spectrum
    zero = max(found.noise, zero_tolerance * found.norm)
    step = newton_step(found, gradient, zero)
    value, next_gradient = problem.value_and_gradient(point.theta + step.to(point.theta))
    change = change_on_the_way(problem, point.theta, found, step, zero)
    if not math.isfinite(change + float(value) + float(next_gradient.norm())):
        return dataclasses.replace(
            point,
            kind="undecided",
            verdict=Verdict.UNKNOWN,
            reason="F or its Hessian is no number one step of Newton's method away, where the critical point would "
            "lie.",
        )
    if change > found.noise:
        noisier = dataclasses.replace(found, noise=found.noise + change, errors=found.errors + change)
        size = point.gradient_norm
        judged = judge(noisier, point.value, size, point.theta, gradient_tolerance, zero_tolerance)
        moved = f" On the way to the critical point eigenvalues near 0 may change by {change:.2g}."
        point = dataclasses.replace(judged, spectrum=found, reason=judged.reason + moved)
    return _unless_flat(problem, point, gradient, zero)


def _unless_flat(problem: Problem, point: Classification, gradient: torch.Tensor, zero: float) -> Classification:
    """The classification, or "not critical" where Newton's method does not get anywhere from theta.

    Deuflhard's natural monotonicity: the next simplified step, not the next gradient, has to be shorter. Where not
    all eigenvectors are known the steps are those along directions in which the Hessian hardly curves, as far as 60
    products show them, and most of the gradient has to lie there.
    """
    found = point.spectrum
    if not point.gradient_norm > gradient_rounding(found, point.theta, point.value):
        return point
    if found.complete:
        step = newton_step(found, gradient, zero)
        next_gradient = problem.gradient(point.theta + step.to(point.theta))
        following, length = float(newton_step(found, next_gradient, zero).norm()), float(step.norm())
        where, part = "lies in the kernel of the Hessian", 1.0
    else:
        # with less curvature than this, Newton's step is too long for a search that is under way
        limit = point.gradient_norm / (_FLAT_STEP * max(1.0, float(point.theta.norm())))
        kernel = kernel_part(problem.hessian(point.theta), gradient, limit)
        if not kernel.share > _MOSTLY_FLAT:
            return point
        inner = kernel.step(gradient, zero)
        length = float(inner.norm())
        # not farther than F is like its second-order model
        part = min(1.0, _FAR_STEP * max(1.0, float(point.theta.norm())) / length)
        next_gradient = problem.gradient(point.theta + part * (kernel.directions @ inner.to(point.theta)))
        following = float(kernel.step(next_gradient, zero).norm())
        where = f"{100 * kernel.share:.3g}% of it lies in the kernel of the Hessian"
    if not following > 0.9 * length or length <= _FLAT_STEP * max(1.0, float(point.theta.norm())):
        return point
    return dataclasses.replace(
        point,
        kind="not critical",
        verdict=Verdict.MEASURED,
        reason=f"norm(grad F) = {point.gradient_norm:.3g} is small against the curvature, but {where} "
        f"(gradient-flat): a step of Newton's method of length {length:.2g} leaves another of {following:.2g}"
        f"{'' if part == 1 else f' after {part * length:.2g} of it'}, so no critical point was found near.",
    )


def gradient_rounding(found: Spectrum, theta: torch.Tensor, value: float) -> float:
    """What rounding leaves of a gradient that is exactly 0: our choice, some 100 ulp of the terms that cancel."""
    norm = found.norm if found.all_ritz.numel() else 0.0
    size = max(1.0, float(theta.double().norm()))
    return 100 * torch.finfo(found.vectors.dtype).eps * max(norm * size, abs(value))


def _with_signs(point: Classification, signs: Inertia, zero_tolerance: float) -> Classification:
    """The classification with the signs of all eigenvalues, where those that are 0 stand clear of the others."""
    negative, null, gap = signs.counts(zero_tolerance)
    if gap < _CLEAR_GAP:
        return point
    dim = point.spectrum.dim
    surely_negative = int((signs.eigenvalues < -signs.remainder).sum())
    surely_positive = int((signs.eigenvalues > signs.remainder).sum())
    if negative == dim:
        hessian_kind = "maximum"
    elif negative:
        hessian_kind = "strict saddle"
    else:
        hessian_kind = "degenerate" if null else "minimum"
    kind = point.kind if point.kind == "not critical" else hessian_kind
    return dataclasses.replace(
        point,
        kind=kind,
        hessian_kind=hessian_kind,
        index=negative,
        nullity=null,
        index_interval=(surely_negative, dim - surely_positive),
        nullity_interval=(0, null),
        verdict=Verdict.MEASURED,
        reason=f"{point.reason} In the bases of this linear network the Hessian falls into small blocks, up to "
        f"{signs.remainder:.1g}: {negative:,} of {dim:,} eigenvalues are negative, {null:,} are 0 to rounding; the "
        f"others are {gap:.1g} times as large.",
    )


def _with_proof(point: Classification, proof: PointProof | NoProof) -> Classification:
    """The classification with what was proved; a proof that contradicts the measurement is ours to explain."""
    if isinstance(proof, NoProof):
        return dataclasses.replace(point, reason=f"{point.reason} Not proved: {proof.reason}.")
    if point.kind == "not critical" and proof.kind != "not critical":
        # theta itself is measurably off, though a critical point is close
        return dataclasses.replace(point, reason=f"{point.reason} {proof.statement}")
    if proof.kind == "not critical" and point.kind != "not critical":
        # a floating-point theta is hardly ever critical exactly; the point that the run means is
        return dataclasses.replace(point, reason=f"{point.reason} Exactly there: {proof.statement}")
    counts: dict[str, Any] = {}
    if proof.index is not None and proof.nullity is not None:
        counts = {
            "index": proof.index,
            "nullity": proof.nullity,
            "index_interval": (proof.index, proof.index),
            "nullity_interval": (proof.nullity, proof.nullity),
        }
    # that a gradient is not 0 says neither how large it is nor how F curves
    reason = f"{proof.statement} Measured: {point.reason}" if proof.kind == "not critical" else proof.statement
    return dataclasses.replace(point, kind=proof.kind, verdict=Verdict.PROVED, reason=reason, proof=proof, **counts)


def judge(
    found: Spectrum,
    value: float,
    gradient_norm: float,
    theta: torch.Tensor,
    gradient_tolerance: float,
    zero_tolerance: float,
) -> Classification:
    """The classification that a gradient norm and a spectrum support; no further evaluation."""
    hessian_kind, why = _hessian_kind(found, zero_tolerance)
    why = why[0].upper() + why[1:]
    index, nullity, index_interval, nullity_interval = _counts(found, zero_tolerance)
    size = max(1.0, float(theta.double().norm()))
    finite = math.isfinite(gradient_norm) and math.isfinite(value)
    norm = found.norm if found.all_ritz.numel() else 0.0
    distance = gradient_norm / norm if norm > 0 else (0.0 if gradient_norm == 0 else float("inf"))
    critical = finite and (
        gradient_norm <= gradient_rounding(found, theta, value) or distance <= gradient_tolerance * size
    )
    if not finite:
        # 1 / x is a number where log x is none: a finite gradient does not make theta a point of F
        what = f"F is {value}" if not math.isfinite(value) else f"norm(grad F) is {gradient_norm}"
        kind, reason = "undecided", f"{what} at this point."
    elif found.failure and found.all_ritz.numel() == 0:
        kind, reason = "undecided", f"the Hessian could not be evaluated: {found.failure}."
    elif not critical:
        kind = "not critical"
        reason = (
            f"norm(grad F) = {gradient_norm:.3g}: the nearest critical point is at a distance of at least about "
            f"{distance:.2g}. {why}"
        )
    else:
        kind = hessian_kind
        reason = f"norm(grad F) = {gradient_norm:.3g}, critical to within {distance:.1g} in theta. {why}"
    surely_negative = found.eigenvalues < -found.noise if found.complete else found.eigenvalues < -found.errors
    return Classification(
        kind=kind,
        hessian_kind=hessian_kind,
        index=index,
        nullity=nullity,
        index_interval=index_interval,
        nullity_interval=nullity_interval,
        eigenvalues=found.eigenvalues,
        residuals=found.residuals,
        negative_directions=found.vectors[:, surely_negative.to(found.vectors.device)],
        gradient_norm=gradient_norm,
        distance_to_critical=distance,
        value=value,
        verdict=Verdict.UNKNOWN if kind == "undecided" else Verdict.MEASURED,
        reason=reason,
        spectrum=found,
        theta=theta.detach().clone(),
    )


def _counts(
    found: Spectrum, zero_tolerance: float
) -> tuple[int | None, int | None, tuple[int, int], tuple[int, int]]:
    """index, nullity and their intervals."""
    ritz = found.all_ritz
    if ritz.numel() == 0:
        return None, None, (0, found.dim), (0, found.dim)
    noise = found.noise
    zero = max(noise, zero_tolerance * found.norm)
    # interlacing: every Ritz value beyond the noise counts an eigenvalue on its side, converged or not
    surely_negative, surely_positive = int((ritz < -noise).sum()), int((ritz > noise).sum())
    index_interval = (surely_negative, found.dim - surely_positive)
    if not found.complete:
        return None, None, index_interval, (0, found.dim - int((ritz.abs() > noise).sum()))
    negative, null = int((ritz < -zero).sum()), int((ritz.abs() <= zero).sum())
    # floating point never shows a 0: all that is sure is how many are not
    return negative, null, index_interval, (0, null)


def _hessian_kind(found: Spectrum, zero_tolerance: float) -> tuple[str, str]:
    """The kind of a critical point with this spectrum, and why."""
    if found.all_ritz.numel() == 0:
        return "undecided", "no eigenvalue was found."
    low, high = found.lambda_min, found.lambda_max
    zero = max(found.noise, zero_tolerance * found.norm)
    span = f"eigenvalues reach from {low:.4g} to {high:.4g}"
    if low < -zero:
        if high < -zero and (found.complete or found.missed < -high):
            return "maximum", f"all curve down: {span}."
        return "strict saddle", f"a direction curves down: {span}."
    if found.complete:
        if low > zero:
            return "minimum", f"all directions curve up: {span}."
        return "degenerate", f"none curves down beyond {zero:.1g}, some are flat: {span}."
    if not bool(found.converged[0]):
        return "undecided", f"the smallest eigenvalue has not converged: {low:.4g} +- {float(found.errors[0]):.1g}."
    lowest_possible = low - max(float(found.errors[0]), found.missed)
    if lowest_possible > zero:
        return "minimum", f"all directions curve up: {span}; missed by at most {found.missed:.2g} (99%)."
    if low <= zero and float(found.errors[0]) <= zero and found.missed <= zero:
        return "degenerate", f"none found curves down beyond {zero:.1g}: {span}."
    return "undecided", (
        f"no direction that curves down was found ({span}), but one of up to {found.missed:.2g} may have been "
        "missed (99%)."
    )
