"""What this room answers for the audit."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Cost, Finding, Scope, Verdict, measured, refuted, unknown
from tameopt.kl.fit import Fit, fit
from tameopt.kl.gradient_law import GradientLaw, gradient_law
from tameopt.kl.iterates_findings import iterates_findings
from tameopt.kl.least_squares import least_squares
from tameopt.kl.linear_findings import ANALYSIS as LINEAR
from tameopt.kl.margin import classification_loss, direction_drift, homogeneous, margin_certificate
from tameopt.kl.ntk import ntk
from tameopt.kl.online import online_certificate, online_flow, seconds_of_certificate, why_no_flow, why_not
from tameopt.kl.path import is_plain_gradient_descent, path_length, saved_thetas
from tameopt.kl.pictures import decay_picture, gradient_picture
from tameopt.kl.pl import Constants, path_constants, path_pl
from tameopt.kl.rate_findings import (
    exponent_finding,
    pl_finding,
    rate_findings,
    steps_finding,
    values_converge_finding,
)
from tameopt.kl.rates import Rate, predicted
from tameopt.kl.relu_flow import flow_certificate
from tameopt.kl.series import LossSeries, loss_series
from tameopt.kl.trap import trap_certificate
from tameopt.kl.values_findings import descend_finding, finite_findings, noise_floor_finding
from tameopt.run import Run

_RUN_CLAIMS = (
    "run.finite", "run.diverged", "values.descend", "values.converge", "run.noise_floor", "rate.linear",
    "rate.sublinear", "rate.steps_to_target", "iterates.bounded", "iterates.finite_length", "iterates.converge",
    "kl.exponent", "kl.pl_constant",
)  # fmt: skip
_KERNEL_ROWS = 1000  # our choice: eigenvalues of a 1000 x 1000 kernel take a fraction of a second


_NONNEGATIVE_MODULES = (
    nn.MSELoss, nn.CrossEntropyLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss,
    nn.SoftMarginLoss, nn.MultiLabelSoftMarginLoss, nn.MultiMarginLoss, nn.MarginRankingLoss,
)  # fmt: skip
_NONNEGATIVE_FUNCTIONS = (
    functional.mse_loss, functional.cross_entropy, functional.binary_cross_entropy, functional.l1_loss,
    functional.binary_cross_entropy_with_logits, functional.smooth_l1_loss, functional.huber_loss,
    functional.soft_margin_loss, functional.multi_margin_loss,
)  # fmt: skip


def _no_run(context: Context) -> str:
    if context.run is None:
        return "the problem was not trained: there is no run to read"
    return ""


def lower_bound(context: Context) -> float | None:
    """0 for torch's losses that are sums of nonnegative terms, else None. It bounds fits; it proves nothing."""
    loss = context.problem.loss
    if isinstance(loss, _NONNEGATIVE_MODULES) or any(loss is function for function in _NONNEGATIVE_FUNCTIONS):
        return 0.0
    return None


def _analyse_run(context: Context) -> Answer:
    begun = time.perf_counter()
    run = context.run
    assert run is not None
    findings: list[Finding] = list(finite_findings(run))
    try:
        series = loss_series(run)
    except ValueError as error:
        reported = {finding.claim for finding in findings}
        findings += [
            unknown(claim, f"The record does not say: {error}", missing="full_loss", remedy="record full_loss")
            for claim in _RUN_CLAIMS
            if claim not in reported
        ]
        return Answer(tuple(findings), cost=Cost(seconds=time.perf_counter() - begun))
    lower = lower_bound(context)
    fitted = fit(series, lower=lower, seed=context.seed)
    law, law_series = _law(series, fitted, lower, context.seed)
    length = path_length(run)
    pl = path_pl(series.tail(series.size - fitted.points), fitted.F_star, fitted.F_star_interval)
    findings += [
        descend_finding(series),
        values_converge_finding(fitted, series),
        noise_floor_finding(fitted, series),
        *rate_findings(fitted, series),
        steps_finding(fitted, series, lower),
        *iterates_findings(run, fitted, law, length),
        exponent_finding(law, fitted, _without_kl(context)),
        pl_finding(pl, fitted, _constants(run, series, fitted)),
    ]
    pictures = [decay_picture(fitted, series, _predicted(run, law_series, law, fitted))]
    if law is not None and fitted.regime != "noise floor":
        pictures.append(gradient_picture(law, law_series))
    return Answer(
        tuple(findings),
        tuple(picture for picture in pictures if picture is not None),
        _facts(fitted),
        Cost(seconds=time.perf_counter() - begun),
    )


def _law(series: LossSeries, fitted: Fit, lower: float | None, seed: int) -> tuple[GradientLaw | None, LossSeries]:
    """The gradient law on the fitted tail, or on the whole record's second half when nothing was fitted."""
    tail = series.tail(series.size - fitted.points if fitted.points else series.size // 2)
    F_star = fitted.F_star if fitted.regime in ("linear", "sublinear") else None
    return gradient_law(tail, lower=lower, F_star=F_star, seed=seed), tail


def _without_kl(context: Context) -> Finding | None:
    """What the literature says about this very function, when it says that F has no KL property."""
    return next(
        (one for one in context.problem.known if one.claim == "F.kl" and one.verdict is Verdict.REFUTED), None
    )


def _constants(run: Run, series: LossSeries, fitted: Fit) -> Constants | None:
    """PL, error bound and growth where the last saved theta is close enough to the limit to stand for it.

    Points nearer to it than ten times what the last tenth of the run moved are left out (our choice).
    """
    if fitted.regime not in ("linear", "sublinear", "at rest"):
        return None
    grid, thetas = saved_thetas(run)
    if grid.size < 8:
        return None
    from_last = torch.linalg.vector_norm(thetas - thetas[-1], dim=1).numpy()
    near = 10 * from_last[np.searchsorted(grid, grid[-1] - 0.1 * (grid[-1] - grid[0]))]
    distances = dict(zip(grid.tolist(), np.where(from_last > near, from_last, 0.0).tolist(), strict=True))
    at = np.array([distances.get(step, 0.0) for step in series.steps.tolist()])
    try:
        return path_constants(series, at, fitted.F_star)
    except ValueError:
        return None


def _predicted(run: Run, series: LossSeries, law: GradientLaw | None, fitted: Fit) -> Rate | None:
    """The rate that the measured exponent and constant predict for plain gradient descent with a constant step."""
    _, alphas = run.series("lr")
    if law is None or not law.usable or fitted.law is None or not is_plain_gradient_descent(run, alphas):
        return None
    return predicted(series, law, float(alphas[0]))


def _facts(fitted: Fit) -> dict[str, Any]:
    return {
        "kl.fit": {
            "regime": fitted.regime,
            "reason": fitted.reason,
            "first_step": fitted.first,
            "last_step": fitted.last,
            "points": fitted.points,
            "pieces": [str(piece) for piece in fitted.pieces],
        }
    }


def _no_outputs(context: Context) -> str:
    problem = context.problem
    if problem.is_function:
        return "a plain function of theta has no samples and no outputs"
    if problem.forward is not None:
        return "the problem was given as forward(model, batch), which hides the outputs"
    if not problem.batches.indexable:
        return "the samples cannot be picked by number"
    return ""


def _analyse_kernel(context: Context) -> Answer:
    begun = time.perf_counter()
    problem = context.problem
    squares = least_squares(problem, context.seed)
    if squares.holds:
        loss = measured(
            "loss.least_squares",
            f"The loss is least squares by its operators: F = {squares.scale:.4g} norm(outputs - targets)^2.",
            squares.scale,
            method="the loss's trace; its values and gradients at 12 outputs of our choice",
            error_kind="largest relative disagreement of the probes",
            interval=(squares.scale * (1 - squares.error), squares.scale * (1 + squares.error)),
            scope=Scope.GLOBAL,
            sample_size=12,
            seed=context.seed,
        )
    else:
        loss = refuted(
            "loss.least_squares",
            f"The loss is not least squares: {squares.reason}.",
            {"reason": squares.reason},
            method="the loss's trace, and its values and gradients at outputs of our choice",
            scope=Scope.GLOBAL,
        )
    with torch.no_grad():
        per_sample = problem.batch_output(
            problem.unflatten(context.theta), problem.batches.pick(torch.arange(1)), True
        ).numel()
    count = max(1, min(problem.n, 200, _KERNEL_ROWS // max(1, per_sample)))
    chosen = torch.randperm(problem.n, generator=context.generator(11))[:count].sort().values
    kernel = ntk(problem, context.theta, chosen)
    which = "all samples" if count == problem.n else f"{count} of {problem.n:,} samples, drawn by seed {context.seed}"
    size = count * kernel.outputs
    singular = size > kernel.rank_bound
    text = f"The tangent kernel of {which} ({size} x {size}) "
    text += f"has eigenvalues {kernel.lambda_min:.3g} to {kernel.lambda_max:.3g}"
    if singular:
        text += f": it is singular, since {size} outputs exceed the {problem.dim:,} parameters"
    elif count < problem.n:
        # the kernel of a subset is a principal submatrix, so by Cauchy interlacing
        text += "; the least eigenvalue of all samples together is at most that"
    finding = measured(
        "ntk.lambda_min",
        text + ".",
        max(kernel.lambda_min, 0.0) if singular else kernel.lambda_min,
        method=f"kernel by {kernel.method}; {which}; dense eigenvalues",
        error_kind="rounding" if count == problem.n else "from a subset: anything from 0 to its own least eigenvalue",
        interval=(
            0.0 if count < problem.n else kernel.lambda_min - kernel.rounding,
            kernel.lambda_min + kernel.rounding,
        ),
        scope=Scope.POINT,
        sample_size=count,
        seed=context.seed,
    )
    cost = Cost(gradients=size / problem.n, seconds=time.perf_counter() - begun)
    return Answer((loss, finding), facts={"ntk": {"rows": size, "samples": count, "of": problem.n}}, cost=cost)


def _kernel_cost(context: Context) -> Cost:
    rows = min(_KERNEL_ROWS, 200 * 10)
    # one vector-Jacobian product a row, and the product of the Jacobian with itself
    seconds = 0.2 + rows * rows * context.problem.dim * 1e-11 + rows * context.problem.dim * 2e-8
    return Cost(gradients=rows / max(1, context.problem.n), seconds=seconds)


def _kernel_skip(context: Context) -> str:
    reason = _no_outputs(context)
    if not reason and _kernel_cost(context).seconds > context.deadline_seconds:
        reason = f"the tangent kernel would take about {_kernel_cost(context).seconds:.0f} s"
    return reason


def _analyse_trap(context: Context) -> Answer:
    begun = time.perf_counter()
    problem, run = context.problem, context.run
    if run is not None and run.vector_steps("theta").size:
        context.notify("certifying convergence to zero loss along the run")
        online = online_certificate(problem, run)
        finding = online.certificate.finding(online.step)
        table = {"steps": list(online.steps), "h": [h if math.isfinite(h) else None for h in online.numbers]}
    else:
        certificate = trap_certificate(problem, context.theta)
        finding, table = certificate.finding(), {"h": certificate.h if math.isfinite(certificate.h) else None}
    return Answer((finding,), facts={"kl.trap": table}, cost=Cost(seconds=time.perf_counter() - begun))


def _trap_cost(context: Context) -> Cost:
    tries = 5 if context.run is not None else 1
    return Cost(seconds=tries * seconds_of_certificate(context.problem))


def _trap_skip(context: Context) -> str:
    reason = _no_outputs(context) or why_not(context.problem)
    if not reason and _trap_cost(context).seconds > context.deadline_seconds:
        reason = f"the trap certificate would take about {_trap_cost(context).seconds:.0f} s"
    return reason


def _analyse_flow(context: Context) -> Answer:
    begun = time.perf_counter()
    problem, run = context.problem, context.run
    table: dict[str, Any] = {}
    if run is not None and run.vector_steps("theta").size:
        context.notify("certifying the gradient flow along the run")
        online = online_flow(problem, run)
        finding = online.certificate.finding(online.step)
        table = {"steps": list(online.steps), "ratio": [r if math.isfinite(r) else None for r in online.numbers]}
    else:
        finding = flow_certificate(problem, context.theta).finding()
    return Answer((finding,), facts={"kl.flow": table}, cost=Cost(seconds=time.perf_counter() - begun))


def _flow_cost(context: Context) -> Cost:
    return Cost(seconds=20 * _trap_cost(context).seconds)


def _flow_skip(context: Context) -> str:
    reason = _no_outputs(context) or why_no_flow(context.problem)
    if not reason and _flow_cost(context).seconds > context.deadline_seconds:
        reason = f"the flow certificate would take about {_flow_cost(context).seconds:.0f} s"
    return reason


def _analyse_margin(context: Context) -> Answer:
    begun = time.perf_counter()
    found = margin_certificate(context.problem, context.theta)
    table: dict[str, Any] = {"degree": found.degree, "classes": found.classes}
    for name in ("ratio", "margin", "alignment"):
        number = getattr(found, name)
        table[name] = number if math.isfinite(number) else None
    run = context.run
    if run is not None and run.vector_steps("theta").size > 1:
        saved = run.vector_steps("theta")
        halfway = int(saved[saved.size // 2])
        drift = direction_drift(run.vector(halfway).to(context.theta), context.theta)
        table["direction"] = {"from_step": halfway, "degrees": drift if math.isfinite(drift) else None}
    return Answer((found.finding(),), facts={"kl.margin": table}, cost=Cost(2.0, seconds=time.perf_counter() - begun))


def _margin_skip(context: Context) -> str:
    if _no_outputs(context):
        return _no_outputs(context)
    reason = classification_loss(context.problem)
    if reason:
        return f"the margin certificate: {reason}"
    found = homogeneous(context.problem, context.theta, samples=4)
    if isinstance(found, str):
        return f"the margin certificate needs a homogeneous network: {found}"
    return ""


ANALYSES: tuple[Analysis, ...] = (
    Analysis(
        "kl.known",
        "What is known of this very function?",
        ("F.kl",),
        lambda context: Cost(),
        lambda context: Answer(context.problem.known),
        lambda context: "" if context.problem.known else "the literature has no such fact about this problem on file",
    ),
    Analysis(
        "kl.run",
        "Is the run converging, to what, and how fast?",
        _RUN_CLAIMS,
        lambda context: Cost(seconds=1.5),
        _analyse_run,
        _no_run,
    ),
    Analysis(
        "kl.ntk",
        "Can the network still fit every sample (tangent kernel)?",
        ("loss.least_squares", "ntk.lambda_min"),
        _kernel_cost,
        _analyse_kernel,
        _kernel_skip,
    ),
    Analysis(
        "kl.trap",
        "Is it proved that the training loss goes to zero from here?",
        ("trap.holds",),
        _trap_cost,
        _analyse_trap,
        _trap_skip,
    ),
    Analysis(
        "kl.flow",
        "Is it proved that the gradient flow of this ReLU network reaches zero loss from here?",
        ("trap.flow",),
        _flow_cost,
        _analyse_flow,
        _flow_skip,
    ),
    Analysis(
        "kl.margin",
        "Is it proved that the classification loss goes to zero from here?",
        ("trap.margin",),
        lambda context: Cost(gradients=3.0, seconds=0.1 + 1e-8 * context.problem.n * context.problem.dim),
        _analyse_margin,
        _margin_skip,
    ),
    LINEAR,
)
