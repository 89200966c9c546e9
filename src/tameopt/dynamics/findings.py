"""Whether the gradient map of the run is a diffeomorphism: what a step measured against curvature shows."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import torch

from tameopt.analysis import Analysis, Answer, Context
from tameopt.curvature.cost import product_seconds
from tameopt.curvature.sharpness import Sharpness, lipschitz
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.training_mode import listed, only_in_training

CLAIM = "gradient_map.diffeomorphism"
_LEMMA = "lecture: F C^2, grad F L-Lipschitz, 0 < alpha < 1/L make theta -> theta - alpha grad F a diffeomorphism"


def _points(context: Context) -> tuple[list[int], list[torch.Tensor]]:
    """The first, middle and last recorded iterates: enough to meet an early rise of curvature."""
    run = context.run
    recorded = run.vector_steps("theta") if run is not None else np.array([], dtype=np.int64)
    if run is None or recorded.size == 0:
        return [0], [context.theta]
    chosen = sorted({int(recorded[0]), int(recorded[recorded.size // 2]), int(recorded[-1])})
    points = [(step, run.vector(step)) for step in chosen]
    points = [(step, theta) for step, theta in points if bool(torch.isfinite(theta).all())] or [(0, context.theta)]
    return [step for step, _ in points], [theta for _, theta in points]


def _analyse(context: Context) -> Answer:
    began = time.perf_counter()
    run = context.run
    sizes = run.series("lr")[1] if run is not None else np.array([])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes.size == 0:
        missing = "a step size: the run recorded none" if run is not None else "a step size: there is no run"
        finding = unknown(
            CLAIM,
            "Whether the gradient map is a diffeomorphism depends on the step.",
            missing=missing,
            remedy="tame.dynamics.GradientMap(F, alpha).is_diffeomorphism(theta)",
        )
        return Answer((finding,))
    steps, thetas = _points(context)
    sharpness = lipschitz(context.problem, thetas, steps=steps, generator=context.generator(3), notify=context.notify)
    finding = judge(sharpness, float(sizes.max()), context)
    finding = dataclasses.replace(finding, statement=f"{finding.statement}{_other_map(context)}")
    return Answer((finding,), cost=Cost(len(steps), sharpness.products, time.perf_counter() - began))


def _other_map(context: Context) -> str:
    """A sentence where the run's own steps are not those of the map that is judged; else ""."""
    optimizer = (context.run.meta.get("optimizer") or {}) if context.run is not None else {}
    name, arguments = str(optimizer.get("name") or ""), optimizer.get("arguments") or {}
    own = name if name not in ("", "SGD") else f"{name} with momentum" if arguments.get("momentum") else ""
    modules = [module for part in only_in_training(context.problem) for module in part]
    reasons = [
        *([f"the run stepped by {own}"] if own else []),
        *([f"F is the network as it predicts, training ran {listed(modules)} in training mode"] if modules else []),
    ]
    return f" The map is that of plain gradient descent on F; {', and '.join(reasons)}." if reasons else ""


def judge(sharpness: Sharpness, alpha: float, context: Context) -> Finding:
    """What curvature at some points says about theta -> theta - alpha grad F(theta).

    A point with alpha lambda_max < 1 and one with alpha lambda_max > 1 refute: on the segment between them either
    F is not C^2, and the map not C^1, or lambda_max takes the value 1/alpha, where the map's Jacobian is singular.
    Points with alpha lambda_max > 1 alone do not: on a quadratic the map is linear and invertible.
    """
    how = f"largest step {alpha:g}, Hessian's ends at {len(sharpness.steps)} recorded points"
    known = [j for j, high in enumerate(sharpness.lambda_max) if math.isfinite(high)]
    if not known:
        return unknown(
            CLAIM,
            "The curvature could not be measured.",
            missing=sharpness.failures[0][1] if sharpness.failures else "finite Hessian products",
            method=how,
            scope=Scope.PATH,
        )
    beyond = [j for j in known if alpha * (sharpness.lambda_max[j] - sharpness.errors[j]) > 1]
    # "surely below" needs an upper bound of lambda_max, hence what Lanczos may have missed
    within = [
        j for j in known if alpha * (sharpness.lambda_max[j] + max(sharpness.errors[j], sharpness.missed[j])) < 1
    ]
    largest = max(alpha * sharpness.lambda_max[j] for j in known)
    if beyond and within:
        a, b = within[0], beyond[0]
        first, last = sorted((sharpness.steps[a], sharpness.steps[b]))
        return refuted(
            CLAIM,
            f"The gradient map theta -> theta - {alpha:g} grad F(theta) is no diffeomorphism: on the segment between "
            f"the iterates of steps {first:,} and {last:,} there is a point where its Jacobian is singular, or does "
            "not exist.",
            {
                "alpha": alpha,
                "step_below": sharpness.steps[a],
                "alpha_lambda_max_below": alpha * sharpness.lambda_max[a],
                "step_above": sharpness.steps[b],
                "alpha_lambda_max_above": alpha * sharpness.lambda_max[b],
            },
            method=how + "; lambda_max is continuous where F is C^2",
            estimate=largest,
            scope=Scope.PATH,
        )
    if largest >= 1:
        return unknown(
            CLAIM,
            f"alpha lambda_max reaches {largest:.3g} at the step alpha = {alpha:g}: the lemma (alpha L < 1 makes the "
            "gradient map a diffeomorphism) does not apply, and no singular point of the map was found.",
            missing="alpha L < 1, or a point where the Jacobian I - alpha grad^2 F is singular",
            remedy="tame.dynamics.GradientMap(F, alpha).is_diffeomorphism(theta)",
            method=how,
            scope=Scope.PATH,
        )
    alpha_l = alpha * sharpness.L
    if alpha_l >= 1:
        return unknown(
            CLAIM,
            f"alpha L is at least {alpha_l:.3g} on the path: the lemma (alpha L < 1 makes the gradient map a "
            "diffeomorphism) does not apply.",
            missing="alpha L < 1",
            remedy="tame.dynamics.GradientMap(F, alpha).is_diffeomorphism(theta)",
            method=how,
            scope=Scope.PATH,
        )
    return measured(
        CLAIM,
        f"As far as measured alpha L = {alpha_l:.3g} < 1: near the {len(known)} recorded points the gradient map "
        f"theta -> theta - {alpha:g} grad F(theta) is locally invertible; that it is so everywhere would need L "
        "everywhere.",
        alpha_l,
        method=how,
        error_kind="lower bound of alpha L",
        sample_size=len(known),
        seed=context.seed,
        scope=Scope.PATH,
        source=_LEMMA,
    )


def _cost(context: Context) -> Cost:
    products = 3 * min(context.problem.dim, 40)
    one = product_seconds(context.problem, context.theta)
    return Cost(3, products, products * one if math.isfinite(one) else 0.0)


def _skip(context: Context) -> str:
    if context.problem.dim > 50_000_000:
        return f"d = {context.problem.dim:,}: eigenvalues at three points take minutes"
    return ""


ANALYSES = (
    Analysis(
        name="dynamics.gradient_map",
        question="Is the gradient map of this step a diffeomorphism, as the avoidance of saddles needs?",
        claims=(CLAIM,),
        estimate=_cost,
        analyse=_analyse,
        skip=_skip,
    ),
)
