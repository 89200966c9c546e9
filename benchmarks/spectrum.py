"""How long do the 10 smallest and 10 largest Hessian eigenvalues take, to a relative residual of 1e-4?

One process, in turn: tameopt, scipy's eigsh (ARPACK) on curvlinops' operator, and hessian-eigenthings' Lanczos, each
at its loosest setting that reaches the residual, which is computed the same way for all: norm(H v - lambda v) <=
1e-4 max abs(lambda), with tameopt's products. PyHessian's deflated power iteration finds eigenvalues by magnitude
only; it is run once with its defaults and its residual printed. Peers that are not installed are named and skipped.

    pip install curvlinops-for-pytorch hessian-eigenthings pyhessian
    python benchmarks/spectrum.py --products [--device cuda]       what a Hessian product costs, in gradients
    python benchmarks/spectrum.py --products --models large --device cuda    and the spectrum of 100M parameters
    python benchmarks/spectrum.py [--models cnn transformer resnet18] [--repeats 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import tameopt as tame
from tameopt.extras import available

K = 10
RESIDUAL = 1e-4


class SmallTransformer(nn.Module):
    """Eight rows of eight pixels as eight tokens, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).mean(1))


class LargeTransformer(nn.Module):
    """100 million parameters: 14 layers of width 768 on sequences of 128 tokens, a vocabulary of 1,000."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 768)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 14, enable_nested_tensor=False)
        self.head = nn.Linear(768, 1000)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(1))


class Block(nn.Module):
    """Two convolutions and a shortcut, batch normalisation by running statistics."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)])
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(inner)) + self.shortcut(x))


def resnet18() -> nn.Module:
    blocks, inside = [], 64
    for outside, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(inside, outside, stride), Block(outside, outside, 1)]
        inside = outside
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def workload(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model after a little training, so that its spectrum looks like a network's, and its data."""
    torch.manual_seed(0)
    if name == "resnet18":
        return resnet18().eval(), torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    if name == "large":
        return LargeTransformer().eval(), torch.randint(1000, (16, 128)), torch.randint(1000, (16,))
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:512] / 16, dtype=torch.float32), torch.tensor(labels[:512])
    model = {"cnn": cnn, "transformer": SmallTransformer}[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y


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


def tameopt_arm(problem: tame.Problem, model: nn.Module, x: Any, y: Any, setting: float) -> Outcome:
    begun = time.perf_counter()
    found = tame.curvature.spectrum(problem, k=K, tolerance=setting, dense_below=0)
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


def loosest(
    problem: tame.Problem, arm: Arm, settings: list[Any], model: nn.Module, x: Any, y: Any
) -> tuple[Any, Outcome] | None:
    """The first setting that reaches the residual and its outcome, None when none does."""
    for setting in settings:
        outcome = timed(arm, model, x, y, setting)
        if residual_of(problem, outcome) <= RESIDUAL:
            return setting, outcome
    return None


def compare(name: str, repeats: int) -> list[dict[str, Any]]:
    model, x, y = workload(name)
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, y))
    problem.gradient()
    begun = time.perf_counter()
    problem.gradient()
    print(f"\n{name}: d={problem.dim:,}, n={problem.n}, a gradient {time.perf_counter() - begun:.3f} s", flush=True)
    rows = []
    chosen: dict[str, Any] = {}
    outcomes: dict[str, list[Outcome]] = {}
    for label, (module, arm, settings) in ARMS.items():
        if not available(module):
            print(f"  {label}: not installed")
            continue
        found = loosest(problem, arm, settings, model, x, y)
        if found is None:
            print(f"  {label}: no setting of {settings} reaches the residual", flush=True)
            continue
        chosen[label] = (arm, found[0])
        outcomes[label] = [found[1]]
        print(
            f"  {label}: {found[1].setting} reaches it in {found[1].seconds:.2f} s, processor {found[1].cpu:.2f} s, "
            f"{found[1].products} products",
            flush=True,
        )
    for _ in range(repeats - 1):
        for label, (arm, setting) in chosen.items():
            outcomes[label].append(timed(arm, model, x, y, setting))
    reference = statistics.median(one.seconds for one in outcomes["tameopt"])
    cpu_reference = statistics.median(one.cpu for one in outcomes["tameopt"])
    for label, runs in outcomes.items():
        seconds = sorted(one.seconds for one in runs)
        quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
        row = {
            "model": name,
            "d": problem.dim,
            "contender": label,
            "median_s": statistics.median(seconds),
            "quartiles_s": [quartiles[0], quartiles[2]],
            "processor_s": statistics.median(one.cpu for one in runs),
            "ratio": statistics.median(seconds) / reference,
            "processor_ratio": statistics.median(one.cpu for one in runs) / cpu_reference,
            "products": runs[0].products,
            "residual": residual_of(problem, runs[0]),
            "setting": runs[0].setting,
            "smallest": float(runs[0].values.min()),
            "largest": float(runs[0].values.max()),
        }
        rows.append(row)
        print(
            f"  {label:20s} {row['median_s']:8.2f} s [{quartiles[0]:.2f}, {quartiles[2]:.2f}]  x{row['ratio']:.2f}  "
            f"processor {row['processor_s']:.2f} s x{row['processor_ratio']:.2f}  "
            f"{row['products']} products  residual {row['residual']:.1e}  {row['smallest']:.4g} to "
            f"{row['largest']:.4g}  ({row['setting']})",
            flush=True,
        )
    if available("pyhessian"):
        with sdpa_kernel(SDPBackend.MATH):
            once = pyhessian_once(model, x, y)
        seconds, largest = once["seconds"], once["values"][0]
        print(
            f"  PyHessian, top {K} by magnitude only, defaults: {seconds:.2f} s, processor {once['cpu']:.2f} s "
            f"x{once['cpu'] / cpu_reference:.2f}, largest {largest:.4g}"
        )
    return rows


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
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = {
        package: importlib.metadata.version(package)
        for package in ("torch", "scipy", "curvlinops-for-pytorch", "hessian-eigenthings", "PyHessian")
        if any(package == found.metadata["Name"] for found in importlib.metadata.distributions())
    }
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, float32, {versions}")
    if options.products:
        rows = [products(name, options.repeats, options.device) for name in options.models]
    else:
        rows = [row for name in options.models for row in compare(name, options.repeats)]
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
