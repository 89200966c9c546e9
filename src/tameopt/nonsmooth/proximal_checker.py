"""The checker of what is known of the penalties of the prox catalogue: closed, bounded below, definable.

Each is listed with the structure in which its formula is definable; "semialgebraic" is so in all of them, and "R_exp"
(logarithms, real powers) in R_an,exp, together with every F that the certificate of structure calls tame there (van
den Dries & Miller 1994). This module imports nothing of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SEMIALGEBRAIC = (
    "none", "l1", "l2", "l2_squared", "linf", "l0", "l_half", "l_two_thirds", "mcp", "scad", "elastic_net",
    "group_lasso", "nuclear", "rank", "tv1d", "simplex", "box", "ball_l1", "ball_l2", "ball_linf", "nonnegative",
    "s_sparse",
)  # fmt: skip
_EXPONENTIAL = ("log_sum", "entropy", "power")

STRUCTURES: Mapping[str, str] = {
    **dict.fromkeys(_SEMIALGEBRAIC, "semialgebraic"),
    **dict.fromkeys(_EXPONENTIAL, "R_exp"),
}


def check(data: Mapping[str, Any]) -> bool:
    """Whether all penalties are in the table, with strengths > 0 (which keeps them bounded below).

    data: {"penalties": [[name, strength], ...]}. Raises ValueError when it is not of this form.
    """
    try:
        rows = [(str(name), float(strength)) for name, strength in data["penalties"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a certificate of penalties: {error!r}.") from error
    return bool(rows) and all(name in STRUCTURES and 0 < strength < float("inf") for name, strength in rows)
