"""What the record of a run says about its rate: linear or sublinear, exponent, constants."""

from __future__ import annotations

import numpy as np

from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.kl.fit import Fit
from tameopt.kl.gradient_law import GradientLaw
from tameopt.kl.pl import Constants, PathPL
from tameopt.kl.series import LossSeries


def rate_findings(fit: Fit, series: LossSeries) -> list[Finding]:
    """rate.linear and rate.sublinear."""
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
                remedy="train longer" if fit.regime in ("undecided", "converging") else "",
                scope=Scope.RUN,
            )
            for claim in ("rate.linear", "rate.sublinear")
        ]
    return findings


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
