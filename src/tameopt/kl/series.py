"""A recorded series as the analyses of this room read it: values against steps and against the method's clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.run import Run

FULL_LOSS = "full_loss"
FULL_GRADIENT_NORM = "full_gradient_norm"


@dataclass(frozen=True)
class LossSeries:
    """F(theta_k) on the recorded grid.

    steps: (m,) int64, increasing. clock: (m,) the sum of the steps alpha_i, i < k, when they vary, else k itself.
    values: (m,) F(theta_k). gradient_norms: (m,) norm(grad F(theta_k)), NaN where it was not recorded.
    clock_name: "step" or "sum of alpha". deterministic: True for full-batch runs, None when the record does not say.
    """

    steps: np.ndarray
    clock: np.ndarray
    values: np.ndarray
    gradient_norms: np.ndarray
    clock_name: str = "step"
    deterministic: bool | None = None

    @property
    def size(self) -> int:
        """The number of recorded points."""
        return int(self.steps.size)

    def tail(self, start: int) -> LossSeries:
        """The points from index `start` on."""
        return LossSeries(
            self.steps[start:],
            self.clock[start:],
            self.values[start:],
            self.gradient_norms[start:],
            self.clock_name,
            self.deterministic,
        )


def is_deterministic(run: Run) -> bool | None:
    """Whether every step used all samples; None when the record does not say."""
    meta = run.meta
    if meta.get("sampling") == "full batch":
        return True
    if meta.get("sampling") in ("with replacement", "reshuffled"):
        n, batch_size = meta.get("n"), meta.get("batch_size")
        # one epoch of one batch is the full batch in another order
        return bool(meta["sampling"] == "reshuffled" and n and batch_size and batch_size >= n)
    return None


def varying_clock(run: Run, steps: np.ndarray) -> np.ndarray | None:
    """(m,) the sum of alpha_i over i < steps, or None when alpha is constant or was not recorded.

    Between recorded steps alpha is taken as the last one recorded.
    """
    alpha_steps, alphas = run.series("lr")
    if alphas.size < 2 or not np.all(np.isfinite(alphas)) or np.ptp(alphas) <= 1e-12 * np.abs(alphas).max():
        return None
    widths = np.diff(np.append(alpha_steps, max(int(steps[-1]), int(alpha_steps[-1]) + 1)))
    edges = np.append(alpha_steps, alpha_steps[-1] + widths[-1]).astype(np.float64)
    totals = np.concatenate([[0.0], np.cumsum(alphas * widths)])
    clock: np.ndarray = np.interp(steps.astype(np.float64), edges, totals)
    return clock if np.all(np.diff(clock) > 0) else None


def loss_series(run: Run, name: str = FULL_LOSS) -> LossSeries:
    """The finite part of a run's loss on its grid.

    Raises ValueError when the run has no such series.
    """
    steps, values = run.series(name)
    if not steps.size:
        raise ValueError(f"the run must have recorded {name!r}, it has {', '.join(run.names) or 'nothing'}.")
    broken = np.flatnonzero(~np.isfinite(values))
    if broken.size:
        steps, values = steps[: broken[0]], values[: broken[0]]
    if not steps.size:
        raise ValueError(f"the run must have a finite {name!r}, its first value is not.")
    gradient_steps, norms = run.series(FULL_GRADIENT_NORM)
    recorded = dict(zip(gradient_steps.tolist(), norms.tolist(), strict=True))
    gradient_norms = np.array([recorded.get(step, np.nan) for step in steps.tolist()])
    clock = varying_clock(run, steps)
    return LossSeries(
        steps,
        steps.astype(np.float64) if clock is None else clock,
        values,
        gradient_norms,
        "step" if clock is None else "sum of alpha",
        is_deterministic(run),
    )
