"""The noise that a run really had: M_{k+1} = (theta_k - theta_{k+1})/alpha_k - grad F(theta_k), from its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.dynamics.flow import descent_field
from tameopt.noise._display import HtmlText
from tameopt.noise.covariance import noise_at
from tameopt.noise.ellipse import noise_ellipse
from tameopt.noise.growth import GrowthModel, growth_model
from tameopt.noise.hill import TailIndex, tail_index
from tameopt.noise.martingale_tests import NoiseTests, noise_tests
from tameopt.noise.windows import Window, problem_of_run, read_window, spans
from tameopt.picture import Picture
from tameopt.problem import Problem
from tameopt.run import Run

_TOGETHER = 16  # our choice: iterates whose gradients are taken in one call


def recorded_noise(problem: Problem, run: Run, max_steps: int = 200) -> tuple[np.ndarray, torch.Tensor]:
    """((m,) int64 steps k, (m, d) float64 M_{k+1}) over the last `max_steps` steps of a recorded stretch: of
    those within a tenth of the longest (or of max_steps), the last one.

    Costs m full gradients. For SGD without momentum; else M holds what the method adds to -grad F.

    Raises ValueError when no consecutive iterates with their step sizes were recorded.
    """
    found = spans(run, least=3)
    enough = 0.9 * min(max_steps, max((last - first for first, last in found), default=0))
    long = [(first, last) for first, last in found if last - first >= enough]
    window = read_window(run, max(long[-1][0], long[-1][1] - max_steps), long[-1][1]) if long else None
    if window is None:
        raise ValueError(
            f"{run.path.name} must hold consecutive iterates and their step sizes, it does not: record theta at a "
            "window of consecutive steps and 'lr'; tame.audit(problem) does."
        )
    return window.steps[:-1], increments(problem_of_run(problem, run), window)


def increments(problem: Problem, window: Window) -> torch.Tensor:
    """(m, d) float64 M_{k+1} over a window; m full gradients."""
    field = descent_field(problem, problem.dim)
    thetas = window.thetas.to(problem.device, torch.float64)
    alphas = torch.as_tensor(window.alphas, device=thetas.device)[:, None]
    descents = torch.cat([field(part) for part in thetas[:-1].split(_TOGETHER)])
    return -thetas.diff(dim=0) / alphas + descents


@dataclass(frozen=True)
class RunNoise(HtmlText):
    """The noise of a run, tested.

    tests: whether it is a martingale difference. tail_norm: the tail index of norm(M_k); tail_direction: of one fixed
    projection. traces: rows (step, tr Sigma of one sample, norm(grad F), F - min F) along the run; growth: the model
    fitted to them, None for fewer than 6 or without samples. picture: the noise in its leading plane.
    """

    steps: np.ndarray
    tests: NoiseTests
    tail_norm: TailIndex | None
    tail_direction: TailIndex | None
    traces: tuple[tuple[int, float, float, float], ...]
    growth: GrowthModel | None
    picture: Picture

    def __repr__(self) -> str:
        tail = "" if self.tail_norm is None else f", tail {self.tail_norm.verdict}"
        word = "no martingale difference" if self.tests.rejected else "no bias seen"
        return f"RunNoise({word} in {self.steps.size} steps, p = {self.tests.p_value:.3g}{tail})"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        tails = {}
        for name, tail in (("norm", self.tail_norm), ("direction", self.tail_direction)):
            if tail is not None:
                tails[name] = {
                    "alpha": tail.alpha, "interval": list(tail.interval), "verdict": tail.verdict,
                    "gaussian": list(tail.gaussian), "student3": list(tail.student3),
                }  # fmt: skip
        growth = self.growth
        return {
            "first_step": int(self.steps[0]),
            "steps": int(self.steps.size),
            "tests": self.tests.to_json(),
            "tail": tails,
            "traces": [list(row) for row in self.traces],
            "growth": None
            if growth is None
            else {
                "A": growth.A, "B": growth.B, "C": growth.C, "intervals": [list(one) for one in growth.intervals],
                "explained": growth.explained, "factor": growth.factor,
            },
        }  # fmt: skip


def run_noise(
    problem: Problem, run: Run, *, max_steps: int = 200, points: int = 20, max_samples: int = 2_000, seed: int = 0
) -> RunNoise:
    """Test the noise that a run really had, and measure how it grew.

    max_steps: of the window whose increments are tested (a full gradient each). points: iterates at which tr Sigma
    is measured, from at most `max_samples` sample gradients each.

    Raises ValueError when the window is shorter than 30 steps, or not recorded.
    """
    steps, noise = recorded_noise(problem, run, max_steps)
    rows = noise.cpu().numpy()
    recorded = run.meta.get("batch_size")
    size = recorded if isinstance(recorded, int) and 0 < recorded < problem.n else problem.n
    # where the last batch of an epoch is smaller its noise weighs differently, and no block sum is 0
    epoch = problem.n // size if problem.n % size == 0 and size < problem.n else None
    phase = int(steps[0]) % epoch if epoch else 0
    tests = noise_tests(rows, epoch=epoch, phase=phase, seed=seed)
    direction = np.random.default_rng(seed).normal(size=rows.shape[1])
    enough = rows.shape[0] >= 50 and np.linalg.norm(rows, axis=1).min() > 0
    norm_tail = tail_index(np.linalg.norm(rows, axis=1), seed=seed) if enough else None
    direction_tail = tail_index(rows @ direction, seed=seed) if enough else None
    traces = _traces(problem_of_run(problem, run), run, points, max_samples, seed)
    growth = None
    if len(traces) >= 6:
        columns = np.array([row[1:] for row in traces])
        growth = growth_model(columns[:, 0], columns[:, 1] ** 2, columns[:, 2])
    picture = noise_ellipse(noise, f"Noise of the {steps.size:,} recorded steps from {int(steps[0]):,}")
    return RunNoise(steps, tests, norm_tail, direction_tail, traces, growth, picture)


def _traces(
    problem: Problem, run: Run, points: int, max_samples: int, seed: int
) -> tuple[tuple[int, float, float, float], ...]:
    if problem.is_function or problem.reduction == "sum" or not problem.batches.indexable:
        return ()
    saved = run.vector_steps("theta")
    chosen = np.unique(saved[np.unique(np.linspace(0, saved.size - 1, points).astype(int))])
    found = []
    for number, step in enumerate(chosen):
        theta = run.vector(int(step)).to(problem.device, problem.dtype)
        if bool(theta.isfinite().all()):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            at = noise_at(problem, theta, max_samples=max_samples, generator=generator)
            found.append((int(step), at.trace, at.gradient_norm, float(problem.value(theta))))
    least = min((row[3] for row in found), default=0.0)
    return tuple((step, trace, norm, value - least) for step, trace, norm, value in found)
