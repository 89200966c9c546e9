"""`tameopt flow`: the gradient flow of a problem, or how closely a recorded run follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.commands._common import (
    Command,
    Json,
    Panel,
    Quiet,
    Seed,
    Target,
    batch_statistics,
    emit_json,
    terminal,
)
from tameopt.commands._pictures import PictureFile, write_pictures


def flow(
    target: Target = "digits-mlp",
    time: Annotated[
        float | None,
        typer.Option(
            "--time",
            "-T",
            help="How long: of the flow (default: 1), or of windows (default: half the shortest).",
        ),
    ] = None,
    points: Annotated[int, typer.Option("--points", help="Times at which the flow is printed.")] = 8,
    windows: Annotated[int, typer.Option("--windows", help="Windows of a run that are compared.")] = 12,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="Local error of the flow (default: 1e-8; 1e-4 against a run)."),
    ] = None,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Solve theta' = -grad F(theta) from the problem's start, or measure a run's distance from the flow."""
    from tameopt.audit.targets import resolve
    from tameopt.commands._progress import progress

    found = resolve(target, seed)
    if found.problem is None:
        raise ValueError(f"{target} does not say which problem it trained: give its factory, FILE.py:factory.")
    with progress(quiet) as say:
        if found.run is not None:
            say("flows from the recorded windows")
            document, lines = _compare(found.problem, found.run, time, windows, tolerance or 1e-4, picture)
        else:
            say("gradient flow")
            if picture is not None:
                raise ValueError("--picture draws how a run follows the flow: give the folder of a recorded run.")
            document, lines = _solve(found.problem, 1.0 if time is None else time, points, tolerance or 1e-8)
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


def _solve(problem: Any, time: float, points: int, tolerance: float) -> tuple[dict[str, Any], list[str]]:
    import torch

    from tameopt.dynamics.flow import gradient_flow
    from tameopt.noise import cheap_gradient

    if not time > 0 or points < 1:
        raise ValueError(f"--time must be > 0 and --points at least 1, got {time} and {points}.")
    times = torch.linspace(0.0, time, points + 1, dtype=torch.float64)
    # a smooth problem is served by the method of order 8; across the kinks of a network no order is gained
    method = "dop853" if problem.is_function else "dopri5"
    solved = gradient_flow(problem, problem.theta, times, tolerance=tolerance, method=method)  # type: ignore[arg-type]
    precise = problem.to(torch.float64)
    rows = []
    for t, theta in zip(times.tolist(), solved.states, strict=True):
        if not bool(torch.isfinite(theta).all()):
            break
        value, gradient = precise.value_and_gradient(theta)
        moved = float((theta - solved.states[0]).norm())
        rows.append({"t": t, "F": float(value), "gradient_norm": float(gradient.norm()), "moved": moved})
    lines = [f"The gradient flow of {problem.name} from its start, local error {tolerance:g}.", ""]
    lines.append(f"  {'t':>10}  {'F':>12}  {'norm(grad F)':>12}  {'moved':>10}")
    lines += [
        f"  {row['t']:>10.4g}  {row['F']:>12.6g}  {row['gradient_norm']:>12.4g}  {row['moved']:>10.4g}"
        for row in rows
    ]
    cost = cheap_gradient(problem)
    operations = "" if cost.flop_ratio is None else f" and {cost.flop_ratio:.2f} in operations"
    lines += ["", f"{int(solved.evaluations):,} gradients"]
    if not solved.complete:
        lines[-1] += f"; the flow could not be followed past t = {float(solved.stopped):.6g}: it is stiff or blows up"
    low, high = cost.time_quartiles
    lines.append(
        f"a gradient costs {cost.time_ratio:.2f} values [{low:.2f}, {high:.2f}] in time{operations}, and keeps "
        f"{cost.saved_bytes / 1e6:.3g} MB, {cost.memory_ratio:.2g} times what goes in"
    )
    document = {
        "problem": problem.name, "tolerance": tolerance, "gradients": int(solved.evaluations),
        "complete": solved.complete, "stopped": float(solved.stopped), "rows": rows, "gradient_cost": cost.to_json(),
    }  # fmt: skip
    return document, lines


_SENTENCE = {
    "follows": "The run follows the gradient flow ever more closely as its steps shrink.",
    "stays near": "The run stays as near the gradient flow as its step and noise allow.",
    "departs": "The run leaves the gradient flow by more than step and noise explain: momentum, clipping or a bias.",
    "inconclusive": "The flow could not be solved well enough to say: it is stiff. Take shorter windows (--time).",
}


def _compare(
    problem: Any, run: Any, time: float | None, windows: int, tolerance: float, picture: Path | None
) -> tuple[dict[str, Any], list[str]]:
    from tameopt.noise import flow_distance, pseudo_trajectory, read_window
    from tameopt.noise.ode_findings import plane_picture

    found = pseudo_trajectory(problem, run, time, windows=windows, tolerance=tolerance)
    lines = [f"{found.conclusion.upper()}  {_SENTENCE[found.conclusion]}"]
    p, error = found.slope
    ends = f"D_T = {found.constant:.3g} sqrt(alpha)" if found.constant == found.constant else "D_T not known"
    law = f", as alpha^{p:.2f} +- {error:.2f} (theory 0.5)" if p == p else ""
    lines += [
        f"  windows of time T = {found.T:.3g}; {ends}{law}",
        "",
        f"  {'step':>9}  {'alpha':>9}  {'D_T':>9}  {'flow moved':>10}  {'by the step':>11}  {'by the noise':>12}",
    ]
    for i in range(found.D.size):
        mark = "" if found.trusted[i] else "  (flow not known well enough)"
        lines.append(
            f"  {found.steps[i]:>9,}  {found.alphas[i]:>9.3g}  {found.D[i]:>9.3g}  {found.moved[i]:>10.3g}  "
            f"{found.noise_free[i]:>11.2g}  {found.noise_level[i]:>12.3g}{mark}"
        )
    lines += ["", f"{found.evaluations:,} gradients over the whole data", *batch_statistics(run)]
    if picture is not None and not found.trusted[-1]:
        lines.append("no picture: the flow of the last window is not known well enough")
    elif picture is not None:
        window = read_window(run, *found.last_window)
        assert window is not None  # it was read a moment ago
        write_pictures([plane_picture(window, flow_distance(problem, window)), found.picture()], picture)
        lines.append(f"picture: {picture}")
    return {"run": str(run.path), **found.to_json()}, lines


ENTRY = Command("flow", Panel.TOOLS, flow)
