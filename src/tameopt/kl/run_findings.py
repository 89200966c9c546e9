"""What the record of a run says about its own convergence, claim by claim."""

from __future__ import annotations

import math

import numpy as np
import torch

from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.kl.fit import Fit
from tameopt.kl.gradient_law import GradientLaw
from tameopt.kl.path import PathLength, doubling_ratios, saved_thetas
from tameopt.kl.pl import PathPL
from tameopt.kl.series import LossSeries
from tameopt.kl.trend import trend
from tameopt.run import Run

_SERIES = ("loss", "gradient_norm", "full_loss", "full_gradient_norm", "lr")


def finite_findings(run: Run) -> tuple[Finding, Finding]:
    """run.finite and run.diverged."""
    broken: tuple[int, str, float] | None = None
    count = 0
    for name in run.names:
        steps, numbers = run.series(name)
        count += numbers.size
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size and (broken is None or steps[bad[0]] < broken[0]):
            broken = (int(steps[bad[0]]), name, float(numbers[bad[0]]))
    method = f"each of {count:,} recorded numbers was looked at"
    if broken is not None:
        step, name, number = broken
        finite = refuted(
            "run.finite",
            f"{name} is {number} at step {step:,}, the first number that is not finite.",
            {"step": step, "name": name, "value": str(number)},
            method=method,
            scope=Scope.RUN,
        )
    else:
        finite = measured(
            "run.finite",
            f"All {count:,} recorded numbers are finite.",
            0.0,
            method=method,
            error_kind="exact",
            scope=Scope.RUN,
            sample_size=count,
        )
    return finite, _diverged(run, broken)


def _diverged(run: Run, broken: tuple[int, str, float] | None) -> Finding:
    for name in ("full_loss", "loss"):
        steps, values = run.series(name)
        if values.size:
            break
    else:
        return unknown("run.diverged", "The run recorded no loss.", missing="a loss", remedy="record 'full_loss'")
    # 1e3 times the start, in |F| + its spread so that a loss starting at 0 counts too, is our choice.
    start = abs(float(values[0])) if math.isfinite(values[0]) else 0.0
    limit = 1e3 * max(start, 1e-12)
    beyond = np.flatnonzero(~(np.abs(values) <= limit))
    ended_high = beyond.size and beyond[-1] == values.size - 1
    if broken is not None or run.status == "diverged" or ended_high:
        step = broken[0] if broken is not None else int(steps[beyond[0]] if beyond.size else steps[-1])
        return measured(
            "run.diverged",
            f"The run diverged at step {step:,}: the {'numbers stopped being finite' if broken else 'loss blew up'}.",
            float(step),
            method=f"first non-finite number, or {name} beyond 1000 times its start",
            error_kind="exact",
            scope=Scope.RUN,
        )
    return refuted(
        "run.diverged",
        f"The run did not diverge: {name} went from {values[0]:.4g} to {values[-1]:.4g}.",
        {"step": int(steps[-1]), name: float(values[-1]), "largest": float(np.abs(values).max())},
        method=f"{name} stayed below 1000 times its start over {values.size} recorded steps",
        scope=Scope.RUN,
    )


def descend_finding(series: LossSeries) -> Finding:
    """values.descend: on the recorded grid, up to rounding."""
    changes = np.diff(series.values)
    rounding = 16 * np.finfo(np.float64).eps * np.abs(series.values[:-1])
    rises = np.flatnonzero(changes > rounding)
    if not changes.size:
        return unknown("values.descend", "One loss was recorded.", missing="a second recorded loss")
    share = 1.0 - rises.size / changes.size
    if rises.size:
        i = int(rises[np.argmax(changes[rises])])
        return refuted(
            "values.descend",
            f"F fell over {100 * share:.0f}% of the recorded intervals; from step {series.steps[i]:,} to "
            f"{series.steps[i + 1]:,} it rose from {series.values[i]:.6g} to {series.values[i + 1]:.6g}.",
            {
                "from_step": int(series.steps[i]),
                "to_step": int(series.steps[i + 1]),
                "F_before": float(series.values[i]),
                "F_after": float(series.values[i + 1]),
                "share_decreasing": share,
            },
            method=f"{changes.size} differences of the recorded F, up to rounding",
            scope=Scope.PATH,
        )
    return measured(
        "values.descend",
        f"F fell over all {changes.size} recorded intervals, up to rounding.",
        1.0,
        method=f"{changes.size} differences of the recorded F",
        error_kind="exact on the recorded grid",
        scope=Scope.PATH,
        sample_size=int(changes.size),
    )


def values_converge_finding(fit: Fit, series: LossSeries) -> Finding:
    """values.converge: does F(theta_k) approach one number?"""
    half = series.tail(series.size // 2)
    drift = trend(half.clock, half.values) if half.size >= 3 else None
    if fit.regime in ("linear", "sublinear", "at rest"):
        low, high = fit.F_star_interval
        return measured(
            "values.converge",
            f"F approaches {fit.F_star:.6g} [{low:.6g}, {high:.6g}]; at the last step it is "
            f"{f'{fit.excess:.3g} away' if fit.excess > 1e-12 * abs(fit.F_star) else 'there, within rounding'}"
            f"{'' if series.deterministic else ' (the noise may stop it earlier)'}.",
            drift.slope if drift else 0.0,
            method=f"{fit.regime} fit over steps {fit.first:,} to {fit.last:,}; {fit.reason}",
            error_kind="95% interval of the trend by block means",
            interval=drift.interval if drift else None,
            scope=Scope.RUN,
            sample_size=fit.points,
            seed=fit.seed,
        )
    if fit.regime == "noise floor" and fit.trend is not None:
        return unknown(
            "values.converge",
            f"F no longer falls but fluctuates by {fit.trend.fluctuation:.3g} about {fit.F_star:.6g}: at this step "
            "size it reaches a neighbourhood, not a limit.",
            missing="steps that go to 0; with a constant step and noise F(theta_k) need not converge",
            remedy="train on with a step size that decreases, such as tame.schedules.Power",
            method=f"trend over steps {fit.first:,} to {fit.last:,} by {fit.trend.blocks} block means",
            scope=Scope.RUN,
        )
    return unknown(
        "values.converge",
        f"Whether F converges, and to what, cannot be told from this record: {fit.reason}.",
        missing=fit.reason,
        remedy="train longer, and record full_loss on a finer grid",
        scope=Scope.RUN,
    )


def noise_floor_finding(fit: Fit, series: LossSeries) -> Finding:
    """run.noise_floor: F has stopped falling at a floor set by the step and the noise."""
    claim = "run.noise_floor"
    if fit.regime == "noise floor" and fit.trend is not None:
        low, high = fit.trend.level_interval
        slope = fit.trend.interval
        return measured(
            claim,
            f"F has stopped falling at {fit.trend.level:.4g} [{low:.4g}, {high:.4g}] (trend "
            f"[{slope[0]:.1e}, {slope[1]:.1e}] a {series.clock_name}).",
            fit.trend.level,
            method=f"trend by {fit.trend.blocks} block means over steps {fit.first:,} to {fit.last:,}",
            error_kind="95% interval",
            interval=(low, high),
            scope=Scope.RUN,
            sample_size=fit.points,
        )
    if series.deterministic:
        return refuted(
            claim,
            "There is no noise: every step used all samples.",
            {"sampling": "full batch"},
            method="the record's sampling",
            scope=Scope.RUN,
        )
    half = series.tail(series.size // 2)
    if half.size >= 6:
        drift = trend(half.clock, half.values)
        if not drift.flat and drift.slope < 0:
            return refuted(
                claim,
                f"F is still falling: by {-drift.slope:.3g} [{-drift.interval[1]:.3g}, {-drift.interval[0]:.3g}] a "
                f"{series.clock_name} over the second half of the record.",
                {"slope": drift.slope, "interval": list(drift.interval), "from_step": int(half.steps[0])},
                method=f"trend by {drift.blocks} block means, 95% interval",
                scope=Scope.RUN,
            )
    return unknown(
        claim,
        "Whether F still falls is hidden in its fluctuation.",
        missing="a longer record: the interval of the trend contains 0 but also a fall that would matter",
        remedy="train longer, or record full_loss more often",
        scope=Scope.RUN,
    )


def rate_findings(fit: Fit, series: LossSeries) -> list[Finding]:
    """rate.linear, rate.sublinear and rate.steps_to_target."""
    unit = "step" if series.clock_name == "step" else "unit of the summed step sizes"
    window = f"over steps {fit.first:,} to {fit.last:,}, {fit.points} points"
    if fit.regime == "linear":
        low, high = fit.factor_interval
        findings = [
            measured(
                "rate.linear",
                f"F - F* shrinks by x{fit.factor:.7g} [{low:.7g}, {high:.7g}] a {unit}.",
                fit.factor,
                method=f"maximum likelihood with its noise, F* profiled, {window}; {fit.reason}",
                error_kind="95% profile-likelihood interval",
                interval=fit.factor_interval,
                scope=Scope.RUN,
                sample_size=fit.points,
                seed=fit.seed,
            ),
            refuted(
                "rate.sublinear",
                f"No power of 1/k that an analytic F has fits: {fit.reason}.",
                {"theta_interval": list(fit.theta_interval), "first_step": fit.first, "last_step": fit.last},
                method="95% profile-likelihood interval of the exponent against [2/3, 1)",
                scope=Scope.RUN,
            ),
        ]
    elif fit.regime == "sublinear":
        low, high = fit.power_interval
        findings = [
            refuted(
                "rate.linear",
                f"No exponential fits: {fit.reason}.",
                {"theta_interval": list(fit.theta_interval), "first_step": fit.first, "last_step": fit.last},
                method="95% profile-likelihood interval of the exponent against 1/2",
                scope=Scope.RUN,
            ),
            measured(
                "rate.sublinear",
                f"F - F* falls like k^-{fit.power:.3g} [{low:.3g}, {high:.3g}].",
                fit.power,
                method=f"maximum likelihood with its noise, F* and the origin of k profiled, {window}; {fit.reason}",
                error_kind="95% profile-likelihood interval",
                interval=fit.power_interval,
                scope=Scope.RUN,
                sample_size=fit.points,
                seed=fit.seed,
            ),
        ]
    else:
        findings = [
            unknown(
                claim,
                f"No rate can be told: {fit.reason}.",
                missing=fit.reason,
                remedy="train longer" if fit.regime == "undecided" else "",
                scope=Scope.RUN,
            )
            for claim in ("rate.linear", "rate.sublinear")
        ]
    findings.append(_steps_finding(fit))
    return findings


def _steps_finding(fit: Fit) -> Finding:
    claim = "rate.steps_to_target"
    if fit.regime not in ("linear", "sublinear"):
        return unknown(
            claim,
            f"No number of steps can be promised: {fit.reason}.",
            missing="a decay that the record decides to be linear or sublinear",
            scope=Scope.RUN,
        )
    target = fit.F_star + fit.excess / 10
    steps, (low, high) = fit.steps_to(target)
    if not (math.isfinite(steps) and math.isfinite(high)):
        return unknown(
            claim,
            f"No number of steps to F = {target:.2g}, a tenth of what is left, can be promised: the interval of the "
            "fitted limit reaches past it.",
            missing="a limit value known better than the distance to it",
            remedy="Fit.steps_to(target) for a target of yours",
            scope=Scope.RUN,
        )
    return measured(
        claim,
        f"F reaches {target:.6g}, a tenth of its present distance to the limit, in {steps:,.0f} more steps "
        f"[{low:,.0f}, {high:,.0f}].",
        steps,
        method=f"the fitted {fit.regime} decay extended",
        error_kind="95% profile-likelihood interval",
        interval=(low, high),
        scope=Scope.RUN,
        sample_size=fit.points,
        seed=fit.seed,
    )


def iterates_findings(run: Run, fit: Fit, law: GradientLaw | None, length: PathLength | None) -> list[Finding]:
    """iterates.bounded, iterates.finite_length, iterates.converge."""
    grid, thetas = saved_thetas(run)
    if grid.size < 8 or not bool(torch.isfinite(thetas).all()):
        what = "saved thetas are not finite" if grid.size >= 8 else f"theta was saved {grid.size} times"
        return [
            unknown(claim, f"The iterates' path cannot be judged: {what}.", missing="8 or more finite saved thetas")
            for claim in ("iterates.bounded", "iterates.finite_length", "iterates.converge")
        ]
    return [_bounded(grid, thetas), _finite_length(length), _converge(grid, thetas, fit, law, length)]


def _bounded(grid: np.ndarray, thetas: torch.Tensor) -> Finding:
    norms = torch.linalg.vector_norm(thetas, dim=1).numpy()
    largest = np.maximum.accumulate(norms)
    ratios = doubling_ratios(grid.astype(np.float64), largest, int(grid[0]))
    text = f"largest norm so far {largest[-1]:.4g} (at the start {norms[0]:.4g})"
    if len(ratios) >= 2 and max(ratios[:2]) < 0.8:
        return measured(
            "iterates.bounded",
            f"The iterates look bounded: {text}, and each doubling of time adds less than the one before.",
            float(largest[-1]),
            method="growth of the largest norm over the last two doublings of time",
            error_kind="largest recorded; no bound beyond the record",
            scope=Scope.RUN,
            sample_size=int(grid.size),
        )
    return unknown(
        "iterates.bounded",
        f"The iterates' norm still grows: {text}; the last doublings of time added {_words(ratios)} of the one "
        "before.",
        missing="a norm whose growth slows down (a creep like log k is not bounded)",
        remedy="train longer, or add weight decay, which bounds the sublevel sets",
        scope=Scope.RUN,
    )


def _finite_length(length: PathLength | None) -> Finding:
    claim = "iterates.finite_length"
    if length is None or len(length.ratios) < 2:
        return unknown(
            claim, "The path is too short a record to judge its length.", missing="at least 16 saved thetas"
        )
    kind = "exact" if length.exact else "chords between saved thetas, a lower bound"
    if length.looks_finite:
        return measured(
            claim,
            f"The path is {length.total:.4g} long so far ({kind}) and looks finite: the last doublings of time added "
            f"{_words(length.ratios)} of the one before.",
            length.total,
            method=f"length by doublings of time; {kind}",
            error_kind="length of the record; the rest is extrapolated",
            scope=Scope.RUN,
            sample_size=int(length.steps.size),
        )
    return unknown(
        claim,
        f"The path is {length.total:.4g} long so far ({kind}) and does not slow down enough to end: the last "
        f"doublings of time added {_words(length.ratios)} of the one before.",
        missing="a length whose increments over doublings of time shrink (ratio below 0.8)",
        remedy="train longer; with noise, let the steps go to 0",
        scope=Scope.RUN,
    )


def _words(ratios: tuple[float, ...]) -> str:
    return " and ".join(f"{ratio:.2g}x" for ratio in ratios[:2]) or "an unknown share"


def _converge(
    grid: np.ndarray, thetas: torch.Tensor, fit: Fit, law: GradientLaw | None, length: PathLength | None
) -> Finding:
    claim = "iterates.converge"
    last_tenth = thetas[np.searchsorted(grid, grid[-1] - 0.1 * (grid[-1] - grid[0])) :]
    moved = float(torch.linalg.vector_norm(last_tenth[-1] - last_tenth[0]))
    slows = length is not None and length.looks_finite
    # An exponent of 1 or more has no desingularising power, and finite length does not follow.
    flat = law is not None and law.usable and law.theta_interval[1] >= 1.0
    if slows and not flat and fit.regime in ("linear", "sublinear", "at rest"):
        return measured(
            claim,
            f"The iterates settle: they moved {moved:.3g} in the last tenth of the run, and less with each doubling "
            "of time.",
            moved,
            method=f"length by doublings of time, with a {fit.regime} decay of F",
            error_kind="distance within the record; the rest is extrapolated",
            scope=Scope.RUN,
            sample_size=int(grid.size),
        )
    if flat:
        why = f"the gradient vanishes like (F - F*)^{law.theta:.2f}, too fast for a path of finite length"  # type: ignore[union-attr]
    elif not slows:
        why = "their path does not slow down enough to end"
    else:
        why = f"the loss shows no decided decay ({fit.regime}: {fit.reason})"
    return unknown(
        claim,
        f"The iterates moved {moved:.3g} in the last tenth of the run; whether they converge is open: {why}.",
        missing=why,
        remedy="train longer, at a step that goes to 0 if there is noise",
        scope=Scope.RUN,
    )


def exponent_finding(law: GradientLaw | None, fit: Fit) -> Finding:
    """kl.exponent, as the run sees it."""
    claim = "kl.exponent"
    if fit.regime == "noise floor":
        return unknown(
            claim,
            "At a noise floor the gradient measures the noise, not the shape of F.",
            missing="a stretch of the run above its floor",
            remedy="tame.kl.fit on a full-batch continuation of the run",
        )
    if law is None:
        return unknown(
            claim,
            "Fewer than 10 recorded steps have both F and its gradient.",
            missing="full_gradient_norm on the grid of full_loss",
            remedy="record full_gradient_norm with full_loss",
        )
    if law.decades < 1.0:
        return unknown(
            claim,
            f"F - F* ranged over {law.decades:.1f} decades only: no slope can be read off.",
            missing="at least one decade of F - F*",
            remedy="train longer",
        )
    low, high = law.theta_interval
    if high - low > 0.5:
        return unknown(
            claim,
            f"The slope of log norm(grad F) on log(F - F*) is {law.theta:.2f} [{low:.2f}, {high:.2f}], too uncertain "
            "to name an exponent.",
            missing="a record with less scatter, or closer to the limit",
            remedy="train longer, or continue with full batches",
        )
    return measured(
        claim,
        f"norm(grad F) falls like (F - F*)^{law.theta:.3f} [{low:.3f}, {high:.3f}] along the run; the exponent at "
        "the limit is at least that if the run shows its worst arc.",
        law.theta,
        method="slope of log norm(grad F) on log(F - F*), F* profiled, "
        f"{law.points} points over {law.decades:.1f} decades",
        error_kind="95% block-bootstrap interval",
        interval=law.theta_interval,
        scope=Scope.PATH,
        sample_size=law.points,
        source="Lojasiewicz 1963; a run sees its own arc, so this is evidence and no certificate",
    )


def pl_finding(pl: PathPL | None, fit: Fit) -> Finding:
    """kl.pl_constant on the path."""
    claim = "kl.pl_constant"
    if pl is None or fit.regime not in ("linear", "sublinear", "at rest"):
        return unknown(
            claim,
            "Without a limit value F* the ratio norm(grad F)^2 / (2 (F - F*)) means nothing."
            if pl is not None or fit.regime in ("undecided", "noise floor")
            else "No recorded step has a gradient and an excess beyond rounding.",
            missing=f"a decided limit value; the fit says {fit.regime}: {fit.reason}",
            remedy="train longer, or tame.kl.pl_constant(run, F_star=...) if you know F*",
        )
    low, high = pl.interval
    return measured(
        claim,
        f"On the recorded path norm(grad F)^2 >= 2 mu (F - F*) with mu = {pl.mu:.3g} [{low:.3g}, {high:.3g}] (least "
        f"at step {pl.step:,}).",
        pl.mu,
        method="the least ratio over the recorded steps",
        error_kind="over the 95% interval of F*",
        interval=pl.interval,
        scope=Scope.PATH,
        sample_size=int(np.isfinite(pl.mu_at).sum()),
    )
