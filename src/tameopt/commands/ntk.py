"""`tameopt ntk`: the tangent kernel and its extreme eigenvalues."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Quiet, Seed, Target, emit_json, say, terminal


def ntk(
    target: Target = "digits-mlp",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Samples to use, drawn by the seed.")] = 100,
    method: Annotated[
        str, typer.Option("--method", help="auto, structured, contraction or products (no matrix).")
    ] = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Eigenvalues of the tangent kernel J J^T: can the network still fit every sample?

    For a recorded run, also how far the kernel has moved along it, and whether training was lazy.
    """
    import torch

    from tameopt.audit.targets import resolve
    from tameopt.kl.ntk import METHODS, kernel_path
    from tameopt.kl.ntk import ntk as kernel_of

    found = resolve(target, seed)
    if found.problem is None:
        raise ValueError(f"{target} does not say which problem it was recorded with: a kernel needs its network.")
    problem = found.problem.to(torch.float64)
    if samples < 1:
        raise ValueError(f"--samples must be at least 1, got {samples}.")
    count = min(samples, problem.n)
    chosen = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    say(f"tangent kernel of {count} samples", quiet)
    theta = problem.theta
    saved: list[int] = found.run.vector_steps("theta").tolist() if found.run is not None else []
    if found.run is not None and len(saved):
        theta = found.run.vector(int(saved[-1])).to(torch.float64)
    chosen_method = next((name for name in METHODS if name == method), None)
    if chosen_method is None:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {method!r}.")
    kernel = kernel_of(problem, theta, chosen, method=chosen_method)
    document: dict[str, Any] = {
        "samples": count, "of": problem.n, "outputs": kernel.outputs, "lambda_min": kernel.lambda_min,
        "lambda_max": kernel.lambda_max, "rounding": kernel.rounding, "rank_bound": kernel.rank_bound,
        "method": kernel.method,
    }  # fmt: skip
    size = kernel.size
    singular = size > kernel.rank_bound
    least = f"0 (rank at most {kernel.rank_bound:,})" if singular else f"{kernel.lambda_min:.4g}"
    lines = [
        f"MEASURED  lambda_min {least}, lambda_max {kernel.lambda_max:.4g} (rounding "
        f"{kernel.rounding:.1g}), {size} x {size} kernel of {count} of {problem.n:,} samples",
        f"  {kernel.method}",
    ]
    if singular:
        lines.append(
            f"  {size:,} outputs cannot all be fitted at first order by {problem.dim:,} parameters: fewer samples "
            "would show how independent theirs are"
        )
    if found.run is not None and len(saved) > 1 and kernel.matrix is not None:
        path = kernel_path(problem, found.run, chosen)
        document["drift"], document["lazy"] = float(path.drift[-1]), path.lazy
        document["path"] = [
            {"step": int(step), "drift": drift, "movement": moved, "lambda_min": low, "lambda_max": high}
            for step, drift, moved, low, high in zip(
                path.steps.tolist(), path.drift.tolist(), path.movement.tolist(), path.lambda_min.tolist(),
                path.lambda_max.tolist(), strict=True,
            )
        ]  # fmt: skip
        lines.append(
            f"  since step {saved[0]:,} the kernel moved by {100 * path.drift[-1]:.3g}% of its norm and theta by "
            f"{100 * path.movement[-1]:.3g}%: {'lazy training' if path.lazy else 'not lazy, features move'}"
        )
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


ENTRY = Command("ntk", Panel.TOOLS, ntk)
