"""Himmelblau's basins under gradient descent with step 0.002, on a 500 x 500 grid of [-5, 5]^2: seconds and shares.

The baseline is the loop one would write first: torch.func.vmap(grad(F)) on all points at once until nothing moves by
more than 1e-6, then the nearest minimum. Shares .2557 .2471 .2372 .2599 are known for the minima (3, 2),
(3.58, -1.85), (-3.78, -3.28), (-2.81, 3.13).

    python benchmarks/basins.py [--points 500] [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch

import tameopt as tame

ALPHA = 0.002
MINIMA = torch.tensor(
    [[3.0, 2.0], [3.584428340, -1.848126527], [-3.779310253, -3.283185991], [-2.805118087, 3.131312519]],
    dtype=torch.float64,
)


def himmelblau(t: torch.Tensor) -> torch.Tensor:
    return (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2


def plain(axis: torch.Tensor) -> list[float]:
    points = torch.cartesian_prod(axis, axis)
    slope = torch.func.vmap(torch.func.grad(himmelblau))
    for _ in range(5000):
        move = ALPHA * slope(points)
        points = points - move
        if float(move.abs().max()) < 1e-6:
            break
    nearest = torch.cdist(points, MINIMA).argmin(dim=1)
    return [float((nearest == j).double().mean()) for j in range(4)]


def ours(axis: torch.Tensor) -> list[float]:
    found = tame.dynamics.basins(tame.dynamics.GradientMap(himmelblau, ALPHA), (axis, axis))
    shares = [0.0] * 4
    for attractor, share in zip(found.attractors, found.fractions, strict=True):
        shares[int((MINIMA - attractor.point).norm(dim=1).argmin())] = share
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # the middles of 500 cells an axis
    axis = (torch.arange(options.points, dtype=torch.float64) + 0.5) * 10 / options.points - 5
    print(f"{platform.machine()}, torch {torch.__version__}, {options.threads} threads, {options.points}^2 starts")
    ours(axis[:: max(1, options.points // 10)])  # imports of torch.func take seconds
    plain(axis[:: max(1, options.points // 10)])
    medians = {}
    for name, arm, repeats in (
        ("tameopt", ours, options.repeats),
        ("plain vmap loop", plain, min(2, options.repeats)),
    ):
        seconds, cpu = [], []
        for _ in range(repeats):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            shares = arm(axis)
            seconds.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - begun_cpu)
        medians[name] = statistics.median(seconds)
        listed = " ".join(f"{share:.4f}" for share in shares)
        print(
            f"  {name:16s} median {medians[name]:.2f} s (best {min(seconds):.2f}, worst {max(seconds):.2f}), "
            f"processor {statistics.median(cpu):.2f} s  "
            f"x{medians[name] / medians['tameopt']:.1f}  shares {listed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
