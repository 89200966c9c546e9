"""Which point of which problem a verb looks at: a recorded step, or the problem's own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tameopt.problem import Problem


def point_of(target: str, step: int | None, seed: int) -> tuple[Problem, torch.Tensor, str]:
    """The problem in float64, theta, and in words where that is.

    Raises ValueError when a run does not say its problem, saved no theta, or not at that step.
    """
    import torch

    from tameopt.audit.targets import resolve

    found = resolve(target, seed)
    if found.problem is None:
        raise ValueError(f"{target} does not say which problem it was recorded with: curvature needs its function.")
    problem = found.problem.to(torch.float64)
    if found.run is None:
        if step is not None:
            raise ValueError(f"--step needs the folder of a recorded run, {target} is a problem.")
        return problem, problem.theta, "at its initial parameters"
    saved = found.run.vector_steps("theta").tolist()
    if not saved:
        raise ValueError(f"{target} saved no parameters: record a run with `tameopt train` or tame.watch.")
    wanted = saved[-1] if step is None else min(saved, key=lambda one: abs(one - step))
    if step is not None and wanted != step:
        raise ValueError(f"no parameters were saved at step {step}: the nearest is --step {wanted}.")
    return problem, found.run.vector(int(wanted)).to(torch.float64), f"step {wanted:,}"


def as_predicted(problem: Problem) -> str:
    """A sentence where F is not what training steps on; else ""."""
    from tameopt.training_mode import listed, only_in_training

    names = listed([name for part in only_in_training(problem) for name in part], 5)
    return f"F is the network as it predicts (eval mode); these modules differ in training: {names}." if names else ""
