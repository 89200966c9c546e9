"""How tight is the Clarke distance of a network by column generation?

Question: a 2-4-1 relu network on six points and the digits network, first layer at 0 so that all of its kinks are
active: the interval for the distance from 0 to the Clarke subdifferential, and the norm of backprop's output.

    OMP_NUM_THREADS=1 python benchmarks/nonsmooth_clarke_distance.py
"""

from __future__ import annotations

import time

import torch
from torch import nn

import tameopt as tame
from tameopt.nonsmooth import clarke_distance


def first_layer_zero(problem: tame.Problem) -> torch.Tensor:
    """theta with the first weight and bias at 0."""
    parts = {key: part.clone() for key, part in problem.unflatten(problem.theta).items()}
    for key in list(parts)[:2]:
        parts[key].zero_()
    return problem.flatten(parts)


def main() -> None:
    """Print the intervals."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    data = (torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64))
    small = tame.Problem(model, nn.functional.mse_loss, data)
    digits = tame.problems.load("digits-mlp").to(torch.float64)
    for name, problem, counts in (("2-4-1", small, (20, 100, 400)), ("digits-mlp", digits, (40,))):
        theta = first_layer_zero(problem)
        print(name, "backprop's output has norm", float(problem.gradient(theta).norm()))
        for calls in counts:
            begun = time.perf_counter()
            found = clarke_distance(problem, theta, calls=calls)
            print(f"  {calls} calls: {found}  {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
