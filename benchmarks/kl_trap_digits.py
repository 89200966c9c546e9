"""How far do trap certificates reach on real digits?

    python benchmarks/kl_trap_digits.py [initial] [wide] [online] [margin]

Each row states its verdict; PROVED means that the separate checker replayed it. Protocol:
`tameopt.kl.digits_trap.PREPROCESSING`; mean squared
error (u = output - label), first layer trained, standard scale 1/sqrt(m). Du et al.'s width is their bound with
constant 1 and delta = 0.1. Peak memory and seconds are of this process, with the checker's replay included.
"""

from __future__ import annotations

import math
import platform
import resource
import sys
import time

import numpy as np
import torch
from torch import nn

from tameopt.kl.digits_trap import digits_trap
from tameopt.kl.honest_scale import du_width, honest_scale
from tameopt.kl.margin import margin_certificate
from tameopt.kl.shallow import recognise
from tameopt.kl.trap import trap_certificate
from tameopt.problem import Problem

INITIAL = (
    # n, log2 width, activation, gain
    (20, 14, "tanh", 2.0), (50, 18, "tanh", 4.0),
    (20, 10, "sin", 4.0), (50, 13, "sin", 4.0), (100, 16, "sin", 4.0), (200, 18, "sin", 4.0),
)  # fmt: skip
WIDE = ((100, 21, "tanh", 4.0), (500, 20, "sin", 8.0))
ONLINE = ((20, 4), (50, 16), (100, 16), (200, 16))


def memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def initial(rows: tuple[tuple[int, int, str, float], ...] = INITIAL) -> None:
    print("\n## At initialisation (outputs cancel in pairs)\n")
    print("| n | width | activation, gain | h | F a step | radius/norm(W) | Du et al. | verdict | seconds | peak |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for n, exponent, activation, gain in rows:
        problem = digits_trap(n, 2**exponent, gain, activation)
        begun = time.perf_counter()
        certificate = trap_certificate(problem)
        seconds = time.perf_counter() - begun
        net = recognise(problem)
        movement = honest_scale(net, certificate).relative_movement if certificate.holds else math.nan
        print(
            f"| {n} | 2^{exponent} | {activation}, {gain:g} | {certificate.h:.3f} | x{certificate.rate:.4f} | "
            f"{100 * movement:.2f}% | 2^{math.log2(du_width(net.X)):.1f} | {certificate.verdict} | {seconds:.1f} | "
            f"{memory()} |",
            flush=True,
        )


def online() -> None:
    print("\n## Along gradient descent (tanh, gain 1, no pairing, eta = 0.6/lambda_max at the start)\n")
    print("| n | width | fires at step | h | certified: F <= F/10^6 within | verdict | seconds |")
    print("|---|---|---|---|---|---|---|")
    for n, width in ONLINE:
        begun = time.perf_counter()
        problem = digits_trap(n, width, 1.0, antisymmetric=False)
        step, theta = fires(problem, 40_000)
        if theta is None:
            print(f"| {n} | {width} | not within 40,000 | | | | {time.perf_counter() - begun:.1f} |", flush=True)
            continue
        certificate = trap_certificate(problem, theta)
        seconds = time.perf_counter() - begun
        print(
            f"| {n} | {width} | {step:,} | {certificate.h:.3f} | {certificate.steps:,} steps | "
            f"{certificate.verdict} | {seconds:.1f} |",
            flush=True,
        )


def fires(problem: Problem, most: int, every: int = 25) -> tuple[int, torch.Tensor | None]:
    """The first multiple of `every` at which the certificate holds along gradient descent, and theta there."""
    net = recognise(problem)
    X, Y, C = (torch.from_numpy(array) for array in (net.X, net.Y, net.C))
    W = torch.from_numpy(net.W.copy())
    scale = net.scale
    first = trap_certificate(problem, rigorous=False)
    eta = 0.6 / first.J0**2
    for k in range(most + 1):
        hidden = torch.tanh(W @ X.T)
        u = scale * (C @ hidden).T - Y
        # a certificate can only fire where norm(u) is small: do not try before
        if k % every == 0 and float(u.norm()) < 0.5 * math.sqrt(len(Y)):
            certificate = trap_certificate(problem, W.reshape(-1), rigorous=False)
            if certificate.holds:
                return k, W.reshape(-1).clone()
        W -= eta * scale * (C.T * ((1 - hidden**2) * u.T) @ X)
    return most, None


def margin() -> None:
    from sklearn.datasets import load_digits

    print("\n## Cross-entropy, all 1,797 digits, 64-256-10 without biases, ReLU\n")
    images, labels = load_digits(return_X_y=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256, bias=False), nn.ReLU(), nn.Linear(256, 10, bias=False)).double()
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.from_numpy(images / 16), torch.from_numpy(labels)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    X, y = problem.batches.whole
    begun = time.perf_counter()
    steps = 0
    for steps in range(5000):  # noqa: B007
        optimizer.zero_grad()
        loss = problem.loss(model(X), y)
        if loss.item() < 0.95 * math.log(2) / len(y):
            break
        loss.backward()
        optimizer.step()
    training = time.perf_counter() - begun
    begun = time.perf_counter()
    certificate = margin_certificate(problem)
    print(
        f"Adam step {steps:,} ({training:.0f} s): {certificate.verdict}, n F = {certificate.ratio:.3f} log 2, "
        f"normalised margin {certificate.margin:.3g}, alignment {certificate.alignment:.3f}, "
        f"{time.perf_counter() - begun:.2f} s to certify and replay"
    )


def main() -> None:
    wanted = sys.argv[1:] or ["initial", "online", "margin"]
    print(f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, seed 0, float64")
    for name in wanted:
        {"initial": initial, "wide": lambda: initial(WIDE), "online": online, "margin": margin}[name]()


if __name__ == "__main__":
    main()
