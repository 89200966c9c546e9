"""Exact confidence intervals of a proportion."""

from __future__ import annotations

from tameopt.extras import require


def proportion_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval: it covers the probability at least `confidence` of the time, for any n.

    Raises ValueError unless 0 <= successes <= trials, trials > 0 and 0 < confidence < 1.

    >>> proportion_interval(0, 1000)[0], round(proportion_interval(0, 1000)[1], 6)
    (0.0, 0.003682)
    """
    if not (0 <= successes <= trials and trials > 0 and 0 < confidence < 1):
        raise ValueError(
            f"an interval needs 0 <= successes <= trials, trials > 0 and a confidence in (0, 1), got {successes}, "
            f"{trials} and {confidence}."
        )
    beta = require("scipy.stats", "an exact interval").beta
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high
