"""Is the step below the stability limit of its method: on the function that the optimizer steps on.

That function is F, or the loss as trained (`curvature.trained`). A bias before BatchNorm has no gradient at all in
training, so that Adam's denominator there is its eps: with the curvature of F any step would look too long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.analysis import Context
from tameopt.curvature.sharpness import Sharpness
from tameopt.curvature.stability import StabilityLimit, recorded_limit
from tameopt.curvature.trained import TopCurvature, TrainedLoss, inverse_root, top_curvature
from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.run import Run

CLAIM = "step.stable"


@dataclass(frozen=True)
class Steps:
    """What the run says about its steps: alpha_k by k, and the method's limit."""

    numbers: np.ndarray
    sizes: np.ndarray
    limit: StabilityLimit
    stochastic: bool
    batch_size: int | None

    def at(self, step: int) -> float:
        """alpha_k of the last recorded step up to `step` (the final iterate takes no step of its own)."""
        place = int(np.searchsorted(self.numbers, step, side="right")) - 1
        return float(self.sizes[max(place, 0)])


@dataclass(frozen=True)
class StepRatios:
    """The step against its limit at recorded points.

    rows: (step, the least and the largest that alpha lambda_max / limit may be, alpha). function: whose curvature, ""
    for F. lacking: why points are missing. products: Hessian products spent.
    """

    rows: tuple[tuple[int, float, float, float], ...]
    function: str
    lacking: str
    products: int


def steps_of(run: Run | None) -> Steps | str:
    """The steps of the run, or why they are not known."""
    if run is None:
        return "no run was recorded, so that there is no step to judge"
    numbers, sizes = run.series("lr")
    if numbers.size == 0:
        return "the run recorded no step sizes (the series 'lr')"
    keep = np.isfinite(sizes)
    if not keep.any():
        return "no recorded step size is finite"
    meta = run.meta
    full = meta.get("sampling") == "full batch"
    batch_size = None if full else int(meta.get("batch_size") or 0) or None
    return Steps(numbers[keep], sizes[keep], recorded_limit(meta), not full, batch_size)


def step_ratios(context: Context, sharpness: Sharpness, settings: Steps) -> StepRatios:
    """alpha lambda_max / limit at the recorded points where it can be known."""
    limit, problem = settings.limit, context.problem
    assert limit.limit is not None
    batch_size = (settings.batch_size or problem.batches.batch_size) if settings.stochastic else None
    trained = TrainedLoss.of(problem, batch_size, context.seed)
    if not limit.preconditioner and not trained.words:
        rows = [
            (step, ratio, ratio, settings.at(step))
            for step, high in zip(sharpness.steps, sharpness.lambda_max, strict=True)
            if math.isfinite(high)
            for ratio in (settings.at(step) * (high + limit.decay) / limit.limit,)
        ]
        return StepRatios(tuple(rows), "", "no finite curvature was measured", 0)
    run = context.run
    assert run is not None
    known = set(sharpness.steps)
    lacking = "a finite curvature that is clear of rounding"
    if limit.preconditioner:
        if limit.preconditioner not in run.vector_names():
            method = limit.method.split(",")[0]
            lacking = (
                f"the second moments of {method} (the vector {limit.preconditioner!r}): the run did not record them"
            )
            return StepRatios((), trained.words, lacking, 0)
        known &= set(run.vector_steps(limit.preconditioner).tolist()) - {0}
        if not known:
            lacking = "second moments and parameters recorded at a common step after the first"
    found, spent = [], 0
    for step in sorted(known):
        theta = context.theta if not run.vector_steps("theta").size else run.vector(step)
        top = _top(trained, theta.to(problem.device, problem.dtype), second_moments(run, step, limit), limit)
        spent += top.products
        if math.isfinite(top.most):
            unit = settings.at(step) / limit.limit
            found.append((step, unit * top.least, unit * top.most, settings.at(step)))
    return StepRatios(tuple(found), trained.words, lacking, spent)


def _top(
    trained: TrainedLoss, theta: torch.Tensor, moments: torch.Tensor | None, limit: StabilityLimit
) -> TopCurvature:
    scaling = None
    if moments is not None:
        scaling = inverse_root(trained, theta, moments, limit.decay, limit.epsilon)
    return top_curvature(trained, theta, scaling=scaling, decay=limit.decay)


def second_moments(run: Run, step: int, limit: StabilityLimit) -> torch.Tensor | None:
    """The bias-corrected second moments at a recorded step, None for a method without."""
    if not limit.preconditioner:
        return None
    moments = run.vector(step, limit.preconditioner).double().clamp_min(0)
    return moments / (1 - limit.keep**step) if limit.corrected else moments


def stable_finding(ratios: StepRatios | None, settings: Steps | str) -> Finding:
    """step.stable from what was measured."""
    what = "Whether the step is stable is not known."
    if isinstance(settings, str):
        return unknown(CLAIM, what, missing=settings)
    limit = settings.limit
    if limit.limit is None or ratios is None:
        return unknown(CLAIM, what, missing=limit.reason)
    rows = ratios.rows
    if not rows:
        return unknown(CLAIM, what, missing=ratios.lacking)
    noise = " (the limit of the full-batch method; mini-batch noise lowers it)" if settings.stochastic else ""
    above = [row for row in rows if row[1] > 1]
    last_step, last_low, last_high, _ = rows[-1]
    how = f"{limit.method}: alpha lambda_max < {limit.limit:.4g} on a quadratic, at {len(rows)} recorded points"
    on = f" Measured on {ratios.function}." if ratios.function else ""
    if above:
        worst = max(above, key=lambda row: row[1])
        ending = "below it at the last" if last_high <= 1 else f"{last_low:.2f} of it at the last"
        return refuted(
            CLAIM,
            f"The step exceeds the stability limit of {limit.method} at {len(above)} of {len(rows)} recorded points "
            f"(up to {worst[1]:.2f} times, at step {worst[0]:,}), {ending}{noise}.{on}",
            {"ratio_at_least": worst[1], **_numbers(worst, limit)},
            method=how,
            estimate=last_low,
            scope=Scope.PATH,
        )
    place, low, largest, _ = steepest = max(rows, key=lambda row: row[2])
    if largest > 1:
        return unknown(
            CLAIM,
            f"The step is within the error of the stability limit of {limit.method}: between {low:.2f} and "
            f"{largest:.2f} of it at step {place:,}.{on}",
            missing="the limit falls inside the error of the curvature, which differs from draw to draw",
            method=how,
            scope=Scope.PATH,
        )
    return measured(
        CLAIM,
        f"The step is at {100 * largest:.0f}% of the stability limit of {limit.method} where the loss is steepest, "
        f"{100 * last_high:.0f}% at step {last_step:,}{noise}.{on}",
        largest,
        method=how,
        error_kind="lower bound between recorded points",
        sample_size=len(rows),
        scope=Scope.PATH,
        witness=_numbers(steepest, limit),
        source="eigenvalues of the method's recursion on a quadratic; Cohen et al. 2021, 2022",
    )


def _numbers(row: tuple[int, float, float, float], limit: StabilityLimit) -> dict[str, float]:
    """A row as a witness: lambda_max is the largest that the top eigenvalue may be there."""
    step, _, high, alpha = row
    assert limit.limit is not None
    found = {"step": step, "alpha": alpha, "limit": limit.limit}
    return {**found, "lambda_max": high * limit.limit / alpha - limit.decay} if alpha > 0 else found
