"""The pictures of this room: F - F* in time with its fit, and the gradient against the excess."""

from __future__ import annotations

import numpy as np

from tameopt.kl.fit import Fit
from tameopt.kl.gradient_law import GradientLaw
from tameopt.kl.rates import Rate
from tameopt.kl.series import LossSeries
from tameopt.picture import Picture, Series, Style


def _curve(
    label: str, x: np.ndarray, y: np.ndarray, style: Style = "line", y_upper: np.ndarray | None = None
) -> Series:
    return Series.of(label, x.tolist(), y.tolist(), style, [] if y_upper is None else y_upper.tolist())


def decay_picture(fit: Fit, series: LossSeries, predicted: Rate | None = None) -> Picture | None:
    """F - F* on a log scale against the step, with the fitted curve, its band and the rate that the theory predicts.

    predicted: its times are steps. None when nothing is positive.
    """
    F_star = fit.F_star
    if not np.isfinite(F_star) or fit.regime in ("noise floor", "at rest"):
        # without a limit value the loss itself is what can be seen
        F_star = 0.0 if float(series.values.min()) > 0 else float(series.values.min())
    label = "F - F*" if F_star else "F"
    excess = np.where(series.values > F_star, series.values - F_star, np.nan)
    if not np.any(np.isfinite(excess)):
        return None
    drawn = [_curve("recorded", series.steps, excess, "points")]
    if fit.law is not None:
        tail = series.tail(series.size - fit.points)
        curve, low, high = fit.predict(tail.clock)
        floor = np.nanmin(excess) * 1e-2
        drawn.append(
            _curve("95% band", tail.steps, np.maximum(low - F_star, floor), "band", np.maximum(high - F_star, floor))
        )
        drawn.append(_curve(f"{fit.regime} fit", tail.steps, np.maximum(curve - F_star, floor)))
        if predicted is not None:
            at = np.unique(np.linspace(0, predicted.times.size - 1, 200).round().astype(int))
            bound = np.maximum(predicted.values[at], floor)
            drawn.append(_curve("predicted: at most", predicted.times[at], bound))
    elif fit.regime == "noise floor" and fit.trend is not None:
        drawn.append(Series.of("floor", (), (fit.trend.level - F_star,), "hline"))
    return Picture(
        "kl-decay",
        f"Loss above its limit: {fit.regime}",
        "step k",
        label,
        tuple(drawn),
        y_log=True,
        caption=f"A straight line is linear convergence. {fit.reason[:1].upper()}{fit.reason[1:]}.",
    )


def gradient_picture(law: GradientLaw, series: LossSeries) -> Picture:
    """norm(grad F) against F - F*, both logarithmic, with the line of slope theta."""
    values, norms = series.values[law.mask], series.gradient_norms[law.mask]
    excess = values - law.F_star
    ends = np.array([excess.min(), excess.max()])
    return Picture(
        "kl-gradient",
        f"KL exponent along the run: {law.theta:.2f}",
        "F - F*",
        "norm(grad F)",
        (
            _curve("recorded", excess, norms, "points"),
            _curve(f"slope {law.theta:.2f}", ends, np.exp(law.log_c + law.theta * np.log(ends))),
        ),
        x_log=True,
        y_log=True,
        caption="The slope is the exponent theta: 1/2 means linear convergence, towards 1 slower than any power.",
    )
