"""What the audit asks about kinks: who sits on one, what backprop is worth there, and is the point critical."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Cost, Scope, measured, unknown
from tameopt.evidence import refuted as refuted_finding
from tameopt.nonsmooth.backprop import Backprop, check_backprop
from tameopt.nonsmooth.chain_rule import ChainRule, chain_rule
from tameopt.nonsmooth.clarke_distance import ClarkeDistance, clarke_distance
from tameopt.nonsmooth.goldstein import goldstein
from tameopt.nonsmooth.graph import TraceError
from tameopt.nonsmooth.kink_findings import backprop_finding, clarke_finding, kinks_finding, kinks_picture
from tameopt.nonsmooth.kinks import Census, census, graphs_of
from tameopt.nonsmooth.proximal_findings import ANALYSIS as PROXIMAL

_DELTA = 1e-3  # radius of the Goldstein ball as a share of norm(theta): our choice, three digits of theta
_GRADIENTS = 24  # sampled gradients of the Goldstein test: our choice, well under a second on digits
_DIRECTIONS = 30  # cells of active kinks looked into for a small subgradient, in the time left: our choice
_SEGMENTS = 6  # pieces of the run on which the chain rule is integrated: our choice


def _cost(context: Context, begun: float, gradients: float) -> Cost:
    return Cost(gradients=gradients, seconds=time.perf_counter() - begun)


# -- kinks, backprop, Clarke criticality -------------------------------------------------------------------


def _analyse_kinks(context: Context) -> Answer:
    begun = time.perf_counter()
    claims = ("point.kinks", "point.backprop_clarke", "point.clarke_critical")
    if not bool(torch.isfinite(context.theta).all()):
        return _all_unknown(claims, "theta is not finite")
    try:
        graphs = graphs_of(context.problem, context.theta)
        found = census(context.problem, context.theta, graphs)
    except TraceError as error:
        return _all_unknown(claims, str(error))
    backprop = check_backprop(context.problem, context.theta, found=found, graphs=graphs)
    at_point = backprop
    if backprop.how == "lemma" and found.active == 0:
        at_point = check_backprop(context.problem, context.theta, found=found, graphs=graphs, margins_first=True)
    distance, spent = _distance(context, found, backprop), 4.0
    spent += 2.0 * distance.calls if distance is not None else 0.0
    findings = (
        kinks_finding(found, at_point),
        backprop_finding(found, backprop),
        clarke_finding(found, at_point, distance),
    )
    facts = {
        "kinks": [
            {
                "step": site.step,
                "operator": site.op,
                "kind": site.kind,
                "entries": site.entries,
                "active": site.active,
                "nearest": site.nearest if math.isfinite(site.nearest) else None,
            }
            for site in found.sites
        ]
    }
    return Answer(findings, kinks_picture(found), facts, _cost(context, begun, spent))


def _distance(context: Context, found: Census, backprop: Backprop) -> ClarkeDistance | None:
    """With active kinks whose exact set is out of reach: an interval by column generation, in the time left."""
    if found.active == 0 or backprop.clarke is not None:
        return None
    context.notify("looking for small subgradients among the active kinks")
    seconds = max(0.5, min(5.0, context.deadline_seconds / 4))
    try:
        return clarke_distance(
            context.problem, context.theta, calls=_DIRECTIONS, seed=context.seed, seconds=seconds, backprop=backprop
        )
    except (ValueError, TraceError):  # an operator that the safe gradient does not know
        return None


def _all_unknown(claims: tuple[str, ...], reason: str) -> Answer:
    return Answer(
        tuple(
            unknown(
                claim,
                f"Not decided: {reason}.",
                missing=reason,
                remedy="write the model without branches on values, or ask on a plain function of theta",
                scope=Scope.POINT,
            )
            for claim in claims
        )
    )


# -- Goldstein ---------------------------------------------------------------------------------------------


def _analyse_goldstein(context: Context) -> Answer:
    begun = time.perf_counter()
    problem, theta = context.problem, context.theta
    claim = "goldstein.stationary"
    centre = problem.gradient(theta)
    if not bool(torch.isfinite(centre).all()):
        return _all_unknown((claim,), "the gradient at theta is not finite")
    delta = _DELTA * max(float(theta.norm()), 1e-8)
    size = float(centre.norm())
    if _is_smooth(context):
        finding = measured(
            claim,
            f"No operator has a kink: the gradient itself, of norm {size:.3g}, bounds the least subgradient.",
            size,
            method="norm of the full-batch gradient",
            error_kind="upper bound",
            interval=(0.0, size),
            unit="norm of the gradient",
            scope=Scope.POINT,
        )
        return Answer((finding,), (), {"delta": delta}, _cost(context, begun, 1.0))
    context.notify("sampling gradients near the last iterate")
    result = goldstein(
        problem.gradient,
        theta,
        delta,
        samples=_GRADIENTS,
        generator=context.generator(61),
        seconds=max(1.0, min(3.0, context.deadline_seconds)),
    )
    finding = measured(
        claim,
        f"Averages of the gradients at {result.samples} points within {delta:.2g} of theta come down to norm "
        f"{result.eps:.3g} (at theta {result.centre:.3g}): theta is ({delta:.2g}, {result.eps:.3g})-stationary. "
        "A large number here proves nothing.",
        result.eps,
        method=f"least norm in the hull of {result.samples} full-batch gradients, Wolfe's algorithm",
        error_kind="upper bound",
        interval=(0.0, result.eps),
        unit="norm of a subgradient",
        sample_size=result.samples,
        seed=context.seed,
        source="Goldstein 1977; Burke, Lewis & Overton 2005",
        scope=Scope.POINT,
    )
    facts = {"delta": delta, "eps": result.eps, "gap": result.solution.gap}
    return Answer((finding,), (), facts, _cost(context, begun, 1.0 + result.samples))


def _is_smooth(context: Context) -> bool:
    try:
        return census(context.problem, context.theta).smooth
    except TraceError:
        return False


# -- the chain rule ----------------------------------------------------------------------------------------


def _analyse_chain_rule(context: Context) -> Answer:
    begun = time.perf_counter()
    assert context.run is not None
    claim = "chain_rule.along_run"
    steps = context.run.vector_steps("theta")
    starts = np.unique(np.linspace(0, len(steps) - 2, min(_SEGMENTS, len(steps) - 1)).round().astype(int))
    checks: list[tuple[int, int, ChainRule]] = []
    budget = max(1.0, min(4.0, context.deadline_seconds))
    for start in starts:
        first, last = int(steps[start]), int(steps[start + 1])
        curve = [context.run.vector(step).to(context.problem.device, context.problem.dtype) for step in (first, last)]
        if not all(bool(torch.isfinite(point).all()) for point in curve):
            continue
        checks.append((first, last, chain_rule(context.problem.value_and_gradient, curve)))
        if time.perf_counter() - begun > budget:
            break
    if not checks:
        return _all_unknown((claim,), "the recorded iterates are not finite")
    cost = _cost(context, begun, 26.0 * len(checks))
    wrong = [(first, last, check) for first, last, check in checks if not check.holds]
    pieces = f"{len(checks)} pieces of the run between recorded iterates"
    if wrong:
        first, last, check = max(wrong, key=lambda entry: entry[2].relative)
        worst = check.worst
        witness = {
            "first_step": first,
            "last_step": last,
            "change_of_F": worst.change,
            "integral_of_gradient": worst.integral,
            "quadrature_error": worst.uncertainty,
        }
        return Answer(
            (
                refuted_finding(
                    claim,
                    f"Between steps {first:,} and {last:,} F changes by {worst.change:.3e}, but what backprop "
                    f"returns integrates to {worst.integral:.3e}: it is not a derivative of F there "
                    "(a detached branch, a straight-through estimator or a custom backward).",
                    witness,
                    method=f"composite Gauss quadrature on {pieces}, refined until it settled",
                    scope=Scope.PATH,
                ),
            ),
            cost=cost,
        )
    _, _, check = max(checks, key=lambda entry: entry[2].violation)
    finding = measured(
        claim,
        f"The chain rule holds along {pieces}: F(b) - F(a) and the integral of backprop's output differ by at most "
        f"{check.violation:.1e}, within the error of the quadrature.",
        check.violation,
        method=f"composite Gauss quadrature on {pieces}",
        error_kind="quadrature error",
        interval=(0.0, 5 * check.worst.uncertainty + check.violation),
        unit="units of F",
        sample_size=len(checks),
        source="Bolte & Pauwels 2021, Theorem 1",
        scope=Scope.PATH,
    )
    return Answer((finding,), cost=cost)


def _skip_chain_rule(context: Context) -> str:
    if context.run is None:
        return "no run: the chain rule is checked between recorded iterates"
    if len(context.run.vector_steps("theta")) < 2:
        return "fewer than two iterates were saved"
    return ""


ANALYSES: tuple[Analysis, ...] = (
    Analysis(
        "nonsmooth.kinks",
        "Is the last iterate on a kink, and is backprop's output a subgradient there?",
        ("point.kinks", "point.backprop_clarke", "point.clarke_critical"),
        lambda context: Cost(gradients=4.0, seconds=1.0),
        _analyse_kinks,
    ),
    Analysis(
        "nonsmooth.goldstein",
        "Is there a small subgradient near the last iterate?",
        ("goldstein.stationary",),
        lambda context: Cost(gradients=1.0 + _GRADIENTS, seconds=1.0),
        _analyse_goldstein,
    ),
    Analysis(
        "nonsmooth.chain_rule",
        "Does what backprop returns integrate to the change of F along the run?",
        ("chain_rule.along_run",),
        lambda context: Cost(gradients=26.0 * _SEGMENTS, seconds=2.0),
        _analyse_chain_rule,
        _skip_chain_rule,
    ),
    PROXIMAL,
)
