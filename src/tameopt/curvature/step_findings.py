"""Is the step below the stability limit of its method: on the function that the optimizer steps on.

That function is F, unless modules behave otherwise in training (`training_mode`). Then the curvature of F says
nothing of the steps: a bias before BatchNorm has no gradient at all in training, so that Adam's denominator there is
its eps, while F, with fixed statistics, curves along it as anywhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.analysis import Context
from tameopt.curvature.eigenvalues import spectrum
from tameopt.curvature.sharpness import Sharpness
from tameopt.curvature.stability import StabilityLimit, recorded_limit
from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem
from tameopt.run import Run
from tameopt.training_mode import as_trained, only_in_training

CLAIM = "step.stable"
# our choice: the top eigenvalue of a mean over few draws is biased upwards; four draws, and four fresh to check
_DRAWS = 4
_STUDENT = 3.18  # 95% of Student's t with three degrees of freedom
# our choice: rounding of a product in units of eps norm(H); the curvature found has to be clear of it
_ROUNDING = 16.0


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


@dataclass(frozen=True)
class _Trained:
    """The training loss as means over draws: `draws` to search in, `fresh` to check what was found; words name it."""

    draws: tuple[Problem, ...]
    fresh: tuple[Problem, ...]
    words: str

    @staticmethod
    def of(problem: Problem, batch_size: int | None, stochastic: bool, seed: int) -> _Trained:
        random, coupled = only_in_training(problem)
        if not random and not coupled:
            return _Trained((problem,), (), "")
        if stochastic and batch_size is None:
            batch_size = problem.batches.batch_size
        if not random and (batch_size is None or batch_size >= problem.n):
            words = "the loss as trained, with the statistics of the full batch in " + _named(coupled)
            return _Trained((as_trained(problem, None, seed),), (), words)
        made = [as_trained(problem, batch_size, 1000 * seed + j) for j in range(2 * _DRAWS)]
        parts = []
        if random:
            parts.append(f"{_DRAWS} draws of the masks in {_named(random)}")
        if coupled:
            parts.append(f"statistics of batches of {batch_size or problem.n} in {_named(coupled)}")
        return _Trained(tuple(made[:_DRAWS]), tuple(made[_DRAWS:]), "the loss as trained, with " + ", ".join(parts))

    @staticmethod
    def hessian(draws: tuple[Problem, ...], theta: torch.Tensor, scaling: torch.Tensor | None) -> SymmetricOperator:
        """The mean of the draws' Hessians, scaled from both sides."""
        hessians = [problem.hessian(theta) for problem in draws]
        first = draws[0]

        def product(block: torch.Tensor) -> torch.Tensor:
            inner = block if scaling is None else scaling[:, None] * block
            total = sum((hessian.product(inner) for hessian in hessians), torch.zeros_like(inner)) / len(hessians)
            return total if scaling is None else scaling[:, None] * total

        return SymmetricOperator(first.dim, product, first.dtype, first.device, "Hessian of the loss as trained")


def _named(modules: tuple[str, ...]) -> str:
    return "the modules " + ", ".join(modules[:3]) + (f" and {len(modules) - 3} more" if len(modules) > 3 else "")


def step_ratios(context: Context, sharpness: Sharpness, settings: Steps) -> StepRatios:
    """alpha lambda_max / limit at the recorded points where it can be known."""
    limit, problem = settings.limit, context.problem
    assert limit.limit is not None
    trained = _Trained.of(problem, settings.batch_size, settings.stochastic, context.seed)
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
        low, high, products = _top(
            trained, theta.to(problem.device, problem.dtype), _moments(run, step, limit), limit
        )
        spent += products
        if math.isfinite(high):
            unit = settings.at(step) / limit.limit
            found.append((step, unit * low, unit * high, settings.at(step)))
    return StepRatios(tuple(found), trained.words, lacking, spent)


def _moments(run: Run, step: int, limit: StabilityLimit) -> torch.Tensor | None:
    """The bias-corrected second moments at a recorded step, None for a method without."""
    if not limit.preconditioner:
        return None
    moments = run.vector(step, limit.preconditioner).double().clamp_min(0)
    return moments / (1 - limit.keep**step) if limit.corrected else moments


def _top(
    trained: _Trained, theta: torch.Tensor, moments: torch.Tensor | None, limit: StabilityLimit
) -> tuple[float, float, int]:
    """(the least, the largest that lambda_max of P^-1/2 (H + decay) P^-1/2 may be, as far as found; products spent).

    The least is a Rayleigh quotient on draws that the vector was not sought in, less rounding: the top eigenvalue of
    the expected Hessian is no smaller, to within its standard error. P is no smaller than the gradient, which the
    next steps put into the moments: a coordinate just met for the first time is no frozen one.
    """
    scaling, spent = None, 0
    if moments is not None:
        pull = limit.decay * theta.double()
        for problem in trained.draws:
            pull += problem.gradient(theta).double() / len(trained.draws)
        root = torch.maximum(moments.to(pull.device).sqrt(), pull.abs()) + limit.epsilon
        # a coordinate that never had a gradient has not moved, and has no denominator when eps is 0
        scaling = torch.where(root > 0, root, torch.inf).rsqrt().to(theta.dtype)
    operator = _Trained.hessian(trained.draws, theta, scaling)
    if limit.decay:
        operator = operator + _diagonal(operator, limit.decay, scaling)
    found = spectrum(operator, k=1, which="largest", tolerance=1e-3, max_products=200, dense_below=50)
    spent += found.products * len(trained.draws)
    if not found.all_ritz.numel() or not math.isfinite(found.lambda_max):
        return math.nan, math.nan, spent
    top = found.vectors[:, -1].to(theta.dtype)
    inner = top if scaling is None else scaling * top
    image = _Trained.hessian(trained.draws, theta, None) @ inner
    size = float(inner.double().norm())
    rounding = _ROUNDING * torch.finfo(theta.dtype).eps * float(image.double().norm()) * size
    lowest, spread = found.lambda_max, 0.0
    if trained.fresh:
        bends = torch.tensor([float(inner @ (one.hessian(theta) @ inner)) for one in trained.fresh]).double()
        extra = limit.decay * size**2
        spread = _STUDENT * float(bends.std()) / math.sqrt(len(bends))
        lowest = float(bends.mean()) + extra
        spent += len(bends)
    if rounding > 0.5 * max(abs(found.lambda_max), 1e-300) and scaling is not None:
        return math.nan, math.nan, spent
    return lowest - spread - rounding, max(found.lambda_max, lowest + spread) + rounding, spent


def _diagonal(operator: SymmetricOperator, decay: float, scaling: torch.Tensor | None) -> SymmetricOperator:
    def product(block: torch.Tensor) -> torch.Tensor:
        return decay * (block if scaling is None else (scaling * scaling)[:, None] * block)

    return SymmetricOperator(operator.dim, product, operator.dtype, operator.device, "weight decay")


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
            {"step": worst[0], "alpha": worst[3], "ratio_at_least": worst[1], "limit": limit.limit},
            method=how,
            estimate=last_low,
            scope=Scope.PATH,
        )
    place, low, largest, _ = max(rows, key=lambda row: row[2])
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
        source="eigenvalues of the method's recursion on a quadratic; Cohen et al. 2021, 2022",
    )
