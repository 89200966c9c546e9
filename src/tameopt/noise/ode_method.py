"""The ODE method on a whole run: D_T at many times, against controls, with the law in alpha that theory predicts.

For windows of time length T from steps k, D_T = sup_{s<=T} norm(w(tau_k + s) - S(theta_k, s)). Its noise part is of
order sqrt(alpha_k), its discretisation part of order alpha_k; a run whose steps vanish has D_T -> 0 (Benaim 1996).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tameopt.dynamics.flow import descent_field, gradient_flow
from tameopt.noise._display import HtmlText
from tameopt.noise.window_controls import measure_controls
from tameopt.noise.windows import Window, problem_of_run, read_window, spans
from tameopt.picture import Picture, Series
from tameopt.problem import Problem
from tameopt.run import Run
from tameopt.threads import threads_for

_CHUNK_BYTES = 512 << 20  # our choice: reference flows held at once

Conclusion = Literal["follows", "stays near", "departs", "inconclusive"]


@dataclass(frozen=True)
class PseudoTrajectory(HtmlText):
    """D_T over windows of a run; all arrays have one entry a window, in the order of the steps.

    T: length of a window in time. steps: first step k. times: tau_k minus that of the first window, where the run
    recorded the step sizes between, else NaN. alphas: the mean step size in the window. D: the distance. moved: how
    far the flow moved. errors: distance of the flows at two tolerances.
    noise_free, noise_level, noise_only: the controls, `window_controls.Controls`: D_T of gradient descent with the
    same step sizes, the size of the walk that uncorrelated noise of the run's strength makes, and that of the walk
    that the run's noise made.
    evaluations: full gradients used. last_window: first and last step of the last window.
    """

    T: float
    steps: np.ndarray
    times: np.ndarray
    alphas: np.ndarray
    D: np.ndarray
    moved: np.ndarray
    errors: np.ndarray
    noise_free: np.ndarray
    noise_level: np.ndarray
    noise_only: np.ndarray
    evaluations: int
    last_window: tuple[int, int]

    @property
    def trusted(self) -> np.ndarray:
        """(m,) bool: windows whose reference flow is known to a tenth of D."""
        return self.errors <= 0.1 * self.D

    @property
    def explained(self) -> np.ndarray:
        """(m,) D over what discretisation and martingale noise account for; above 3 something else moved the run.

        Doob's inequality puts the mean of a martingale's largest square below 4 times its last, so 2 is already rare.
        """
        return self.D / np.maximum(self.noise_free + self.noise_level, 1e-300)

    @property
    def slope(self) -> tuple[float, float]:
        """(p, standard error) of D ~ alpha^p, least squares in logarithms; NaN when alpha spans less than a factor 2.

        Overlapping windows share noise, so the error is optimistic there.
        """
        use = self.trusted & (self.D > 0)
        x, y = np.log(self.alphas[use]), np.log(self.D[use])
        if use.sum() < 4 or np.ptp(x) < math.log(2):
            return math.nan, math.nan
        centred = x - x.mean()
        p = float((centred * y).sum() / (centred**2).sum())
        residual = y - y.mean() - p * centred
        return p, float(np.sqrt((residual**2).sum() / (use.sum() - 2) / (centred**2).sum()))

    @property
    def constant(self) -> float:
        """c in D = c sqrt(alpha), the geometric mean of D / sqrt(alpha) over the trusted windows."""
        use = self.trusted & (self.D > 0)
        return float(np.exp(np.log(self.D[use] / np.sqrt(self.alphas[use])).mean())) if use.any() else math.nan

    @property
    def conclusion(self) -> Conclusion:
        """In one word.

        "departs": most windows are further from the flow than discretisation and noise explain. "follows": D falls
        with alpha, its power above 1/4 by two standard errors. "stays near": no departure, and alpha does not fall
        enough to see D fall. "inconclusive": the reference flow is not known well enough in most windows.
        """
        good = self.trusted
        if good.sum() < max(1, 0.5 * good.size):
            return "inconclusive"
        if (self.explained[good] > 3.0).mean() > 0.5:
            return "departs"
        p, error = self.slope
        return "follows" if p - 2 * error > 0.25 else "stays near"

    def picture(self) -> Picture:
        """D_T of the trusted windows, with its law, against the time t at which each starts (else its step)."""
        known, use = bool(np.isfinite(self.times).all()), self.trusted
        x = (self.times if known else self.steps)[use].tolist()
        curves = [
            Series.of("D_T", x, self.D[use].tolist(), "points"),
            Series.of(f"{self.constant:.3g} sqrt(alpha)", x, (self.constant * np.sqrt(self.alphas[use])).tolist()),
            Series.of("by the noise", x, self.noise_level[use].tolist()),
            Series.of("by the step", x, self.noise_free[use].tolist()),
        ]
        p, error = self.slope
        law = f"D_T falls as alpha^({p:.2f} +- {error:.2f}), theory 1/2" if math.isfinite(p) else "alpha hardly falls"
        return Picture(
            "distance-along-the-run",
            f"Distance from the flow over windows of time T = {self.T:.3g}",
            "time t since the first window" if known else "step k",
            "norm of theta",
            # a control that is 0, as the noise of a full batch, has no place on a logarithmic axis
            tuple(curve for curve in curves if min(curve.y, default=0.0) > 0),
            y_log=True,
            caption=f"{law}; the two lower curves are what the noise and the length of the steps account for.",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        arrays = ("steps", "times", "alphas", "D", "moved", "errors", "noise_free", "noise_level", "noise_only")
        return {
            "T": self.T,
            "conclusion": self.conclusion,
            "constant": self.constant,
            "slope": list(self.slope),
            "evaluations": self.evaluations,
            **{name: getattr(self, name).tolist() for name in arrays},
        }

    def __repr__(self) -> str:
        p, error = self.slope
        law = f", D ~ alpha^({p:.2f} +- {error:.2f})" if math.isfinite(p) else ""
        ends = f"D_T from {self.D[0]:.3g} to {self.D[-1]:.3g}, D = {self.constant:.3g} sqrt(alpha){law}"
        if not self.trusted.any():
            ends = "no reference flow known to a tenth of D: it is stiff, take a smaller T or more max_evaluations"
        return f"PseudoTrajectory({self.conclusion}: {self.D.size} windows of T = {self.T:.3g}, {ends})"


def pseudo_trajectory(
    problem: Problem,
    run: Run,
    T: float | None = None,
    *,
    windows: int = 20,
    tolerance: float = 1e-4,
    max_evaluations: int = 2_000,
) -> PseudoTrajectory:
    """D_T over windows of a recorded run, with the noise-free and the noise-only control of each window.

    T: length of a window in the time of the flow, sum of the step sizes; by default half the shortest recorded
    stretch. windows: how many, spread evenly over the recorded consecutive iterates (they may overlap).
    tolerance: of the reference flow, which is solved again at a tenth of it, and once more at a hundredth for windows
    where the two differ by more than a tenth of D. max_evaluations: gradients a flow may use.
    Costs about windows * (steps in a window / 2 + 45) full gradients; all windows advance together.

    Raises ValueError when the run has no stretch of consecutive iterates that long, naming the longest.
    """
    stretches = [_stretch(run, first, last) for first, last in spans(run, least=3)]
    if not stretches:
        raise ValueError(
            f"{run.path.name} has no window of at least 3 consecutive iterates: record theta at consecutive steps "
            "(run.save_block('theta', steps, rows)); tame.audit(problem) does."
        )
    lengths = [float(stretch.times[-1]) for stretch in stretches]
    length = min(lengths) / 2 if T is None else float(T)
    if not 0 < length <= max(lengths) * (1 + 1e-12):
        raise ValueError(
            f"T must be > 0 and at most {max(lengths):.4g}, the longest recorded stretch of consecutive iterates, "
            f"got {length:.4g}: record longer windows, or take a smaller T."
        )
    chosen = _choose(stretches, length, windows)
    return measure_windows(problem_of_run(problem, run), run, chosen, length, tolerance, max_evaluations)


def _stretch(run: Run, first: int, last: int) -> Window:
    window = read_window(run, first, last)
    if window is None:
        raise ValueError(
            f"the step sizes of steps {first:,} to {last:,} must be recorded, they are not: record 'lr' at every "
            "step, or the schedule."
        )
    if not bool(torch.isfinite(window.thetas).all()):
        raise ValueError(f"the iterates of steps {first:,} to {last:,} must be finite: the run diverged there.")
    if not (window.alphas > 0).all():
        raise ValueError(f"the steps from {first:,} to {last:,} must be positive: a step of 0 takes no time.")
    return window


def _choose(stretches: list[Window], length: float, windows: int) -> list[Window]:
    """Windows of time length about `length`, evenly spread over all places where one fits."""
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}.")
    places: list[Window] = []
    for stretch in stretches:
        times = stretch.times
        for i in range(stretch.alphas.size):
            # the node nearest to length, at least 2 steps on
            j = int(np.searchsorted(times, times[i] + length * (1 - 1e-9)))
            if j < times.size and j >= i + 2:
                places.append(Window(stretch.steps[i : j + 1], stretch.thetas[i : j + 1], stretch.alphas[i:j]))
    if not places:
        raise ValueError(
            f"no recorded stretch holds 2 steps within T = {length:.4g}: take a larger T, or record longer windows."
        )
    picked = np.unique(np.linspace(0, len(places) - 1, windows).round().astype(int))
    return [places[i] for i in picked]


def _padded_times(chosen: list[Window]) -> torch.Tensor:
    """(m, k) node times; shorter windows are filled up past their end by times that cost no step."""
    most = max(window.alphas.size for window in chosen) + 1
    rows = []
    for window in chosen:
        times = window.times
        missing = most - times.size
        rows.append(np.concatenate([times, times[-1] * (1 + 1e-9 * np.arange(1, missing + 1))]))
    return torch.as_tensor(np.stack(rows))


def measure_windows(
    problem: Problem,
    run: Run,
    chosen: list[Window],
    length: float,
    tolerance: float = 1e-4,
    max_evaluations: int = 2_000,
) -> PseudoTrajectory:
    """`pseudo_trajectory` on windows that were chosen already, each of at least 2 steps and about `length` long."""
    most = max(window.alphas.size for window in chosen) + 1
    together = max(1, int(_CHUNK_BYTES // (8 * problem.dim * most)))
    with threads_for(problem.to(torch.float64)):
        columns = [
            _measure_chunk(problem, chosen[i : i + together], tolerance, max_evaluations)
            for i in range(0, len(chosen), together)
        ]
    D, moved, errors, free, level, walk, used = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    firsts = np.array([int(window.steps[0]) for window in chosen])
    alphas = np.array([float(window.alphas.mean()) for window in chosen])
    times = _start_times(run, firsts)
    ends = int(firsts[-1]), int(chosen[-1].steps[-1])
    return PseudoTrajectory(length, firsts, times, alphas, D, moved, errors, free, level, walk, int(used.sum()), ends)


def _start_times(run: Run, firsts: np.ndarray) -> np.ndarray:
    at, alphas = run.series("lr")
    if not at.size or at[0] != 0 or not np.array_equal(at, np.arange(at.size)) or firsts.max() > alphas.size:
        return np.full(firsts.size, np.nan)
    tau = np.concatenate([[0.0], np.cumsum(alphas)])
    return tau[firsts] - tau[firsts[0]]


def _measure_chunk(
    problem: Problem, chosen: list[Window], tolerance: float, max_evaluations: int
) -> tuple[np.ndarray, ...]:
    """(D, moved, errors, noise_free, noise_level, noise_only, evaluations), one entry a window."""
    m = len(chosen)
    starts = torch.stack([window.thetas[0] for window in chosen]).to(problem.device, torch.float64)
    times = _padded_times(chosen).to(starts.device)
    reference = torch.full((m, times.shape[1], problem.dim), torch.nan, dtype=torch.float64, device=starts.device)
    D, moved, errors, used = np.full(m, np.nan), np.full(m, np.nan), np.full(m, np.inf), np.zeros(m)
    rows, accuracy = np.arange(m), tolerance
    for attempt in range(2):
        coarse, fine = (
            gradient_flow(
                problem, starts[rows], times[rows], tolerance=wanted, method="dopri5", max_evaluations=max_evaluations
            )
            for wanted in (accuracy, accuracy / 10)
        )
        used[rows] += (coarse.evaluations + fine.evaluations).numpy()
        reference[rows] = fine.states
        for place, row in enumerate(rows):
            nodes = chosen[row].steps.size
            path = fine.states[place, :nodes]
            errors[row] = float((coarse.states[place, :nodes] - path).norm(dim=1).max().nan_to_num(nan=math.inf))
            D[row] = float((chosen[row].thetas.to(path) - path).norm(dim=1).max())
            moved[row] = float((path - path[0]).norm(dim=1).max())
        # a flow that ran out of gradients would run out of them sooner at a smaller tolerance
        loose = np.flatnonzero(np.isfinite(errors) & (errors > 0.1 * D))
        if attempt or not loose.size:
            break
        rows, accuracy = loose, accuracy * 1e-2
    controls = measure_controls(descent_field(problem, problem.dim), chosen, reference)
    return D, moved, errors, controls.free, controls.level, controls.walk, used + controls.evaluations
