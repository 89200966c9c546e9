"""Student's t: how much wider than the normal one an interval is whose spread was estimated from few numbers."""

from __future__ import annotations

# Student's t, 97.5% quantile, for 1..30 degrees of freedom; past 30 the normal one is within 4%.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def student_quantile(degrees: int) -> float:
    """The 97.5% quantile of Student's t with that many degrees of freedom (three decimals; 1.96 + 2.4/d past 30)."""
    return _T975[degrees - 1] if degrees <= len(_T975) else 1.96 + 2.4 / degrees
