"""The recorded windows of consecutive iterates of a run, on the time axis of the ODE method.

tau_k = alpha_0 + … + alpha_{k-1}; the interpolated process w is affine between w(tau_k) = theta_k. (The lecture
divides by alpha_{k+1} between tau_k and tau_{k+1}; that interval is alpha_k long.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tameopt.noise._display import HtmlText
from tameopt.optim import schedules
from tameopt.problem import Problem
from tameopt.run import Run


@dataclass(frozen=True)
class Window(HtmlText):
    """m+1 consecutive iterates.

    steps: (m+1,) int64, consecutive. thetas: (m+1, d). alphas: (m,) float64, the step sizes between them.
    """

    steps: np.ndarray
    thetas: torch.Tensor
    alphas: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """(m+1,) tau_k - tau_first."""
        return np.concatenate([[0.0], np.cumsum(self.alphas)])

    def __repr__(self) -> str:
        d, time = self.thetas.shape[1], self.times[-1]
        return f"Window(steps {self.steps[0]:,} to {self.steps[-1]:,}, d={d:,}, time {time:.4g})"

    def up_to(self, length: int) -> Window:
        """The first `length` steps of the window."""
        return Window(self.steps[: length + 1], self.thetas[: length + 1], self.alphas[:length])


def recorded_alphas(run: Run, steps: np.ndarray) -> np.ndarray | None:
    """(m,) alpha_k at these steps, from the recorded "lr", else from the recorded schedule; None without either."""
    at, numbers = run.series("lr")
    if at.size:
        position = np.searchsorted(at, steps)
        if position.size and position.max() < at.size and np.array_equal(at[position], steps):
            return numbers[position]
    recorded = run.meta.get("schedule")
    if not recorded:
        return None
    try:
        schedule = schedules.from_json(recorded)
    except ValueError:
        return None
    return np.array([schedule(int(k)) for k in steps])


def require_run(run: Run) -> Run:
    """The run itself; TypeError with what to pass for what people pass instead."""
    if not isinstance(run, Run):
        raise TypeError(
            f"run must be a tameopt.run.Run, got {type(run).__name__}: of a watched loop give its .run, of a folder "
            "Run.open(folder)."
        )
    return run


def problem_of_run(problem: Problem, run: Run) -> Problem:
    """The problem with the last recorded buffers of the run: BatchNorm's running statistics belong to its F."""
    buffers = run.buffers()
    return problem.load_buffers(buffers) if buffers else problem


def spans(run: Run, name: str = "theta", least: int = 3) -> list[tuple[int, int]]:
    """(first, last) of every stretch of at least `least` consecutive steps at which the vector was saved."""
    steps = require_run(run).vector_steps(name)
    if steps.size == 0:
        return []
    breaks = np.flatnonzero(np.diff(steps) != 1)
    firsts, lasts = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [steps.size - 1]])
    return [
        (int(steps[i]), int(steps[j])) for i, j in zip(firsts, lasts, strict=True) if steps[j] - steps[i] + 1 >= least
    ]


def read_window(run: Run, first: int, last: int) -> Window | None:
    """The window of the steps first, …, last; None when its step sizes were not recorded."""
    steps = np.arange(first, last + 1)
    alphas = recorded_alphas(run, steps[:-1])
    if alphas is None:
        return None
    return Window(steps, run.vectors(steps), alphas)
