"""Steps far too small, and plateaus: F could fall, or stands still, although the point is not critical."""

from __future__ import annotations

import math

import numpy as np

from tameopt.audit.symptoms.history import History
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

TOO_SMALL = "step.too_small"
PLATEAU = "run.plateau"
_SMALL = 0.05  # of the step that curvature and noise allow
_UNFINISHED = 0.3  # going on as now would win at least this share of all that was won, once more
_FLAT = 0.01  # relative change of F over the last third
_LEFT = 1e-3  # of the largest gradient must be left, else the point is nearly critical and not a plateau


def too_small(history: History, L: float, noise_scale: float) -> Finding:
    """step.too_small: alpha against 1 / (L (1 + noise scale / batch size)), for a run that is not finished.

    L: the largest curvature seen on the path, of what training steps on. noise_scale: tr Sigma / norm(grad F)^2 in
    samples, 0 without noise.
    The bound is where the expected decrease of a step, -alpha norm(g)^2 (1 - alpha L (1 + B/b) / 2), is greatest.
    """
    alpha, b = history.alpha, int(history.meta.get("batch_size") or 0)
    series, norms = history.level, history.gradient
    name = str((history.meta.get("optimizer") or {}).get("name", ""))
    if name not in ("SGD", ""):
        return unknown(
            TOO_SMALL,
            f"What step {name} could bear is not known: it scales each coordinate by itself.",
            missing=f"the preconditioned curvature of {name}",
        )
    if not (math.isfinite(alpha) and math.isfinite(L) and L > 0) or series.size < 6 or norms.size < 2:
        return unknown(
            TOO_SMALL,
            "Whether the step is too small cannot be told.",
            missing="the step size, L on the path, and F on a grid",
            remedy="tame.curvature.lipschitz(problem, thetas)",
        )
    momentum = float(((history.meta.get("optimizer") or {}).get("arguments") or {}).get("momentum") or 0.0)
    effective = alpha / (1.0 - momentum) if 0 <= momentum < 1 else alpha
    noise = 0.0 if history.deterministic or not math.isfinite(noise_scale) or not b else noise_scale / b
    allowed = 1.0 / (L * (1.0 + noise))
    share = effective / allowed
    won = float(series.values[0] - series.values[-1])
    g = float(norms.values[-1])
    ahead = effective * history.steps_done * g * g
    how = "alpha against 1/(L (1 + B/b)), where a step's expected decrease is greatest"
    numbers = {
        "alpha": alpha,
        "effective_alpha": effective,
        "allowed": allowed,
        "L": L,
        "noise_scale_over_b": noise,
        "won": won,
        "ahead": ahead,
    }
    unfinished = ahead > _UNFINISHED * max(won, 0.0) and g > 0
    if share < _SMALL and unfinished:
        return measured(
            TOO_SMALL,
            f"The step {alpha:.4g} is {100 * share:.2g}% of the {allowed:.3g} that curvature and noise "
            f"allow, and F still "
            "falls as it did at the start.",
            alpha * L,
            method=how,
            error_kind="L is a lower bound from the recorded points",
            scope=Scope.RUN,
            sample_size=series.size,
            witness=numbers,
        )
    said = (
        f"The step is {100 * share:.3g}% of what curvature and noise allow ({allowed:.3g})."
        if share >= _SMALL
        else f"The step is small ({100 * share:.2g}% of {allowed:.3g}), but most of the fall is behind."
    )
    return refuted(TOO_SMALL, said, numbers, method=how, scope=Scope.RUN)


def plateau(history: History) -> Finding:
    """run.plateau: F hardly moves over the last third, and the gradient is not (nearly) zero."""
    series, norms = history.level, history.gradient
    if series.size < 15 or norms.size < 2:
        return unknown(
            PLATEAU,
            "A plateau cannot be told from this record.",
            missing=f"at least 15 recorded values of F, {series.size} are there",
            remedy="record full_loss on a finer grid",
        )
    tail = series.last(1 / 3)
    scale = max(float(np.abs(series.values).max()), 1e-300)
    change = float(np.ptp(tail.values)) / scale
    left = float(norms.values[-1] / norms.values.max()) if norms.values.max() > 0 else 0.0
    how = f"range of F over the last third ({tail.size} values) against its size"
    numbers = {"relative_change": change, "gradient_left": left, "from_step": int(tail.steps[0])}
    if change < _FLAT and left > _LEFT:
        return measured(
            PLATEAU,
            f"F has moved by {100 * change:.2g}% of its size since step {int(tail.steps[0]):,}, while the gradient's "
            f"norm is still {float(norms.values[-1]):.3g}.",
            change,
            method=how,
            error_kind="range of recorded values",
            scope=Scope.RUN,
            sample_size=tail.size,
            witness=numbers,
        )
    said = f"F moved by {100 * change:.3g}% over the last third." if change >= _FLAT else "The gradient is nearly 0."
    return refuted(PLATEAU, said, numbers, method=how, scope=Scope.RUN)
