"""Findings along the run: the gradient's Lipschitz constant on the path, and what the step makes of it."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from tameopt.analysis import Answer, Context
from tameopt.curvature.sharpness import Sharpness, lipschitz
from tameopt.curvature.step_findings import StepRatios, Steps, stable_finding, step_ratios, steps_of
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.picture import Picture, Series

PATH_CLAIMS = ("gradient.lipschitz", "step.below_1_over_L", "step.stable")

# our choice: six points show a trend, and stay within seconds on small networks
_POINTS = 6


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
    settings = steps_of(context.run)
    ratios = None
    if isinstance(settings, Steps) and settings.limit.limit is not None:
        ratios = step_ratios(context, sharpness, settings)
    findings = (
        _lipschitz_finding(context, sharpness),
        _below_finding(sharpness, settings),
        stable_finding(ratios, settings),
    )
    pictures = _pictures(sharpness, settings, ratios)
    facts = {
        "sharpness": [
            {"step": step, "lambda_max": high, "lambda_min": low, "error": error}
            for step, high, low, error in zip(
                sharpness.steps, sharpness.lambda_max, sharpness.lambda_min, sharpness.errors, strict=True
            )
        ],
        "secants": list(sharpness.secants),
        "stability": [
            {"step": step, "alpha": alpha, "ratio_at_least": low, "ratio_at_most": high}
            for step, low, high, alpha in (() if ratios is None else ratios.rows)
        ],
        "stability_function": "" if ratios is None else ratios.function,
    }
    spent = sharpness.products + (0 if ratios is None else ratios.products)
    return Answer(findings, pictures, facts, Cost(len(steps), spent, time.perf_counter() - began))


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


def _below_finding(sharpness: Sharpness, settings: Steps | str) -> Finding:
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


def _heights(ratios: StepRatios | None, settings: Steps | str) -> list[tuple[int, float]]:
    """(step, alpha lambda_max), to be compared with the limit."""
    if ratios is None or isinstance(settings, str) or settings.limit.limit is None:
        return []
    return [(step, low * settings.limit.limit) for step, low, _, _ in ratios.rows]


def _pictures(sharpness: Sharpness, settings: Steps | str, ratios: StepRatios | None) -> tuple[Picture, ...]:
    pairs = _heights(ratios, settings)
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
                    Series(f"limit of {settings.limit.method}", y=(settings.limit.limit or 0.0,), style="hline"),
                ),
                caption="Above the line the step is too long for the steepest direction: the loss oscillates there."
                + (f" Curvature of {ratios.function}." if ratios is not None and ratios.function else ""),
            )
        )
    return tuple(pictures)
