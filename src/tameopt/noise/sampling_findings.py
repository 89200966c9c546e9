"""The audit's question to the noise: is it unbiased, and how large is it?"""

from __future__ import annotations

import time

import numpy as np
import torch

from tameopt.analysis import Answer, Context
from tameopt.evidence import Cost, Finding, Scope, Verdict, measured, refuted, unknown
from tameopt.noise import record_findings
from tameopt.noise.covariance import NoiseAt, batch_factor, noise_at
from tameopt.noise.ellipse import noise_ellipse
from tameopt.noise.martingale_tests import noise_tests
from tameopt.noise.recorded import increments
from tameopt.noise.windows import read_window, spans
from tameopt.picture import Picture, Series
from tameopt.training_mode import other_function

_DRAWN_SAMPLES = 300  # our choice: samples whose gradients are drawn in the picture
_DRAWN_VALUES = 2e7  # entries of them: 160 MB in float64
_POINTS = 6  # our choice: recorded iterates at which the covariance is computed
_MAX_VALUES = 6e7  # sample-gradient entries per iterate; past it samples are drawn


def sampling_noise(context: Context) -> Answer:
    """Bias from the recorded sampler; tr Sigma and the noise scale from per-sample gradients on the path."""
    begun = time.perf_counter()
    run, problem = context.run, context.problem
    assert run is not None
    bias = record_findings.unbiased(context)
    other = other_function(problem)
    if bias.verdict is Verdict.UNKNOWN and not other and run.meta.get("sampling", "unknown") == "unknown":
        bias = _tested(context, bias)
    if other and record_findings.is_full_batch(run, problem.n):
        missing = unknown("noise.bounded_variance", f"The noise was not measured: {other}.", missing=other)
        return Answer((bias, missing, _no_scale(other)))
    if record_findings.is_full_batch(run, problem.n):
        variance = measured(
            "noise.bounded_variance",
            "The noise is 0: every step used the whole data set.",
            0.0,
            interval=(0.0, 0.0),
            method="recorded sampler",
            error_kind="exact",
            scope=Scope.RUN,
        )
        return Answer(
            (bias, variance, _no_scale("every step used the whole data set, so there is no sampling noise"))
        )
    reason = cannot_measure(context)
    recorded = run.meta.get("batch_size")
    size = recorded if isinstance(recorded, int) else 0
    if not reason and size < 1:
        reason = "the batch size was not recorded"
    if reason:
        missing = unknown("noise.bounded_variance", f"The noise was not measured: {reason}.", missing=reason)
        return Answer((bias, missing, _no_scale(reason)))
    points = _along_path(context)
    replacement = run.meta.get("sampling") != "reshuffled"  # not recorded: the larger of the two is a bound
    factor = batch_factor(problem.n, min(size, problem.n) if not replacement else size, replacement)
    seconds = time.perf_counter() - begun
    cost = Cost(gradients=sum(point.samples / problem.n + 1 for _, point in points), seconds=seconds)
    return Answer(
        (bias, _variance(points, factor, size, other), _scale(points, size)),
        _pictures(context, points, size),
        {
            "noise": [
                {
                    "step": step,
                    "trace": point.trace,
                    "interval": list(point.interval),
                    "gradient_norm": point.gradient_norm,
                    "samples": point.samples,
                }
                for step, point in points
            ]
        },
        cost,
    )


def _no_scale(reason: str) -> Finding:
    return unknown("noise.scale", f"The noise scale was not measured: {reason}.", missing=reason)


def cannot_measure(context: Context) -> str:
    problem, run = context.problem, context.run
    if problem.is_function:
        return "a plain function has no samples"
    if problem.reduction == "sum":
        return "the loss is a sum over samples, the noise is defined for a mean loss"
    if not problem.batches.indexable:
        return "the samples are ragged or streamed, so their gradients cannot be taken one by one"
    if run is not None and run.vector_steps("theta").size == 0:
        return "no iterates were recorded"
    return ""


def _along_path(context: Context) -> list[tuple[int, NoiseAt]]:
    run, problem = context.run, context.problem
    assert run is not None
    saved = run.vector_steps("theta")
    chosen = np.unique(saved[np.unique(np.linspace(0, saved.size - 1, _POINTS).astype(int))])
    most = int(max(32, min(problem.n, _MAX_VALUES // problem.dim)))
    points: list[tuple[int, NoiseAt]] = []
    problem.sample_gradients(context.theta, torch.arange(min(2, problem.n)))  # the first call sets vmap up, seconds
    begun = time.perf_counter()
    budget = min(3.0, 0.25 * context.deadline_seconds)
    # the last iterate first: what the run ends with matters most when time runs out
    for number, step in enumerate(chosen[::-1]):
        elapsed = time.perf_counter() - begun
        if points and elapsed + elapsed / len(points) > budget:
            break
        theta = run.vector(int(step)).to(problem.device, problem.dtype)
        if not bool(theta.isfinite().all()):
            continue
        points.append(
            (int(step), noise_at(problem, theta, max_samples=most, generator=context.generator(100 + number)))
        )
    return points[::-1]


def _variance(points: list[tuple[int, NoiseAt]], factor: float, size: int, other: str) -> Finding:
    claim = "noise.bounded_variance"
    if not points:
        return unknown(claim, "No finite iterate was recorded.", missing="a finite recorded iterate")
    traces = np.array([point.trace for _, point in points]) * factor
    ends = np.array([point.interval for _, point in points]) * factor
    worst = int(traces.argmax())
    exact = all(point.standard_error == 0 for _, point in points)
    return measured(
        claim,
        f"The variance of a batch of {size:,} is at most {traces[worst]:.4g} at the {len(points)} recorded iterates "
        f"looked at (step {points[worst][0]:,}), {traces[-1]:.4g} at the last."
        + (f" This is the noise of the sampler alone: {other}." if other else ""),
        float(traces[worst]),
        interval=(float(ends[:, 0].min()), float(ends[:, 1].max())),
        method="gradients of all single samples" if exact else f"gradients of {points[0][1].samples:,} drawn samples",
        error_kind="range over the iterates, each exact" if exact else "range over the iterates with 95% intervals",
        unit="gradient squared",
        scope=Scope.PATH,
        sample_size=len(points),
    )


def _scale(points: list[tuple[int, NoiseAt]], size: int) -> Finding:
    if not points:
        return _no_scale("no finite iterate was recorded")
    step, last = points[-1]
    if last.gradient_norm == 0:
        return _no_scale("the full gradient vanishes at the last iterate")
    low, high = (end / last.gradient_norm**2 for end in last.interval)
    signal = "noise" if last.scale > size else "gradient"
    return measured(
        "noise.scale",
        f"At step {step:,} noise and gradient balance at a batch of {last.scale:,.4g} samples; with {size:,} the "
        f"{signal} dominates a step.",
        last.scale,
        interval=(low, high),
        method="tr Sigma / norm(grad F)^2 from per-sample gradients",
        error_kind="exact" if last.standard_error == 0 else "95% interval",
        unit="samples",
        scope=Scope.POINT,
        sample_size=last.samples,
        source="McCandlish et al. 2018",
    )


def _pictures(context: Context, points: list[tuple[int, NoiseAt]], size: int) -> tuple[Picture, ...]:
    if not points:
        return ()
    problem, step = context.problem, points[-1][0]
    assert context.run is not None
    theta = context.run.vector(step).to(problem.device, problem.dtype)
    drawn = torch.randperm(problem.n, generator=context.generator(99))
    drawn = drawn[: max(3, min(_DRAWN_SAMPLES, int(_DRAWN_VALUES // problem.dim)))]
    noise = problem.sample_gradients(theta, drawn) - problem.gradient(theta)
    found = (_noise_picture(points, size),)
    if drawn.numel() < 3 or float(noise.abs().max()) == 0:
        return found
    words = (
        f"grad l_i - grad F at step {step:,} for {drawn.numel():,} drawn samples (a batch of b divides it by root b)"
    )
    return (*found, noise_ellipse(noise, words))


def _noise_picture(points: list[tuple[int, NoiseAt]], size: int) -> Picture:
    steps_of = [step for step, _ in points]
    return Picture(
        "noise",
        "Gradient and its noise along the run",
        "step",
        "norm",
        (
            Series.of("norm(grad F)", steps_of, [point.gradient_norm for _, point in points]),
            Series.of(f"noise of a batch of {size}", steps_of, [(point.trace / size) ** 0.5 for _, point in points]),
        ),
        y_log=all(point.gradient_norm > 0 and point.trace > 0 for _, point in points),
        caption="Where the noise lies above the gradient, a single step says little about the direction of descent.",
    )


_TESTED_STEPS = 120  # our choice: recorded steps whose noise is tested when the sampler is not known
_LEAST_POWER = 0.8


def _tested(context: Context, fallback: Finding) -> Finding:
    """What the recorded noise itself says about bias, for a run whose sampler was not recorded."""
    run, problem, claim = context.run, context.problem, "noise.unbiased"
    assert run is not None
    found = spans(run, least=31)
    momentum = (run.meta.get("optimizer") or {}).get("arguments", {}).get("momentum")
    if not found or problem.is_function or momentum or (run.meta.get("optimizer") or {}).get("name") != "SGD":
        return fallback  # what another method adds to -grad F is no noise
    begun = time.perf_counter()
    problem.gradient(context.theta)
    if (time.perf_counter() - begun) * _TESTED_STEPS > min(3.0, 0.25 * context.deadline_seconds):
        return fallback
    first, last = found[-1]
    window = read_window(run, max(first, last - _TESTED_STEPS), last)
    if window is None or not bool(window.thetas.isfinite().all()) or not (window.alphas > 0).all():
        return fallback
    noise = increments(problem, window).cpu().numpy()
    size = run.meta.get("batch_size")
    divides = isinstance(size, int) and 0 < size < problem.n and problem.n % size == 0
    epoch = problem.n // size if divides and isinstance(size, int) else None
    tests = noise_tests(noise, epoch=epoch, phase=int(window.steps[0]) % epoch if epoch else 0, seed=context.seed)
    method = (
        f"sign-flip tests of the noise of {tests.sample_size} recorded steps, corrected for {len(tests.names)} tests"
    )
    if tests.p_value <= 0.01:
        worst = tests.names[int(np.argmin(tests.p_values))]
        return refuted(
            claim,
            f"The noise of steps {window.steps[0]:,} to {window.steps[-2]:,} is no martingale difference: p = "
            f"{tests.p_value:.2g} ({worst}).",
            {"p_value": tests.p_value, "test": worst, "first_step": int(window.steps[0])},
            method=method,
            scope=Scope.PATH,
            seed=context.seed,
        )
    seen = ", ".join(f"{name} {share:.0%}" for name, share in tests.power.items())
    # reshuffling shows itself over whole epochs of known length; fewer than three hide it
    blind = epoch is None or tests.sample_size < 3 * epoch
    if blind or tests.rejected or min(tests.power.values()) < _LEAST_POWER:
        return unknown(
            claim,
            f"{fallback.statement} The noise of {tests.sample_size} steps does not decide: p = {tests.p_value:.2g}"
            + ("; whole epochs are needed to see reshuffling." if blind else f"; the tests would have seen {seen}."),
            missing=fallback.evidence.missing,
            remedy=fallback.evidence.remedy,
            method=method,
        )
    return measured(
        claim,
        f"No bias is seen in the noise of {tests.sample_size} recorded steps (p = {tests.p_value:.2g}); the tests "
        f"would have seen {seen}.",
        tests.p_value,
        method=method,
        error_kind="p-value",
        scope=Scope.PATH,
        sample_size=tests.sample_size,
        seed=context.seed,
    )


def estimate(context: Context) -> Cost:
    # our choice: n gradients of single samples as four of F; the first call sets vmap up
    return Cost() if cannot_measure(context) else Cost(gradients=5.0 * _POINTS, seconds=0.5)
