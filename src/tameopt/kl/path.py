"""What the path of a run looks like: its length, its drift, and whether either slows down enough to stop.

A finite record never proves a limit. What it can show is the *share of motion a doubling of time adds*: for a
path of finite length the length travelled in [K/2, K] falls geometrically against the one in [K/4, K/2] (like
2^(1-s) when the steps are of order k^-s with s > 1), for logarithmic creep it stays equal, and for a walk at a
noise floor it grows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.kl.series import is_deterministic
from tameopt.run import Run

_MOST_VECTORS = 400  # our choice: thetas read at once, so that a long record stays cheap


@dataclass(frozen=True)
class PathLength:
    """The length of the path so far.

    steps, cumulative: (m,) the length travelled up to a step. exact: True when every step was summed
    (alpha_k norm(g_k)), False when chords between saved thetas were (a lower bound). ratios: length over the last
    doublings of time against the doubling before, the latest first.
    """

    steps: np.ndarray
    cumulative: np.ndarray
    exact: bool
    ratios: tuple[float, ...]

    @property
    def total(self) -> float:
        """Length so far."""
        return float(self.cumulative[-1])

    @property
    def looks_finite(self) -> bool:
        """Whether each of the last two doublings of time added clearly less than the one before.

        0.8 is our choice: creep like 1/k has ratio 1, steps like k^(-4/3) have 0.79.
        """
        return len(self.ratios) >= 2 and max(self.ratios[:2]) < 0.8


def doubling_ratios(steps: np.ndarray, cumulative: np.ndarray, first: int = 0) -> tuple[float, ...]:
    """Increments over [K/2, K], [K/4, K/2], ... each against the next, latest first; needs 4 points in a piece.

    >>> k = np.arange(1.0, 1025.0)
    >>> [round(r, 2) for r in doubling_ratios(k, np.log(k), 0)[:2]]
    [1.0, 1.0]
    """
    end = float(steps[-1]) - first
    edges = [first + end / 2**j for j in range(12)]
    increments = []
    for high, low in itertools.pairwise(edges):
        if np.count_nonzero((steps >= low) & (steps <= high)) < 4:
            break
        increments.append(float(np.interp(high, steps, cumulative) - np.interp(low, steps, cumulative)))
    return tuple(
        late / early if early > 0 else (0.0 if late == 0 else float("inf"))
        for late, early in itertools.pairwise(increments)
    )


def is_plain_gradient_descent(run: Run, alphas: np.ndarray) -> bool:
    """Whether the record says gradient descent on all samples with one constant step."""
    constant = alphas.size > 0 and bool(np.all(np.isfinite(alphas))) and float(np.ptp(alphas)) == 0.0
    return constant and _is_plain_gradient_step(run) and is_deterministic(run) is True


def _is_plain_gradient_step(run: Run) -> bool:
    """Whether theta_{k+1} - theta_k = -alpha_k g_k, by the record's own words."""
    optimizer = run.meta.get("optimizer") or {}
    arguments = optimizer.get("arguments") or {}
    extras = ("momentum", "weight_decay", "nesterov", "maximize")
    return str(optimizer.get("name", "")).lower() == "sgd" and not any(arguments.get(key) for key in extras)


def path_length(run: Run) -> PathLength | None:
    """The length of the recorded path, or None when the record has neither step lengths nor thetas."""
    steps, norms = run.series("gradient_norm")
    alpha_steps, alphas = run.series("lr")
    whole = steps.size > 8 and steps.size == steps[-1] - steps[0] + 1
    if whole and alphas.size and _is_plain_gradient_step(run) and np.all(np.isfinite(norms)):
        # alpha between recorded steps is the last one recorded
        held = alphas[np.clip(np.searchsorted(alpha_steps, steps, side="right") - 1, 0, alphas.size - 1)]
        cumulative = np.cumsum(held * norms)
        return PathLength(steps + 1, cumulative, True, doubling_ratios(steps + 1.0, cumulative, int(steps[0])))
    grid, thetas = saved_thetas(run)
    if grid.size < 3:
        return None
    chords = torch.linalg.vector_norm(torch.diff(thetas, dim=0), dim=1).double().numpy()
    cumulative = np.concatenate([[0.0], np.cumsum(chords)])
    return PathLength(grid, cumulative, False, doubling_ratios(grid.astype(np.float64), cumulative, int(grid[0])))


def saved_thetas(run: Run) -> tuple[np.ndarray, torch.Tensor]:
    """((m,) steps, (m, d) float64) saved thetas, at most 400 spread over the record; windows are thinned out."""
    grid = run.vector_steps("theta")
    if grid.size > _MOST_VECTORS:
        wanted = np.linspace(grid[0], grid[-1], _MOST_VECTORS)
        grid = np.unique(grid[np.searchsorted(grid, wanted)])
    if not grid.size:
        return grid, torch.zeros(0, 0, dtype=torch.float64)
    return grid, run.vectors(grid).double()
