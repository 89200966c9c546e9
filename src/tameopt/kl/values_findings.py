"""What the record of a run says about its values by itself: finite, falling, at a noise floor."""

from __future__ import annotations

import math

import numpy as np

from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.kl.fit import Fit
from tameopt.kl.series import LossSeries
from tameopt.kl.trend import trend
from tameopt.run import Run


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
        f"The {series.size:,} recorded values of F alone do not tell whether it still falls: they fluctuate.",
        missing="a longer record: the interval of the trend contains 0 but also a fall that would matter",
        remedy="train longer, or record full_loss more often",
        scope=Scope.RUN,
    )
