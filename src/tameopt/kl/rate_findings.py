"""What the fit of a run says: does F converge, how fast, when will it have come further, with which exponent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.kl.fit import Fit
from tameopt.kl.forecast import forecast
from tameopt.kl.gradient_law import GradientLaw
from tameopt.kl.pl import Constants, PathPL
from tameopt.kl.series import LossSeries
from tameopt.kl.trend import trend

AT_ITS_FLOOR = "F is at the floor of its noise"
_SHARE = 0.5  # our choice: steps to half of what is left
_PROFILE = "95% profile-likelihood interval"


def _open(claim: str, statement: str, missing: str, remedy: str = "", method: str = "") -> Finding:
    return unknown(claim, statement, missing=missing, remedy=remedy, method=method, scope=Scope.RUN)


def _of_fit(claim: str, statement: str, value: float, fit: Fit, **evidence: Any) -> Finding:
    return measured(claim, statement, value, scope=Scope.RUN, sample_size=fit.points, seed=fit.seed, **evidence)


def _of_noise(fit: Fit, series: LossSeries) -> str:
    """What noise leaves of the distance to the limit, in words."""
    if series.deterministic:
        return ""
    if fit.law is not None:
        law, last = fit.law, max(len(fit.law.fitted) // 10, 8)
        scatter = float(np.std((law.base + law.scale * law.y - law.fitted)[-last:]))
        if fit.excess < scatter:
            return f", less than the scatter of F about it, {scatter:.2g}: {AT_ITS_FLOOR}"
    return " (the noise may stop it earlier)"


def values_converge_finding(fit: Fit, series: LossSeries) -> Finding:
    """values.converge: does F(theta_k) approach one number?"""
    claim = "values.converge"
    if fit.regime == "noise floor" and fit.trend is not None:
        return _open(
            claim,
            f"F no longer falls but fluctuates by {fit.trend.fluctuation:.3g} about {fit.F_star:.6g}: at this step "
            "size it reaches a neighbourhood, not a limit.",
            "steps that go to 0; with a constant step and noise F(theta_k) need not converge",
            "train on with a step size that decreases, such as tame.schedules.Power",
            f"trend over steps {fit.first:,} to {fit.last:,} by {fit.trend.blocks} block means",
        )
    low, high = fit.F_star_interval
    if fit.regime in ("linear", "sublinear", "at rest"):
        there = fit.excess <= 1e-12 * abs(fit.F_star)
        statement = (
            f"F approaches {fit.F_star:.6g} [{low:.6g}, {high:.6g}]; at the last step the fitted curve is "
            f"{'there, within rounding' if there else f'{fit.excess:.3g} away'}{_of_noise(fit, series)}."
        )
        how = f"{fit.regime} fit over steps {fit.first:,} to {fit.last:,}; {fit.reason}"
    elif fit.regime == "converging":
        statement = f"F approaches a limit in [{low:.4g}, {high:.4g}]; {fit.reason}."
        how = f"the fall so far against the most that is left, steps {fit.first:,} to {fit.last:,}"
    else:
        return _open(
            claim,
            f"Whether F converges, and to what, cannot be told from this record: {fit.reason}.",
            fit.reason,
            "train longer, and record full_loss on a finer grid",
        )
    half = series.tail(series.size // 2)
    drift = trend(half.clock, half.values) if half.size >= 3 else None
    return _of_fit(
        claim,
        statement,
        drift.slope if drift else 0.0,
        fit,
        method=how,
        error_kind="95% interval of the trend by block means",
        interval=drift.interval if drift else None,
    )


def rate_findings(fit: Fit, series: LossSeries) -> list[Finding]:
    """rate.linear and rate.sublinear."""
    if fit.regime not in ("linear", "sublinear"):
        remedy = "train longer" if fit.regime in ("undecided", "converging") else ""
        statement = f"No rate can be told: {fit.reason}."
        return [_open(claim, statement, fit.reason, remedy) for claim in ("rate.linear", "rate.sublinear")]
    unit = "step" if series.clock_name == "step" else "unit of the summed step sizes"
    if fit.regime == "linear":
        (low, high), value, profiled = fit.factor_interval, fit.factor, "F*"
        statement = f"F - F* shrinks by x{value:.7g} [{low:.7g}, {high:.7g}] a {unit}."
        not_so, against = "No power of 1/k that an analytic F has fits", "[2/3, 1)"
    else:
        (low, high), value, profiled = fit.power_interval, fit.power, "F* and the origin of k"
        statement = f"F - F* falls like k^-{value:.3g} [{low:.3g}, {high:.3g}]."
        not_so, against = "No exponential fits", "1/2"
    holds = _of_fit(
        f"rate.{fit.regime}",
        statement,
        value,
        fit,
        method=f"maximum likelihood with its noise, {profiled} profiled, over steps {fit.first:,} to {fit.last:,}, "
        f"{fit.points} points; {fit.reason}",
        error_kind=_PROFILE,
        interval=(low, high),
    )
    fails = refuted(
        "rate.sublinear" if fit.regime == "linear" else "rate.linear",
        f"{not_so}: {fit.reason}.",
        {"theta_interval": list(fit.theta_interval), "first_step": fit.first, "last_step": fit.last},
        method=f"{_PROFILE} of the exponent against {against}",
        scope=Scope.RUN,
    )
    return [holds, fails] if fit.regime == "linear" else [fails, holds]


def steps_finding(fit: Fit, series: LossSeries, lower: float | None = None) -> Finding:
    """rate.steps_to_target: steps until F is half as far from its fitted limit as now, by `forecast`."""
    claim, remedy = "rate.steps_to_target", "tameopt.kl.forecast.forecast(run, target) for a target of yours"
    if fit.regime not in ("linear", "sublinear"):
        statement = "No number of steps can be promised while the rate is open."
        return _open(claim, statement, "a decay that the record decides", remedy)
    target = fit.F_star + _SHARE * fit.excess
    found = forecast(series, target, lower=lower)
    if found.reason:
        statement = f"No number of steps to F = {target:.2g}, half of what is left, can be promised: {found.reason}."
        return _open(claim, statement, "a decay that foretold the last part of this record", remedy)
    if found.steps == 0.0:
        statement = (
            f"F is below {target:.6g} already, half of the fitted distance to its limit: it is there, or about it."
        )
        return _open(claim, statement, "a distance to the limit beyond the scatter of F", remedy)
    # the first whole step at or below the target
    steps, low, high = math.ceil(found.steps), math.floor(found.interval[0]), math.ceil(found.interval[1])
    return _of_fit(
        claim,
        f"F reaches {target:.6g}, half of its present distance to the limit, in {steps:,} more steps "
        f"[{low:,}, {high:,}].",
        float(steps),
        fit,
        method=f"{found.how}; asked {len(found.trials)} times earlier they missed by "
        f"{100 * max(map(abs, found.trials), default=0.0):.2g}% at most",
        error_kind="95%, as calibrated on real runs (benchmarks/kl_steps_to_target.py)",
        interval=(float(low), float(high)),
    )


def exponent_finding(law: GradientLaw | None, fit: Fit, without_kl: Finding | None = None) -> Finding:
    """kl.exponent, as the run sees it; refuted where the literature says that F has no KL property."""
    claim = "kl.exponent"
    if without_kl is not None:
        along = (
            "" if law is None else f" Along this run norm(grad F) looks like (F - F*)^{law.theta:.2f}, on one arc."
        )
        return refuted(
            claim,
            f"There is no exponent: {without_kl.statement}{along}",
            dict(without_kl.evidence.witness or {"statement": without_kl.statement}),
            method="known of this function",
            source=without_kl.evidence.source,
            scope=Scope.GLOBAL,
        )
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


def pl_finding(pl: PathPL | None, fit: Fit, constants: Constants | None = None) -> Finding:
    """kl.pl_constant on the path, next to the constants of the error bound and of quadratic growth where known."""
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
        f"at step {pl.step:,}).{_compared(constants)}",
        pl.mu,
        method="the least ratio over the recorded steps",
        error_kind="over the 95% interval of F*",
        interval=pl.interval,
        scope=Scope.PATH,
        sample_size=int(np.isfinite(pl.mu_at).sum()),
    )


def _compared(constants: Constants | None) -> str:
    """PL, error bound and quadratic growth over the same points: PL implies the other two with its mu."""
    if constants is None:
        return ""
    return (
        f" Over {constants.steps} points with the last theta for the limit: PL {constants.pl:.3g}, error bound "
        f"norm(grad F) >= {constants.error_bound:.3g} distance, growth "
        f"F - F* >= {constants.growth / 2:.3g} distance^2."
    )
