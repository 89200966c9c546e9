"""How long do the 10 smallest and 10 largest Hessian eigenvalues take, to a relative residual of 1e-4?

One process, in turn: tameopt (two columns a step, its default, and one, as the peers), scipy's eigsh (ARPACK) on
curvlinops' operator, and hessian-eigenthings' Lanczos, each at its loosest setting that reaches the residual, which
is computed the same way for all: norm(H v - lambda v) <= 1e-4 max abs(lambda), with tameopt's products. A peer is
stopped after --patience times tameopt's processor seconds in one setting; its ratio is then a lower bound, printed
with ">=". PyHessian's deflated power iteration finds values by magnitude only; it is run once with its defaults.
Peers that are not installed are named and skipped.

    pip install curvlinops-for-pytorch hessian-eigenthings pyhessian
    python benchmarks/spectrum.py --products [--device cuda]       what a Hessian product costs, in gradients
    python benchmarks/spectrum.py --products --models large --device cuda    and the spectrum of 100M parameters
    python benchmarks/spectrum.py [--models cnn transformer resnet18] [--repeats 3] [--threads 2]
        [--patience 8]
    python benchmarks/spectrum.py --models resnet18 --threads 1 --only CONTENDER [--settings S ...] [--limit SECONDS]
        one contender alone: where all in turn take too long for one process
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import json
import math
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import tameopt as tame
from spectrum_networks import workload
from tameopt.extras import available

K = 10
RESIDUAL = 1e-4


@dataclass
class Outcome:
    """What a contender delivered."""

    seconds: float
    products: int
    values: torch.Tensor
    vectors: torch.Tensor
    setting: str
    cpu: float = float("nan")


def residual_of(problem: tame.Problem, outcome: Outcome) -> float:
    images = problem.hessian() @ outcome.vectors
    error = (images - outcome.vectors * outcome.values.to(images)).norm(dim=0).max()
    return float(error / outcome.values.abs().max())


def product_errors(problem: tame.Problem, model: nn.Module, x: Any, y: Any) -> str:
    """Relative error of one float32 product of each operator, against double backward in float64."""
    vector = torch.randn(problem.dim, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(model).double()
    parameters = [parameter for parameter in exact.parameters() if parameter.requires_grad]
    inputs = x.double() if x.is_floating_point() else x
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(exact(inputs), y), parameters, create_graph=True)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        images = torch.autograd.grad(flat @ vector.double(), parameters)
        truth = torch.cat([image.reshape(-1) for image in images])
        found = {"tameopt": problem.hessian() @ vector}
        if available("curvlinops"):
            from curvlinops import HessianLinearOperator

            own = [parameter for parameter in model.parameters() if parameter.requires_grad]
            operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), own, [(x, y)], check_deterministic=False)
            found["curvlinops"] = operator @ vector
    return ", ".join(
        f"{name} {float((one.double() - truth).norm() / truth.norm()):.1e}" for name, one in found.items()
    )


def tameopt_arm(
    problem: tame.Problem, model: nn.Module, x: Any, y: Any, setting: float, block_size: int = 2
) -> Outcome:
    begun = time.perf_counter()
    found = tame.curvature.spectrum(problem, k=K, tolerance=setting, dense_below=0, block_size=block_size)
    seconds = time.perf_counter() - begun
    return Outcome(seconds, found.products, found.eigenvalues, found.vectors, f"tolerance {setting:g}")


def eigsh_arm(problem: tame.Problem, model: nn.Module, x: Any, y: Any, setting: float) -> Outcome:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    begun = time.perf_counter()
    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False
    ).to_scipy()
    count = [0]

    def product(vector: Any) -> Any:
        count[0] += 1
        return operator @ vector

    counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
    values, vectors = eigsh(counted, k=2 * K, which="BE", tol=setting)
    seconds = time.perf_counter() - begun
    return Outcome(seconds, count[0], torch.tensor(values), torch.tensor(vectors), f"tol {setting:g}")


def eigenthings_arm(problem: tame.Problem, model: nn.Module, x: Any, y: Any, setting: int) -> Outcome:
    import hessian_eigenthings as peer

    begun = time.perf_counter()
    operator = peer.HessianOperator(model, [(x, y)], peer.supervised_loss(nn.functional.cross_entropy))
    count, inner = [0], operator.matvec

    def product(vector: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return inner(vector)

    counted = peer.LambdaOperator(product, size=operator.size, device=operator.device, dtype=operator.dtype)
    ends = [
        peer.lanczos(counted, k=K, max_iter=setting, which=which, reorthogonalize=True, tol=RESIDUAL, seed=0)
        for which in ("SA", "LA")
    ]
    seconds = time.perf_counter() - begun
    values = torch.cat([torch.as_tensor(end.eigenvalues) for end in ends])
    vectors = torch.cat([torch.as_tensor(end.eigenvectors).reshape(K, -1).T for end in ends], dim=1)
    return Outcome(seconds, count[0], values, vectors, f"{setting} iterations an end")


def pyhessian_once(model: nn.Module, x: Any, y: Any) -> dict[str, Any]:
    from pyhessian import hessian

    begun, cpu = time.perf_counter(), time.process_time()
    peer = hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
    values, _ = peer.eigenvalues(maxIter=100, tol=1e-3, top_n=K)
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "values": values[:K]}


Arm = Callable[[tame.Problem, nn.Module, Any, Any, Any], Outcome]
ARMS: dict[str, tuple[str, Arm, list[Any]]] = {
    "tameopt": ("tameopt", tameopt_arm, [1e-4, 3e-5]),
    # as the peers do it: an eigenvalue's multiplicity is not seen
    "tameopt, one column": ("tameopt", functools.partial(tameopt_arm, block_size=1), [1e-4, 3e-5]),
    "curvlinops + eigsh": ("curvlinops", eigsh_arm, [3e-2, 1e-2, 1e-3, 1e-4]),
    "hessian-eigenthings": ("hessian_eigenthings", eigenthings_arm, [60, 80, 120, 160, 240]),
}


def timed(arm: Arm, model: nn.Module, x: Any, y: Any, setting: Any) -> Outcome:
    """One run on a fresh problem, so that the choice of a product's mode is paid for each time."""
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, y))
    begun = time.process_time()
    with sdpa_kernel(SDPBackend.MATH):  # the peers leave attention on a backend without second derivatives
        outcome = arm(problem, model, x, y, setting)
    outcome.cpu = time.process_time() - begun
    return outcome


class OutOfTimeError(Exception):
    """A contender has used up its processor seconds."""


@contextmanager
def at_most(processor_seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError within, once this process has computed for so long."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, processor_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def loosest(
    problem: tame.Problem, label: str, model: nn.Module, x: Any, y: Any, limit: float, patience: float
) -> tuple[Any, Outcome] | None:
    """The first setting that reaches the residual and its outcome; None, and why, when none does or one takes more
    than `limit` processor seconds."""
    _, arm, settings = ARMS[label]
    for setting in settings:
        try:
            with at_most(limit):
                outcome = timed(arm, model, x, y, setting)
        except OutOfTimeError:
            bound = "" if math.isnan(patience) else f": ratio >= {patience:.1f}"
            print(f"  {label}: setting {setting:g} stopped after {limit:.1f} processor s{bound}")
            return None
        residual = residual_of(problem, outcome)
        print(
            f"  {label}: {outcome.setting} gives residual {residual:.1e} in {outcome.seconds:.2f} s, processor "
            f"{outcome.cpu:.2f} s, {outcome.products} products",
            flush=True,
        )
        if residual <= RESIDUAL:
            return setting, outcome
    print(f"  {label}: the residual is not reached at any setting", flush=True)
    return None


def one_alone(name: str, label: str, limit: float) -> None:
    """A contender in a process of its own, at its settings in turn, each stopped after `limit` processor seconds."""
    model, x, y = workload(name)
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, y))
    print(f"\n{name}: d={problem.dim:,}, n={problem.n}, loss {float(problem.value()):.3g}", flush=True)
    loosest(problem, label, model, x, y, limit, float("nan"))


def compare(name: str, repeats: int, patience: float) -> list[dict[str, Any]]:
    model, x, y = workload(name)
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, y))
    problem.gradient()
    begun = time.process_time()
    problem.gradient()
    print(f"\n{name}: d={problem.dim:,}, n={problem.n}, a gradient {time.process_time() - begun:.3f} processor s")
    print(f"  relative error of a product against float64: {product_errors(problem, model, x, y)}", flush=True)
    chosen: dict[str, tuple[Any, Outcome]] = {}
    limit = 1e6  # none for tameopt, which comes first
    for label, (module, _, _) in ARMS.items():
        if not available(module):
            print(f"  {label}: not installed")
            continue
        found = loosest(problem, label, model, x, y, limit, patience)
        if found is None:
            continue
        chosen[label] = found
        if label == "tameopt":
            limit = patience * found[1].cpu
    outcomes = {label: [outcome] for label, (_, outcome) in chosen.items()}
    for _ in range(repeats - 1):
        for label, (setting, _) in chosen.items():
            outcomes[label].append(timed(ARMS[label][1], model, x, y, setting))
    reference = {
        "s": statistics.median(one.seconds for one in outcomes["tameopt"]),
        "cpu": statistics.median(one.cpu for one in outcomes["tameopt"]),
    }
    rows = [row_of(name, problem, label, runs, reference) for label, runs in outcomes.items()]
    if available("pyhessian"):
        try:
            with sdpa_kernel(SDPBackend.MATH), at_most(limit):
                once = pyhessian_once(model, x, y)
        except OutOfTimeError:
            print(f"  PyHessian, top {K} by magnitude only: stopped, processor x >= {patience:.1f}")
            return rows
        print(
            f"  PyHessian, top {K} by magnitude only, defaults: {once['seconds']:.2f} s, processor "
            f"{once['cpu']:.2f} s x{once['cpu'] / reference['cpu']:.2f}, largest {once['values'][0]:.4g}"
        )
    return rows


def row_of(
    name: str, problem: tame.Problem, label: str, runs: list[Outcome], reference: dict[str, float]
) -> dict[str, Any]:
    """A line of the table, printed as well."""
    seconds = sorted(one.seconds for one in runs)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    row = {
        "model": name,
        "d": problem.dim,
        "contender": label,
        "median_s": statistics.median(seconds),
        "quartiles_s": [quartiles[0], quartiles[2]],
        "processor_s": statistics.median(one.cpu for one in runs),
        "ratio": statistics.median(seconds) / reference["s"],
        "processor_ratio": statistics.median(one.cpu for one in runs) / reference["cpu"],
        "products": runs[0].products,
        "residual": residual_of(problem, runs[0]),
        "setting": runs[0].setting,
        "smallest": float(runs[0].values.min()),
        "largest": float(runs[0].values.max()),
    }
    print(
        f"  {label:20s} {row['median_s']:8.2f} s [{quartiles[0]:.2f}, {quartiles[2]:.2f}]  x{row['ratio']:.2f}  "
        f"processor {row['processor_s']:.2f} s x{row['processor_ratio']:.2f}  "
        f"{row['products']} products  residual {row['residual']:.1e}  {row['smallest']:.4g} to "
        f"{row['largest']:.4g}  ({row['setting']})",
        flush=True,
    )
    return row


def products(name: str, repeats: int, device: str) -> dict[str, Any]:
    """Seconds of a gradient and of a Hessian product (graph kept, one column and eight), medians."""
    model, x, y = workload(name)
    problem = tame.Problem(model.to(device), nn.functional.cross_entropy, (x, y), device=device)
    operator, theta = problem.hessian(), problem.theta

    def median(run: Callable[[], torch.Tensor]) -> float:
        run()
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            float(run().sum())  # waits for the device
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds)

    gradient = median(lambda: problem.gradient(theta))
    fresh = median(lambda: problem.hessian_product(theta, theta[:, None]))
    narrow = median(lambda: operator @ theta)
    wide = median(lambda: operator @ theta[:, None].expand(-1, 8).contiguous()) / 8
    mode = problem.hessian_mode()
    row = {
        "model": name,
        "d": problem.dim,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "gradient_s": gradient,
        "product_fresh": fresh / gradient,
        "product": narrow / gradient,
        "product_of_8": wide / gradient,
        "mode": mode.narrow,
        "mode_wide": mode.wide,
    }
    print(
        f"{name}: d={problem.dim:,}, gradient {gradient:.4f} s; a product in gradients: "
        f"{row['product_fresh']:.2f} alone, {row['product']:.2f} repeated ({mode.narrow}), "
        f"{row['product_of_8']:.2f} in blocks of 8 ({mode.wide})",
        flush=True,
    )
    if name == "large":
        begun = time.perf_counter()
        found = tame.curvature.spectrum(operator, k=K, tolerance=RESIDUAL)
        row["spectrum_s"], row["spectrum"] = time.perf_counter() - begun, repr(found)
        print(f"  spectrum in {row['spectrum_s']:.1f} s: {found!r}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["cnn", "transformer", "resnet18"],
        choices=["cnn", "transformer", "resnet18", "large"],
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=8.0)
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", default="", choices=["", *ARMS], help="one contender, without repeats")
    parser.add_argument("--settings", nargs="+", type=float, help="its settings, in place of the usual ones")
    parser.add_argument("--limit", type=float, default=1e6, help="processor seconds it gets for a setting")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = {
        package: importlib.metadata.version(package)
        for package in ("torch", "scipy", "curvlinops-for-pytorch", "hessian-eigenthings", "PyHessian")
        if any(package == found.metadata["Name"] for found in importlib.metadata.distributions())
    }
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, float32, {versions}")
    if options.only:
        if options.settings:
            module, arm, usual = ARMS[options.only]
            ARMS[options.only] = (module, arm, [type(usual[0])(setting) for setting in options.settings])
        for name in options.models:
            one_alone(name, options.only, options.limit)
        return
    if options.products:
        rows = [products(name, options.repeats, options.device) for name in options.models]
    else:
        rows = [row for name in options.models for row in compare(name, options.repeats, options.patience)]
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
