"""Do the predicted steps to a target hold on the half of a run that the fit has not seen?

    python benchmarks/kl_steps_to_target.py [SEED]

Ten runs on real data in wheels (full batches, gradient descent unless said): the first half of each record is fitted,
the target is the loss at three quarters of the run, and the predicted number of steps is compared with the recorded
one. Undecided fits promise nothing and are listed as such.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import nn

from tameopt.kl.fit import fit
from tameopt.kl.series import LossSeries
from tameopt.problem import Problem

D = torch.float64


def _scaled(X: np.ndarray) -> torch.Tensor:
    X = X - X.mean(0)
    return torch.tensor(X / (X.std(0) + 1e-9), dtype=D)


def tasks(seed: int) -> list[tuple[str, Problem, float, float, int]]:
    """(name, problem, share of 1/lambda_max as the step, momentum, steps)."""
    from sklearn import datasets

    torch.manual_seed(seed)
    mse, bce, ce = nn.functional.mse_loss, nn.functional.binary_cross_entropy_with_logits, nn.functional.cross_entropy
    diabetes, cancer, wine, iris, digits = (
        getattr(datasets, f"load_{name}")() for name in ("diabetes", "breast_cancer", "wine", "iris", "digits")
    )

    def target(y: np.ndarray) -> torch.Tensor:
        return torch.tensor((y - y.mean()) / y.std(), dtype=D)[:, None]

    def net(d: int, k: int, width: int = 0) -> nn.Module:
        if not width:
            return nn.Linear(d, k).double()
        return nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, k)).double()

    Xd, Xc, Xw, Xi = (_scaled(source.data) for source in (diabetes, cancer, wine, iris))
    Xg = torch.tensor(digits.data / 16.0 - 0.3, dtype=D)[:600]
    labels = {name: torch.tensor(source.target) for name, source in (("wine", wine), ("iris", iris))}
    yc = torch.tensor(cancer.target, dtype=D)[:, None]
    yg = torch.tensor(digits.target[:600])
    return [
        ("diabetes, linear", Problem(net(10, 1), mse, (Xd, target(diabetes.target))), 0.9, 0.0, 3000),
        ("diabetes, linear, momentum 0.5", Problem(net(10, 1), mse, (Xd, target(diabetes.target))), 0.5, 0.5, 2000),
        ("diabetes, tanh 8", Problem(net(10, 1, 8), mse, (Xd, target(diabetes.target))), 0.5, 0.0, 6000),
        ("breast cancer, logistic", Problem(net(30, 1), bce, (Xc, yc)), 0.9, 0.0, 4000),
        ("breast cancer, tanh 8, logistic", Problem(net(30, 1, 8), bce, (Xc, yc)), 0.5, 0.0, 4000),
        ("wine, softmax", Problem(net(13, 3), ce, (Xw, labels["wine"])), 0.9, 0.0, 4000),
        ("wine, tanh 8, softmax", Problem(net(13, 3, 8), ce, (Xw, labels["wine"])), 0.5, 0.0, 4000),
        ("iris, softmax", Problem(net(4, 3), ce, (Xi, labels["iris"])), 0.9, 0.0, 6000),
        ("iris, squares", Problem(net(4, 3), mse, (Xi, torch.eye(3, dtype=D)[labels["iris"]])), 0.9, 0.0, 2000),
        ("digits, softmax", Problem(net(64, 10), ce, (Xg, yg)), 0.9, 0.0, 3000),
    ]  # fmt: skip


def train(problem: Problem, share: float, momentum: float, steps: int) -> LossSeries:
    """(Heavy-ball) gradient descent, F recorded at 200 steps."""
    from tameopt.curvature import spectrum

    theta = problem.theta
    alpha = share / float(spectrum(problem, theta, k=1).eigenvalues.max())
    velocity, recorded = torch.zeros_like(theta), []
    every = steps // 200
    for k in range(steps + 1):
        value, gradient = problem.value_and_gradient(theta)
        if k % every == 0:
            recorded.append((k, float(value)))
        velocity = momentum * velocity - alpha * gradient
        theta = theta + velocity
    k, values = np.array(recorded).T
    return LossSeries(k.astype(int), k, values, np.full(k.size, np.nan), deterministic=True)


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    torch.set_num_threads(1)
    print(
        "| run | fit of the first half | predicted steps [95%] | actual | error |\n|---|---|---|---|---|", flush=True
    )
    for name, problem, share, momentum, steps in tasks(seed):
        series = train(problem, share, momentum, steps)
        half = series.size // 2
        seen = LossSeries(
            series.steps[:half], series.clock[:half], series.values[:half], series.gradient_norms[:half],
            deterministic=True,
        )  # fmt: skip
        fitted = fit(seen, lower=0.0)
        at = 3 * series.size // 4
        actual = int(series.steps[at] - series.steps[half - 1])
        if fitted.regime not in ("linear", "sublinear"):
            print(f"| {name} | {fitted.regime}: {fitted.reason[:90]} | | {actual:,} | |", flush=True)
            continue
        predicted, (low, high) = fitted.steps_to(float(series.values[at]))
        print(
            f"| {name} | {fitted.regime}, theta {fitted.theta:.2f} | {predicted:,.0f} [{low:,.0f}, {high:,.0f}] | "
            f"{actual:,} | {100 * (predicted / actual - 1):+.0f}% |",
            flush=True,
        )


if __name__ == "__main__":
    main()
