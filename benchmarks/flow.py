"""Gradients that a flow costs at equal error, against torchdiffeq and scipy; batched windows against one by one.

    python benchmarks/flow.py [accuracy] [starts] [batch]

accuracy: each solver at several tolerances; the table gives gradients at the error 1e-9, interpolated in logarithms.
starts: the same for the default solver against torchdiffeq's dopri5 from 24 random starts, the mean and the worst.
batch: windows of one length together and one after the other; processor time, median and range of 3 repeats.
CPU, float64.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import scipy
import torch
import torchdiffeq
from scipy.integrate import solve_ivp

from tameopt import problems
from tameopt.dynamics.flow import gradient_flow

TIMES = torch.linspace(0.0, 5.0, 21, dtype=torch.float64)
DECADES = (-6.0, -7.0, -8.0, -9.0, -10.0, -11.0)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return (torch.tensor([0.5, 1.0, 3.0, 10.0], dtype=x.dtype) * x * x).sum() / 2


def quartic(x: torch.Tensor) -> torch.Tensor:
    return (x**4).sum() / 4


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (1 - x[0]) ** 2 + 2 * (x[1] - x[0] ** 2) ** 2


def spread(x: torch.Tensor) -> torch.Tensor:
    return (torch.arange(1, x.numel() + 1, dtype=x.dtype) * x * x).sum() / (2 * x.numel())


NETWORKS = ((64, 4), (64, 8), (200, 8), (400, 16), (1797, 64))  # samples, width


CASES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[float]]] = {
    "quadratic, eigenvalues 0.5 to 10": (quadratic, [1.0, -2.0, 0.3, 1.5]),
    "quartic": (quartic, [1.0, 3.0]),
    "Rosenbrock (2)": (rosenbrock, [-1.2, 1.0]),
}


class Counted:
    """-grad F with a count of its calls."""

    def __init__(self, F: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.F, self.calls = F, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            return -torch.autograd.grad(self.F(leaf), leaf)[0]


def ours(F: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, tolerance: float, method: str):
    flow = gradient_flow(F, start, TIMES, tolerance=tolerance, method=method)
    return flow.states, int(flow.evaluations)


def by_torchdiffeq(F: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, tolerance: float, method: str):
    field = Counted(F)
    found = torchdiffeq.odeint(lambda t, x: field(x), start, TIMES, rtol=tolerance, atol=tolerance, method=method)
    return found, field.calls


def by_scipy(F: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, tolerance: float, method: str):
    field = Counted(F)
    found = solve_ivp(
        lambda t, x: field(torch.as_tensor(x)).numpy(), (0.0, 5.0), start.numpy(), method, TIMES.numpy(),
        rtol=tolerance, atol=tolerance,
    )  # fmt: skip
    return torch.as_tensor(found.y.T), field.calls


SOLVERS = (
    ("tameopt dop853", ours, "dop853"),
    ("tameopt dopri5", ours, "dopri5"),
    ("torchdiffeq dopri5", by_torchdiffeq, "dopri5"),
    ("torchdiffeq dopri8", by_torchdiffeq, "dopri8"),
    ("scipy DOP853", by_scipy, "DOP853"),
)


def accuracy(target: float = 1e-9) -> None:
    print(f"\n## Gradients for a largest error of {target:g} at 21 times in [0, 5]\n")
    print("| problem | " + " | ".join(name for name, _, _ in SOLVERS) + " |")
    print("|---" * (len(SOLVERS) + 1) + "|")
    for case, (F, point) in CASES.items():
        start = torch.tensor(point, dtype=torch.float64)
        truth = gradient_flow(F, start, TIMES, tolerance=1e-14).states
        row = []
        for _, solver, method in SOLVERS:
            errors, calls = [], []
            for decade in DECADES:
                states, count = solver(F, start, 10.0**decade, method)
                errors.append(max(float((states - truth).norm(dim=1).max()), 1e-15))
                calls.append(count)
            # gradients against log error, by decreasing error
            at = np.interp(-np.log10(target), -np.log10(np.array(errors)), calls)
            row.append(f"{at:.0f}")
        print(f"| {case} | " + " | ".join(row) + " |", flush=True)


def starts(target: float = 1e-9) -> None:
    print(f"\n## Gradients for {target:g} over those of torchdiffeq's dopri5, random starts\n")
    generator = torch.Generator().manual_seed(0)

    def normal(m: int, d: int) -> torch.Tensor:
        return torch.randn(m, d, generator=generator, dtype=torch.float64)

    several = {
        "Rosenbrock (2)": (rosenbrock, torch.tensor([-1.2, 1.0]) + 0.5 * normal(12, 2)),
        "quadratic": (quadratic, 2 * normal(6, 4)),
        "quartic": (quartic, 2 * normal(6, 2)),
    }
    for case, (F, points) in several.items():
        ratios = []
        for point in points:
            truth = gradient_flow(F, point, TIMES, tolerance=1e-14).states
            counts = []
            for solver, method in ((ours, "dop853"), (by_torchdiffeq, "dopri5")):
                found = [solver(F, point, 10.0**decade, method) for decade in DECADES]
                errors = [max(float((states - truth).norm(dim=1).max()), 1e-15) for states, _ in found]
                used = [count for _, count in found]
                counts.append(float(np.interp(-np.log10(target), -np.log10(np.array(errors)), used)))
            ratios.append(counts[0] / counts[1])
        mean = statistics.geometric_mean(ratios)
        print(f"{case}: {mean:.2f} in the mean, {max(ratios):.2f} at worst of {len(ratios)}", flush=True)


def batch(repeats: int = 3) -> None:
    print("\n## Windows of one length with their own nodes: together and one by one\n")
    print("| problem | windows | together, s | one by one, s | ratio | gradients |")
    print("|---|---|---|---|---|---|")
    networks = {shape: problems.load("digits-mlp", n=shape[0], width=shape[1]) for shape in NETWORKS}
    cases = [("quadratic, d=50", spread, 50, 2.0, 1.0)]
    linear = problems.load("digits-linear")
    cases += [(f"digits-linear n={linear.n:,}, d={linear.dim:,}", linear, linear.dim, 0.3, 0.1)]
    cases += [(f"digits-mlp n={n:,}, d={F.dim:,}", F, F.dim, 0.3, 0.1) for (n, _), F in networks.items()]
    for name, F, d, span, scale in cases:
        for m in (20, 100) if d < 4000 else (20,):
            generator = torch.Generator().manual_seed(0)
            starts = scale * torch.randn(m, d, generator=generator, dtype=torch.float64)
            shares = torch.linspace(0, 1, 30, dtype=torch.float64)
            times = span * shares ** (0.8 + 0.4 * torch.rand(m, 1, generator=generator, dtype=torch.float64))

            def together(F=F, starts=starts, times=times) -> int:
                return int(gradient_flow(F, starts, times, tolerance=1e-5, method="dopri5").evaluations.sum())

            def apart(F=F, starts=starts, times=times) -> int:
                return sum(
                    int(gradient_flow(F, x, t, tolerance=1e-5, method="dopri5").evaluations)
                    for x, t in zip(starts, times, strict=True)
                )

            together()
            spent: dict[str, list[float]] = {"together": [], "apart": []}
            for _ in range(repeats):
                for key, call in (("together", together), ("apart", apart)):
                    begun = time.process_time()
                    used = call()
                    spent[key].append(time.process_time() - begun)
            ratios = sorted(a / b for a, b in zip(spent["apart"], spent["together"], strict=True))
            print(
                f"| {name} | {m} | {statistics.median(spent['together']):.3f} | "
                f"{statistics.median(spent['apart']):.3f} | {statistics.median(ratios):.1f} [{ratios[0]:.1f}, "
                f"{ratios[-1]:.1f}] | {used:,} |",
                flush=True,
            )


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["accuracy", "starts", "batch"]
    print(
        f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}, scipy {scipy.__version__}, Python "
        f"{platform.python_version()}, {torch.get_num_threads()} thread(s)"
    )
    if "accuracy" in wanted:
        accuracy()
    if "starts" in wanted:
        starts()
    if "batch" in wanted:
        batch()
