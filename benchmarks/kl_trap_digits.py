"""How far do the certificates of zero training loss reach on real digits?

    python benchmarks/kl_trap_digits.py [initial] [limit] [wide] [online] [deep] [start] [flow] [margin]     (or all)
    python benchmarks/kl_trap_digits.py --quick [...]                                     (the rows of n <= 50)

`docs/kl_certificates.md` is what the command without arguments prints (twenty minutes on one core, 17 GiB for `wide`,
each part may be printed alone). Each row states its verdict; PROVED means that the separate checker replayed it.
Protocol: `tameopt.kl.digits_trap.PREPROCESSING`; mean squared error (u = output - label). Du et al.'s width is their
bound with constant 1 and delta = 0.1. Held-out error: sign errors on the digits after the first n, at the certified
weights. Seconds are of this process, training and the checker's replay included.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tameopt.kl.digits_trap import digits_trap, parity_of_digits
from tameopt.kl.held_out import held_out
from tameopt.kl.honest_scale import du_width, honest_scale, network_of
from tameopt.kl.margin import direction_drift, margin_certificate
from tameopt.kl.relu_flow import FlowCertificate, flow_certificate
from tameopt.kl.shadowing import shadow_certificate
from tameopt.kl.shallow import recognise
from tameopt.kl.trap import TrapCertificate, trap_certificate
from tameopt.problem import Problem

INITIAL = (
    # n, log2 width, activation, gain
    (20, 14, "tanh", 2.0), (50, 18, "tanh", 4.0),
    (20, 10, "sin", 4.0), (50, 13, "sin", 4.0), (100, 16, "sin", 4.0), (200, 18, "sin", 4.0), (500, 19, "sin", 12.0),
)  # fmt: skip
LIMIT = ((500, 12.0), (1797, 16.0))  # n, gain
WIDE = ((200, 22, "tanh", 4.0), (200, 22, "sin", 4.0))
ONLINE = ((20, 4), (50, 16), (100, 16), (200, 16))
DEEP = (
    (50, "16-16"), (100, "32-32"), (200, "32-32"), (50, "16-16-16"), (100, "32-32-32"), (200, "32-32-32"),
    (50, "cnn 8"), (100, "cnn 16"), (200, "cnn 16"), (500, "64"), (1797, "128"),
)  # fmt: skip
START = ((20, 16, 2_000), (100, 64, 6_000))
FLOW = ((20, 16), (50, 32), (100, 64))
MARGIN = ("64-256-10, ReLU", "conv 16, leaky ReLU, max-pool, 10")


def memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def percent(number: float) -> str:
    return f"{100 * number:.2g}%"


def wide(rows: tuple[tuple[int, int, str, float], ...] = WIDE) -> None:
    initial(rows, "Width 2^22 at initialisation (the same)")


def initial(
    rows: tuple[tuple[int, int, str, float], ...] = INITIAL,
    title: str = "At initialisation (first layer trained, scale 1/sqrt(width), outputs cancel in pairs)",
) -> None:
    print(f"\n## {title}\n")
    print(
        "| n | width | activation, gain | h | F a step | W moves | kernel drifts | Du et al. | verdict | s | peak |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for n, exponent, activation, gain in rows:
        problem = digits_trap(n, 2**exponent, gain, activation)
        begun = time.perf_counter()
        certificate = trap_certificate(problem)
        seconds = time.perf_counter() - begun
        net = network_of(certificate)
        scale = None if net is None else honest_scale(net, certificate)
        moves = " | " if scale is None else f"{percent(scale.relative_movement)} | {percent(scale.kernel_drift)}"
        rate = f"x{certificate.rate:.4f}" if certificate.holds else certificate.reason
        du = math.log2(du_width(problem.batches.whole[0].numpy()))
        print(
            f"| {n} | 2^{exponent} | {activation}, {gain:g} | {certificate.h:.3f} | {rate} | "
            f"{moves} | 2^{du:.1f} | {certificate.verdict} | {seconds:.1f} | {memory()} |",
            flush=True,
        )


def limit(rows: tuple[tuple[int, float], ...] = LIMIT) -> None:
    """The width that h = 0.45 would need, were the kernel that of infinitely many sine neurons.

    K_ij = g^2 x_i.x_j E[cos(g w.x_i) cos(g w.x_j)] = g^2 r (exp(-g^2(1 - r)) + exp(-g^2(1 + r)))/2 at r = x_i.x_j for
    unit rows and w ~ N(0, I), and ell = g^2 lambda_max(G o G)^(1/2)/sqrt(m), norm(u) = sqrt(n).
    """
    print("\n## Sine neurons beyond that: the width that h = 0.45 would need in the limit of infinitely many\n")
    print(
        "| n | gain | sigma_min(J)^2 in the limit | width for h = 0.45 | its weights alone |\n|---|---|---|---|---|"
    )
    X, _ = parity_of_digits()
    for n, g in rows:
        r = np.clip(X[:n].numpy() @ X[:n].numpy().T, -1.0, 1.0)
        K = g**2 * r * (np.exp(-(g**2) * (1 - r)) + np.exp(-(g**2) * (1 + r))) / 2
        least = float(np.linalg.eigvalsh(K)[0])
        width = n * g**4 * float(np.linalg.eigvalsh(r * r)[-1]) / (0.45 * least) ** 2
        print(
            f"| {n} | {g:g} | {least:.3g} | 2^{math.log2(width):.1f} | {width * 64 * 8 / 2**30:.2f} GiB |", flush=True
        )


def online(rows: tuple[tuple[int, int], ...] = ONLINE) -> None:
    print("\n## Along gradient descent (tanh, first layer trained, gain 1, eta = 0.6/lambda_max at the start)\n")
    print("| n | width | fires at step | h | certified: F <= F/10^6 within | held-out error | verdict | s |")
    print("|---|---|---|---|---|---|---|---|")
    for n, width in rows:
        begun = time.perf_counter()
        problem = digits_trap(n, width, 1.0, antisymmetric=False)
        step, theta = fires(problem, 60_000, 25 if n < 100 else 250)
        if theta is None:
            print(f"| {n} | {width} | not within 60,000 | | | | | {time.perf_counter() - begun:.1f} |", flush=True)
            continue
        certificate = trap_certificate(problem, theta)
        seconds = time.perf_counter() - begun
        print(
            f"| {n} | {width} | {step:,} | {certificate.h:.3f} | {certificate.steps:,} steps | "
            f"{error_at(problem, theta)} | {certificate.verdict} | {seconds:.1f} |",
            flush=True,
        )


def error_at(problem: Problem, theta: torch.Tensor) -> str:
    found = held_out(problem, theta)
    return "none held out" if found is None else f"{100 * found.value:.0f}%"


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


def network(shape: str) -> nn.Module:
    """ "16-16" is a tanh network with those hidden widths, "cnn 8" two convolutions with 8 channels."""
    torch.manual_seed(0)
    if shape.startswith("cnn"):
        c = int(shape.split()[1])
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, c, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(c, c, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * c, 1),
        ).double()  # fmt: skip
    layers: list[nn.Module] = []
    width = 64
    for hidden in map(int, shape.split("-")):
        layers += [nn.Linear(width, hidden), nn.Tanh()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1)).double()


def levenberg_marquardt(problem: Problem, most: int = 200) -> tuple[int, torch.Tensor, TrapCertificate]:
    """Train until the certificate holds: (steps, theta, certificate)."""
    X, Y = problem.batches.whole
    theta, damping = problem.theta, 1.0

    def single(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(problem.model, problem.unflatten(flat), (x[None],)).reshape(())

    jacobian = torch.func.vmap(torch.func.jacrev(single), (None, 0), chunk_size=256)
    certificate = trap_certificate(problem, theta, rigorous=False)
    for k in range(most):
        J, u = jacobian(theta, X), (problem.outputs(theta) - Y).reshape(-1)
        size = float(u.norm())
        if size < 1e-2:
            certificate = trap_certificate(problem, theta, rigorous=False)
            if certificate.holds:
                return k, theta, trap_certificate(problem, theta)
        K = J @ J.T
        while damping < 1e6:
            moved = theta - J.T @ torch.linalg.solve(K + damping * torch.eye(len(K), dtype=K.dtype), u)
            if float((problem.outputs(moved) - Y).norm()) < size:
                theta, damping = moved, max(damping / 5, 1e-12)
                break
            damping *= 4
    return most, theta, certificate


def deep(rows: tuple[tuple[int, str], ...] = DEEP) -> None:
    print("\n## Deeper networks (tanh, every weight and bias trained, torch's initialisation, Levenberg-Marquardt)\n")
    head = "| n | hidden | parameters | fires at step | h | ell | sigma_min | F <= F/10^6 within | held-out error |"
    print(f"{head} verdict | s |\n|---|---|---|---|---|---|---|---|---|---|---|")
    X, y = parity_of_digits()
    for n, shape in rows:
        begun = time.perf_counter()
        rest = (X[n:], y[n:]) if n < len(X) else None
        data = (X[:n].clone(), y[:n].clone())
        problem = Problem(network(shape), nn.functional.mse_loss, data, held_out=rest)
        step, theta, found = levenberg_marquardt(problem)
        seconds = time.perf_counter() - begun
        print(
            f"| {n} | {shape} | {problem.dim:,} | {step} | {found.h:.2g} | {found.ell:.3g} | {found.s0:.2g} | "
            f"{found.steps or math.nan:,} steps | {error_at(problem, theta)} | {found.verdict} | "
            f"{seconds:.1f} |",
            flush=True,
        )


def start(rows: tuple[tuple[int, int, int], ...] = START) -> None:
    print("\n## From the initial point, by shadowing (tanh, first layer trained, gain 1, eta = 0.6/lambda_max)\n")
    print("| n | width | trapped after | distance to the exact iterate | h | F/10^6 of then within | verdict | s |")
    print("|---|---|---|---|---|---|---|---|")
    for n, width, most in rows:
        begun = time.perf_counter()
        found = shadow_certificate(digits_trap(n, width, 1.0, antisymmetric=False), most=most)
        print(
            f"| {n} | {width} | {found.before:,} steps | {found.distance:.1e} | {found.h:.3f} | "
            f"{found.steps:,} steps | {found.verdict} | {time.perf_counter() - begun:.1f} |",
            flush=True,
        )


def flow(rows: tuple[tuple[int, int], ...] = FLOW) -> None:
    print(
        "\n## ReLU networks under the gradient flow (one hidden layer, everything trained, Adam, tried every 100)\n"
    )
    print("| n | width | fires at step | pairs that may flip | F <= exp(-rate t) F_0, rate | verdict | s |")
    print("|---|---|---|---|---|---|---|")
    X, y = parity_of_digits()
    for n, width in rows:
        begun = time.perf_counter()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 1)).double()
        problem = Problem(model, nn.functional.mse_loss, (X[:n].clone(), y[:n].clone()))
        step, found = adam_until_flow(model, problem)
        print(
            f"| {n} | {width} | {step:,} | {percent(found.flips)} | {found.rate:.2g} | {found.verdict} | "
            f"{time.perf_counter() - begun:.1f} |",
            flush=True,
        )


def adam_until_flow(model: nn.Module, problem: Problem, most: int = 6_000) -> tuple[int, FlowCertificate]:
    X, y = problem.batches.whole
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
    for step in range(most + 1):
        if step % 100 == 0:
            theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
            found = flow_certificate(problem, theta)
            if found.holds:
                return step, found
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), y).backward()
        optimizer.step()
        schedule.step()
    return most, found


def margin(rows: tuple[str, ...] = MARGIN) -> None:
    from sklearn.datasets import load_digits

    print("\n## Cross-entropy, all 1,797 digits, homogeneous networks, Adam\n")
    print("| network | step | n F / log 2 | margin | alignment | turned since half of the steps | verdict | s |")
    print("|---|---|---|---|---|---|---|---|")
    images, labels = load_digits(return_X_y=True)
    torch.manual_seed(0)
    networks = {
        "64-256-10, ReLU": nn.Sequential(
            nn.Linear(64, 256, bias=False), nn.ReLU(), nn.Linear(256, 10, bias=False)
        ),
        "conv 16, leaky ReLU, max-pool, 10": nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, 10, bias=False),
        ),
    }  # fmt: skip
    for name in rows:
        model = networks[name]
        begun = time.perf_counter()
        problem = Problem(
            model.double(), nn.CrossEntropyLoss(), (torch.from_numpy(images / 16), torch.from_numpy(labels))
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        X, y = problem.batches.whole
        path = []
        for _ in range(5000):
            optimizer.zero_grad()
            loss = problem.loss(model(X), y)
            path.append(torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]))
            if loss.item() < 0.95 * math.log(2) / len(y):
                break
            loss.backward()
            optimizer.step()
        found = margin_certificate(problem, path[-1])
        print(
            f"| {name} | {len(path) - 1:,} | {found.ratio:.3f} | {found.margin:.2g} | {found.alignment:.2f} | "
            f"{direction_drift(path[len(path) // 2], path[-1]):.0f} degrees | {found.verdict} | "
            f"{time.perf_counter() - begun:.1f} |",
            flush=True,
        )


PARTS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "initial": (initial, INITIAL), "limit": (limit, LIMIT), "wide": (wide, WIDE), "online": (online, ONLINE),
    "deep": (deep, DEEP), "start": (start, START), "flow": (flow, FLOW), "margin": (margin, MARGIN),
}  # fmt: skip


def main() -> None:
    quick = "--quick" in sys.argv
    wanted = [name for name in sys.argv[1:] if name != "--quick"] or list(PARTS)
    if wanted == list(PARTS):
        print("# Certificates of zero training loss on digits\n\nPrinted by `python benchmarks/kl_trap_digits.py`.")
    for name in wanted:
        part, rows = PARTS[name]
        begun = os.getloadavg()[0]
        part(tuple(row for row in rows if row[0] in (20, 50)) if quick and name != "margin" else rows)
        print(
            f"\nThe part `{name}` on {datetime.date.today()}: torch {torch.__version__}, numpy {np.__version__}, "
            f"Python {platform.python_version()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, load "
            f"{begun:.1f} before and {os.getloadavg()[0]:.1f} after; seed 0, float64.",
            flush=True,
        )


if __name__ == "__main__":
    main()
