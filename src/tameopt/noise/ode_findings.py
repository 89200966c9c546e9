"""The audit's question to the ODE method: on a recorded window, does the run follow the gradient flow?"""

from __future__ import annotations

import time

import numpy as np
import torch

from tameopt.analysis import Answer, Context
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.noise.pseudo_trajectory import FlowDistance, flow_distance, leading_plane
from tameopt.noise.windows import Window, read_window, spans
from tameopt.picture import Picture, Series

_CLAIM = "ode.pseudo_trajectory"
_STEPS = 100  # our choice: steps of the window that the audit looks at
_SOURCE = "Benaim 1996; the lecture's fifth chapter"


def skip(context: Context) -> str:
    """Without a run there is no process to compare."""
    return "" if context.run is not None else "no run was recorded"


def estimate(context: Context) -> Cost:
    """Flows of two accuracies over one window, some 10 to 200 gradients each."""
    return Cost(gradients=200.0)


def pseudo_trajectory(context: Context) -> Answer:
    """D_T on the last recorded window of consecutive iterates."""
    begun = time.perf_counter()
    run, problem = context.run, context.problem
    assert run is not None
    found = spans(run)
    if not found:
        return _unknown("No consecutive iterates were recorded.", "a window of consecutive iterates")
    first, last = found[-1]
    window = read_window(run, first, min(last, first + _STEPS))
    if window is None:
        return _unknown("The step sizes of the window were not recorded.", "the step sizes alpha_k of the window")
    if not bool(torch.isfinite(window.thetas).all()) or not (window.alphas > 0).all():
        return _unknown(
            f"The iterates from step {first:,} are not finite or do not move.",
            "a window of finite iterates with steps > 0",
        )
    try:
        distance = flow_distance(problem, window, max_evaluations=_affordable(context))
    except ValueError as error:
        return _unknown(f"The flow could not be solved: {error}", "a flow that can be solved over the window")
    window = window.up_to(distance.steps.size - 1)
    cost = Cost(gradients=float(distance.evaluations), seconds=time.perf_counter() - begun)
    finding = _judge(distance)
    facts = {
        "first_step": int(distance.steps[0]), "last_step": int(distance.steps[-1]), "T": distance.T,
        "D_T": distance.D, "relative": distance.relative, "reference_error": distance.reference_error,
        "flow_moved": distance.moved, "gradients": distance.evaluations,
    }  # fmt: skip
    return Answer((finding,), (_plane(window, distance), _distances(distance)), {"ode": facts}, cost)


def _unknown(text: str, missing: str) -> Answer:
    remedy = "tame.audit(problem) records windows of consecutive iterates and their step sizes"
    return Answer((unknown(_CLAIM, text, missing=missing, remedy=remedy),))


def _affordable(context: Context) -> int:
    """Gradients that a quarter of the time left, and at most 3 seconds, pays for."""
    theta = context.theta.to(torch.float64)
    problem = context.problem.to(torch.float64)
    problem.gradient(theta)
    begun = time.perf_counter()
    problem.gradient(theta)
    seconds = max(time.perf_counter() - begun, 1e-6)
    # four flows at most: two accuracies, tightened once
    return int(np.clip(min(3.0, 0.25 * context.deadline_seconds) / seconds / 4, 40, 20_000))


def _judge(distance: FlowDistance) -> Finding:
    where = f"over steps {distance.steps[0]:,} to {distance.steps[-1]:,} (T = {distance.T:.3g})"
    if not distance.trusted:
        return unknown(
            _CLAIM,
            f"Inconclusive {where}: the flow is known to {distance.reference_error:.2g} only, the process is "
            f"{distance.D:.2g} away from it.",
            missing="a reference flow ten times more accurate than the distance",
            remedy="tame.noise.flow_distance(problem, window, tolerance=1e-8)",
            method="two accuracies of the gradient flow in float64",
        )
    text = (
        f"D_T = {distance.D:.3g} {where}, while the flow moved {distance.moved:.3g}: "
        f"{100 * distance.relative:.3g}% of the way."
    )
    method = "largest distance at the nodes to the gradient flow from the window's first iterate, float64"
    if distance.relative > 1.0:
        return refuted(
            _CLAIM,
            f"{text} Over this window the noise moved the run further from the flow than the flow moved.",
            {
                "D_T": distance.D, "flow_moved": distance.moved, "T": distance.T,
                "first_step": int(distance.steps[0]), "last_step": int(distance.steps[-1]),
            },
            method=method, scope=Scope.PATH, estimate=distance.D, source=_SOURCE,
            interval=(distance.D - distance.reference_error, distance.D + distance.reference_error),
        )  # fmt: skip
    return measured(
        _CLAIM,
        text,
        distance.D,
        interval=(max(0.0, distance.D - distance.reference_error), distance.D + distance.reference_error),
        method=method,
        error_kind="two accuracies of the flow",
        unit="norm of theta",
        scope=Scope.PATH,
        sample_size=int(distance.steps.size),
        source=_SOURCE,
    )


def _plane(window: Window, distance: FlowDistance) -> Picture:
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
