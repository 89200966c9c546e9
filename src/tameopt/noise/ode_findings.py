"""The audit's question to the ODE method: on a recorded window, does the run follow the gradient flow?"""

from __future__ import annotations

import time
from typing import Any

import torch

from tameopt.analysis import Answer, Context
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.noise.ode_method import PseudoTrajectory, measure_windows
from tameopt.noise.window_distance import FlowDistance, flow_distance, leading_plane
from tameopt.noise.windows import Window, read_window, spans
from tameopt.picture import Picture, Series
from tameopt.run import Run

_CLAIM = "ode.pseudo_trajectory"
_STEPS = 40  # our choice: steps of each window that the audit looks at
_LEAST_STEPS = 8
_SOURCE = "Benaim 1996; the lecture's fifth chapter"


def skip(context: Context) -> str:
    """Without a run there is no process to compare."""
    return "" if context.run is not None else "no run was recorded"


def estimate(context: Context) -> Cost:
    """Per window: flows at two accuracies, a short descent, and the noise of each recorded step, all in float64."""
    run = context.run
    count = min(3, len(spans(run))) if run is not None else 0
    # our choice: a gradient in float64 as two; the flow of the last window is solved once more for the picture
    return Cost(gradients=2.0 * (count * (_STEPS + 45.0) + 35.0) if count else 0.0)


def pseudo_trajectory(context: Context) -> Answer:
    """D_T on windows at the start, the middle and the end of the run, with controls."""
    begun = time.perf_counter()
    run, problem = context.run, context.problem
    assert run is not None
    found = spans(run)
    if not found:
        return _unknown("No consecutive iterates were recorded.", "a window of consecutive iterates")
    affordable = _affordable(context)
    steps = int(min(_STEPS, affordable // 5))
    if steps < _LEAST_STEPS:
        return _unknown(
            "A gradient of F costs too much to follow the flow within this audit's time.",
            f"time for about {5 * _LEAST_STEPS} gradients of F",
            "tame.noise.pseudo_trajectory(problem, run)",
        )
    ends = found if affordable >= 3 * 5 * steps else found[-1:]
    chosen = sorted({ends[0], ends[len(ends) // 2], ends[-1]})
    candidates = [_last_steps(run, first, last, steps) for first, last in chosen]
    windows = [window for window in candidates if window is not None]
    if not windows:
        return _unknown(
            "The recorded windows are not finite, do not move, or lack their step sizes.",
            "a window of finite iterates with their step sizes > 0",
        )
    length = max(float(window.times[-1]) for window in windows)
    measured_windows = measure_windows(problem, run, windows, length, max_evaluations=10 * steps)
    try:
        distance = flow_distance(problem, windows[-1], max_evaluations=10 * steps)
    except ValueError as error:
        return _unknown(f"The flow could not be solved: {error}", "a flow that can be solved over the window")
    cost = Cost(
        gradients=float(distance.evaluations + measured_windows.evaluations), seconds=time.perf_counter() - begun
    )
    shown = windows[-1].up_to(distance.steps.size - 1)
    pictures: tuple[Picture, ...] = (plane_picture(shown, distance), _distances(distance))
    if len(windows) > 1:
        pictures = (*pictures, measured_windows.picture())
    return Answer((_judge(measured_windows, windows),), pictures, {"ode": measured_windows.to_json()}, cost)


def _last_steps(run: Run, first: int, last: int, steps: int) -> Window | None:
    window = read_window(run, max(first, last - steps), last)
    if window is None or window.alphas.size < 2 or not bool(torch.isfinite(window.thetas).all()):
        return None
    return window if (window.alphas > 0).all() else None


def _unknown(
    text: str,
    missing: str,
    remedy: str = "tame.audit(problem) records windows of consecutive iterates and their step sizes",
) -> Answer:
    return Answer((unknown(_CLAIM, text, missing=missing, remedy=remedy),))


def _affordable(context: Context) -> int:
    """Gradients that a quarter of the time left, and at most 3 seconds, pays for."""
    theta = context.theta.to(torch.float64)
    problem = context.problem.to(torch.float64)
    problem.gradient(theta)
    begun = time.perf_counter()
    problem.gradient(theta)
    seconds = max(time.perf_counter() - begun, 1e-6)
    return int(min(3.0, 0.25 * context.deadline_seconds) / seconds)


def _judge(found: PseudoTrajectory, windows: list[Window]) -> Finding:
    last = windows[-1]
    D, error, free, level = (
        float(column[-1]) for column in (found.D, found.errors, found.noise_free, found.noise_level)
    )
    T = float(last.times[-1])
    where = f"over steps {last.steps[0]:,} to {last.steps[-1]:,} (time T = {T:.3g})"
    if not found.trusted[-1]:
        return unknown(
            _CLAIM,
            f"Inconclusive {where}: the flow is known to {error:.2g} only, the run is {D:.2g} away from it.",
            missing="a reference flow ten times more accurate than the distance",
            remedy="tame.noise.pseudo_trajectory(problem, run, tolerance=1e-8)",
            method="two accuracies of the gradient flow in float64",
        )
    explained = f"step size and noise account for {free + level:.3g}"
    text = f"The run is at most D_T = {D:.3g} from the flow {where}, where the flow moved {found.moved[-1]:.3g}"
    evidence: dict[str, Any] = {
        "method": "largest distance at the nodes to the float64 flow from the window's first iterate; controls: "
        "descent with the same steps, a walk of uncorrelated noise of the run's strength",
        "interval": (max(0.0, D - error), D + error),
        "scope": Scope.PATH,
        "unit": "norm of theta",
        "sample_size": int(last.steps.size),
        "source": _SOURCE,
    }
    if found.explained[-1] > 3.0:
        return refuted(
            _CLAIM,
            f"{text}; {explained}, so something else moves the run (momentum, clipping, a biased gradient).",
            {"D_T": D, "noise_free": free, "noise_level": level, "T": T, "first_step": int(last.steps[0])},
            estimate=D,
            **evidence,
        )
    law = ""
    if len(windows) > 1:
        law = f" It was {found.D[0]:.3g} over as many steps from {found.steps[0]:,}."
    return measured(_CLAIM, f"{text}; {explained}.{law}", D, error_kind="two accuracies of the flow", **evidence)


def plane_picture(window: Window, distance: FlowDistance) -> Picture:
    """The lecture's figure: the interpolated process beside the flow from its start, in their leading plane."""
    process, flow = window.thetas.to(distance.flow), distance.flow
    centre, basis, share = leading_plane([process, flow])
    walked, streamed = ((path - centre) @ basis for path in (process, flow))
    return Picture(
        "process-and-flow",
        "The run and the gradient flow",
        "first leading direction",
        "second leading direction",
        (
            Series.of("gradient flow", streamed[:, 0].tolist(), streamed[:, 1].tolist()),
            Series.of("interpolated process", walked[:, 0].tolist(), walked[:, 1].tolist()),
            Series.of("common start", [float(walked[0, 0])], [float(walked[0, 1])], "points"),
        ),
        caption=f"Steps {distance.steps[0]:,} to {distance.steps[-1]:,} in the plane that holds {100 * share:.0f}% "
        "of their variance.",
    )


def _distances(distance: FlowDistance) -> Picture:
    moved = (distance.flow - distance.flow[0]).norm(dim=1).tolist()
    return Picture(
        "flow-distance",
        "Distance between the run and the flow",
        "time s since the start of the window",
        "distance",
        (
            Series.of("norm(w(t+s) - S(w(t), s))", distance.times.tolist(), distance.distances.tolist()),
            Series.of("distance moved by the flow", distance.times.tolist(), moved),
        ),
        caption="Where the first curve stays below the second, the flow explains where the run went.",
    )
