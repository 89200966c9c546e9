"""A share of the training's own time, and how much of it the watching has spent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

_SEEN = 0.75  # our choice: the clock sees neither the counting hook of a quiet step nor the caches that a probe cools


def parse_share(budget: str | float) -> float:
    """ "2%" or 0.02 as a share.

    Raises ValueError when it is not above 0 and below 1.

    >>> parse_share("2%")
    0.02
    """
    try:
        share = float(budget[:-1]) / 100 if isinstance(budget, str) and budget.endswith("%") else float(budget)
    except ValueError:
        share = float("nan")
    if not 0 < share < 1:
        raise ValueError(f"budget must be a share of the training time such as '2%' or 0.02, got {budget!r}.")
    return share


@dataclass
class Budget:
    """Seconds spent against seconds allowed: three quarters of `share` of all that has passed since the start, the
    rest being left to what the clock does not see.

    It is mutable on purpose: it is the clock of one watched run.
    """

    share: float  # of the training's time, as the person gave it
    spent: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def allowed(self) -> float:
        """The share of the time that may be spent where the clock sees it."""
        return _SEEN * self.share

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def allows(self, seconds: float) -> bool:
        """Whether this much more may be spent now."""
        return self.spent + seconds <= self.allowed * self.elapsed

    @property
    def used(self) -> float:
        """The share of the time without watching that was spent so far."""
        return self.spent / max(self.elapsed - self.spent, 1e-9)
