"""`tameopt ntk`: the tangent kernel and its extreme eigenvalues."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Quiet, Seed, Target, emit_json, say, terminal


def ntk(
    target: Target = "digits-mlp",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Samples to use, drawn by the seed.")] = 100,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Eigenvalues of the tangent kernel J J^T: can the network still fit every sample?

    For a recorded run, also how far the kernel has moved between the first and the last saved theta.
    """
    import torch

    from tameopt.audit.targets import resolve
    from tameopt.kl.ntk import kernel_drift
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
    kernel = kernel_of(problem, theta, chosen)
    document: dict[str, Any] = {
        "samples": count, "of": problem.n, "outputs": kernel.outputs, "lambda_min": kernel.lambda_min,
        "lambda_max": kernel.lambda_max, "rounding": kernel.rounding, "rank_bound": kernel.rank_bound,
    }  # fmt: skip
    size = count * kernel.outputs
    lines = [
        f"MEASURED  lambda_min {kernel.lambda_min:.4g}, lambda_max {kernel.lambda_max:.4g} (rounding "
        f"{kernel.rounding:.1g}), {size} x {size} kernel of {count} of {problem.n:,} samples"
    ]
    if size > kernel.rank_bound:
        lines.append(f"  singular: {size} outputs, {problem.dim:,} parameters")
    if found.run is not None and len(saved) > 1:
        start = kernel_of(problem, found.run.vector(int(saved[0])).to(torch.float64), chosen)
        drift = kernel_drift(start, kernel)
        document["drift"] = drift
        lines.append(f"  the kernel moved by {100 * drift:.3g}% of its norm since step {saved[0]:,}")
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


ENTRY = Command("ntk", Panel.TOOLS, ntk)
