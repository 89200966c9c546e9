"""Findings along the run: the gradient's Lipschitz constant on the path, and what the step makes of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.analysis import Answer, Context
from tameopt.curvature.eigenvalues import spectrum
from tameopt.curvature.sharpness import Sharpness, lipschitz
from tameopt.curvature.stability import StabilityLimit, stability_limit
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.linear_operator import SymmetricOperator
from tameopt.picture import Picture, Series
from tameopt.run import Run

PATH_CLAIMS = ("gradient.lipschitz", "step.below_1_over_L", "step.stable")

# our choice: six points show a trend, and stay within seconds on small networks
_POINTS = 6


@dataclass(frozen=True)
class _Steps:
    """What the run says about its steps: alpha_k by k, and the method's limit."""

    numbers: np.ndarray
    sizes: np.ndarray
    limit: StabilityLimit
    stochastic: bool

    def at(self, step: int) -> float:
        """alpha_k of the last recorded step up to `step` (the final iterate takes no step of its own)."""
        place = int(np.searchsorted(self.numbers, step, side="right")) - 1
        return float(self.sizes[max(place, 0)])


def analyse_path(context: Context) -> Answer:
    """Yields PATH_CLAIMS, a picture of alpha_k lambda_max against the limit, and the table behind it."""
    began = time.perf_counter()
    steps, thetas = _recorded_points(context)
    sharpness = lipschitz(
        context.problem,
        thetas,
        steps=steps,
        # the eigenvalue's own error is the residual's square over the gap: 1e-2 gives three digits or more
        tolerance=1e-2,
        generator=context.generator(1),
        notify=context.notify,
    )
    settings = _steps_of(context.run)
    findings = [_lipschitz_finding(context, sharpness)]
    findings.append(_below_finding(sharpness, settings))
    stable, ratios, limit_value, extra = _stable_finding(context, sharpness, settings)
    findings.append(stable)
    pictures = _pictures(sharpness, settings, ratios, limit_value)
    facts = {
        "sharpness": [
            {"step": step, "lambda_max": high, "lambda_min": low, "error": error}
            for step, high, low, error in zip(
                sharpness.steps, sharpness.lambda_max, sharpness.lambda_min, sharpness.errors, strict=True
            )
        ],
        "secants": list(sharpness.secants),
        "stability_ratio": list(ratios),
    }
    cost = Cost(len(steps), sharpness.products + extra, time.perf_counter() - began)
    return Answer(tuple(findings), pictures, facts, cost)


def _recorded_points(context: Context) -> tuple[list[int], list[torch.Tensor]]:
    """First, last, and what lies evenly between, the last iterate always among them."""
    run = context.run
    if run is None:
        return [0], [context.theta]
    recorded = run.vector_steps("theta")
    if recorded.size == 0:
        return [max(run.last_step, 0)], [context.theta]
    # more points early: curvature changes fastest there (our choice: evenly in the square root of the step)
    wanted = np.linspace(math.sqrt(float(recorded[0])), math.sqrt(float(recorded[-1])), _POINTS) ** 2
    chosen = sorted({int(recorded[np.abs(recorded - target).argmin()]) for target in wanted})
    points = [(step, run.vector(step)) for step in chosen]
    finite = [(step, theta) for step, theta in points if bool(torch.isfinite(theta).all())]
    if not finite:
        return [max(run.last_step, 0)], [context.theta]
    return [step for step, _ in finite], [theta for _, theta in finite]


def _steps_of(run: Run | None) -> _Steps | str:
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
    optimizer = meta.get("optimizer") or {}
    if not isinstance(optimizer, dict) or not optimizer.get("name"):
        limit = StabilityLimit("unknown", None, reason="the run does not say which optimizer made it")
    else:
        limit = stability_limit(str(optimizer["name"]), optimizer.get("arguments") or {})
    return _Steps(numbers[keep], sizes[keep], limit, meta.get("sampling") != "full batch")


def _lipschitz_finding(context: Context, sharpness: Sharpness) -> Finding:
    how = f"block Lanczos at {len(sharpness.steps)} recorded points, {sharpness.products} Hessian products"
    if not math.isfinite(sharpness.L):
        return unknown(
            "gradient.lipschitz",
            "The curvature along the run could not be measured.",
            missing=sharpness.failures[0][1] if sharpness.failures else "finite Hessian products",
            remedy="tame.curvature.spectrum(problem, theta)",
            method=how,
            scope=Scope.PATH,
        )
    at_points = max(value for value in sharpness.at_points if math.isfinite(value))
    secant = max(sharpness.secants, default=0.0)
    place = f"at step {sharpness.sharpest_step:,}" if context.run is not None else "at this point"
    if secant > at_points:
        place = "between two recorded points (gradient difference)"
    where = "" if context.run is None else f" of {len(sharpness.steps)} recorded points"
    missed = max(sharpness.missed)
    # residuals say that an eigenvalue is there, `missed` that little lies beyond; both are about the points
    upper = max(sharpness.L, at_points + (missed if math.isfinite(missed) else max(sharpness.errors)))
    scope = Scope.PATH if context.run is not None and len(sharpness.steps) > 1 else Scope.POINT
    return measured(
        "gradient.lipschitz",
        f"L is at least {sharpness.L:.3g}: the steepest curvature{where}, {place}; "
        f"{'between them' if where else 'elsewhere'} it may be larger.",
        sharpness.L,
        interval=(sharpness.L, upper),
        method=how + (f", {len(sharpness.secants)} gradient differences" if sharpness.secants else ""),
        error_kind="lower bound of L on the path; the interval is for the recorded points (99%)"
        if math.isfinite(missed)
        else "lower bound of L on the path; the interval holds the eigenvalue found, larger ones may be missed",
        sample_size=len(sharpness.steps),
        seed=context.seed,
        unit="F / theta^2",
        scope=scope,
        source="norm(grad F(x) - grad F(y)) <= L norm(x - y), Hessian bounded by L",
    )


def _below_finding(sharpness: Sharpness, settings: _Steps | str) -> Finding:
    claim = "step.below_1_over_L"
    if isinstance(settings, str):
        return unknown(claim, "Whether the step is below 1/L is not known.", missing=settings)
    if not math.isfinite(sharpness.L):
        return unknown(claim, "Whether the step is below 1/L is not known.", missing="L on the path")
    place = int(settings.sizes.argmax())
    largest, product = float(settings.sizes[place]), float(settings.sizes[place]) * sharpness.L
    how = f"largest step {largest:g} times the largest curvature measured on the path"
    if product >= 1:
        return refuted(
            claim,
            f"The step is above 1/L: alpha L >= {product:.3g} (alpha {largest:g}, L at least {sharpness.L:.3g}).",
            {
                "step": int(settings.numbers[place]),
                "alpha": largest,
                "L_at_least": sharpness.L,
                "sharpest_step": sharpness.sharpest_step,
                "alpha_L_at_least": product,
            },
            method=how,
            estimate=product,
            scope=Scope.PATH,
        )
    return measured(
        claim,
        f"As far as measured the step is below 1/L: alpha L = {product:.3g}, and L may be larger between the "
        f"{len(sharpness.steps)} recorded points.",
        product,
        method=how,
        error_kind="lower bound of alpha L",
        sample_size=len(sharpness.steps),
        scope=Scope.PATH,
    )


def _ratios(
    context: Context, sharpness: Sharpness, settings: _Steps
) -> tuple[list[tuple[int, float, float]], str, int]:
    """(step, alpha lambda_max / limit, alpha) at the points where it is known; why not elsewhere; products spent."""
    limit = settings.limit
    assert limit.limit is not None
    if not limit.preconditioner:
        return (
            [
                (step, settings.at(step) * (high + limit.decay) / limit.limit, settings.at(step))
                for step, high in zip(sharpness.steps, sharpness.lambda_max, strict=True)
                if math.isfinite(high)
            ],
            "no finite curvature was measured",
            0,
        )
    run = context.run
    assert run is not None
    if limit.preconditioner not in run.vector_names():
        return (
            [],
            f"the second moments of {limit.method.split(',')[0]} (the vector {limit.preconditioner!r}): the run "
            "did not record them",
            0,
        )
    known = set(run.vector_steps(limit.preconditioner).tolist())
    rows, spent = [], 0
    for step in sharpness.steps:
        if step not in known or step == 0:
            continue
        top, products = _preconditioned_top(context, run, step, limit)
        spent += products
        rows.append((step, settings.at(step) * top / limit.limit, settings.at(step)))
    return rows, "second moments and parameters recorded at a common step after the first", spent


def _preconditioned_top(context: Context, run: Run, step: int, limit: StabilityLimit) -> tuple[float, int]:
    """lambda_max(P^-1/2 (H + decay) P^-1/2) at a recorded step, P = sqrt(bias-corrected v) + eps."""
    problem = context.problem
    arguments = (run.meta.get("optimizer") or {}).get("arguments") or {}
    moments = run.vector(step, limit.preconditioner).to(problem.device, problem.dtype)
    if limit.preconditioner == "exp_avg_sq":
        beta2 = float(tuple(arguments.get("betas") or (0.9, 0.999))[1])
        moments = moments / (1 - beta2**step)
    root = (moments.clamp_min(0).sqrt() + float(arguments.get("eps") or 1e-8)).rsqrt()
    hessian = problem.hessian(run.vector(step).to(problem.device, problem.dtype)).shift(limit.decay)
    scaled = SymmetricOperator(
        problem.dim,
        lambda block: root[:, None] * hessian.product(root[:, None] * block),
        problem.dtype,
        problem.device,
        "preconditioned Hessian",
    )
    found = spectrum(scaled, k=1, which="largest", tolerance=1e-3, max_products=200, dense_below=50)
    return found.lambda_max, found.products


def _stable_finding(
    context: Context, sharpness: Sharpness, settings: _Steps | str
) -> tuple[Finding, tuple[tuple[int, float], ...], float, int]:
    claim = "step.stable"
    if isinstance(settings, str):
        return unknown(claim, "Whether the step is stable is not known.", missing=settings), (), math.nan, 0
    limit = settings.limit
    if limit.limit is None:
        finding = unknown(claim, "Whether the step is stable is not known.", missing=limit.reason)
        return finding, (), math.nan, 0
    rows, lacking, spent = _ratios(context, sharpness, settings)
    if not rows:
        finding = unknown(claim, "Whether the step is stable is not known.", missing=lacking)
        return finding, (), limit.limit, spent
    noise = " (the limit of the full-batch method; mini-batch noise lowers it)" if settings.stochastic else ""
    above = [(step, ratio, alpha) for step, ratio, alpha in rows if ratio > 1]
    last_step, last_ratio, _ = rows[-1]
    how = f"{limit.method}: alpha lambda_max < {limit.limit:.4g} on a quadratic, at {len(rows)} recorded points"
    pairs = tuple((step, ratio * limit.limit) for step, ratio, _ in rows)
    if above:
        worst = max(above, key=lambda row: row[1])
        ending = "below it at the last" if last_ratio <= 1 else f"{last_ratio:.2f} of it at the last"
        finding = refuted(
            claim,
            f"The step exceeds the stability limit of {limit.method} at {len(above)} of {len(rows)} recorded points "
            f"(up to {worst[1]:.2f} times, at step {worst[0]:,}), {ending}{noise}.",
            {"step": worst[0], "alpha": worst[2], "ratio_at_least": worst[1], "limit": limit.limit},
            method=how,
            estimate=last_ratio,
            scope=Scope.PATH,
        )
        return finding, pairs, limit.limit, spent
    largest = max(ratio for _, ratio, _ in rows)
    finding = measured(
        claim,
        f"The step is at {100 * largest:.0f}% of the stability limit of {limit.method} where the loss is steepest, "
        f"{100 * last_ratio:.0f}% at step {last_step:,}{noise}.",
        largest,
        method=how,
        error_kind="lower bound between recorded points",
        sample_size=len(rows),
        scope=Scope.PATH,
        source="eigenvalues of the method's recursion on a quadratic; Cohen et al. 2021, 2022",
    )
    return finding, pairs, limit.limit, spent


def _pictures(
    sharpness: Sharpness, settings: _Steps | str, pairs: tuple[tuple[int, float], ...], limit: float
) -> tuple[Picture, ...]:
    pictures = []
    if len(sharpness.steps) > 1:
        pictures.append(
            Picture(
                name="curvature-along-the-run",
                title="Curvature along the run",
                x_label="step k",
                y_label="Hessian eigenvalue",
                series=(
                    Series.of("largest eigenvalue", sharpness.steps, sharpness.lambda_max),
                    Series.of("smallest eigenvalue", sharpness.steps, sharpness.lambda_min),
                    Series("0", y=(0.0,), style="hline"),
                ),
                caption="The steepest and the most negative curvature at recorded points.",
            )
        )
    if pairs and not isinstance(settings, str):
        pictures.append(
            Picture(
                name="step-against-curvature",
                title="Step times curvature",
                x_label="step k",
                y_label="alpha_k lambda_max(theta_k)",
                series=(
                    Series.of("alpha_k lambda_max", [step for step, _ in pairs], [height for _, height in pairs]),
                    Series(f"limit of {settings.limit.method}", y=(limit,), style="hline"),
                ),
                caption="Above the line the step is too long for the steepest direction: the loss oscillates there.",
            )
        )
    return tuple(pictures)
