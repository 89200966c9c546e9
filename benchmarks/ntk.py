"""Is the tangent kernel of 1,000 samples and 10^6 parameters faster and smaller than with torch.func?

    python benchmarks/ntk.py [n] [outputs] [ROW ...]

Each row runs in a process of its own, on one thread; CPU seconds are the best of 3 (of 1 where one takes over 10)
after a warm-up on 8 samples, memory is the peak of the process above what it held before the kernel. torch.func's
recipes are those of its documentation ("Neural Tangent Kernels"): the contraction of Jacobians (as printed there, and
with the Jacobian made once), and NTK-vector products. The network is an MLP 784-784-512-outputs (1.02 million
parameters for one output), float32; `conv` is a small convolutional network. Kernels are compared with the first one.
`ends` are the extreme eigenvalues, on top, up to 5,000 rows.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

ROWS = (
    "tameopt structured", "tameopt contraction", "torch.func contraction", "torch.func contraction, Jacobian once",
    "torch.func NTK-vector products", "conv: tameopt structured", "conv: torch.func contraction, Jacobian once",
)  # fmt: skip
LARGEST_ENDS = 5000  # rows: dense eigenvalues of 20,000 take the better part of an hour on one thread


def _problem(n: int, outputs: int, conv: bool):  # type: ignore[no-untyped-def]
    import torch
    from torch import nn

    from tameopt.problem import Problem

    torch.manual_seed(0)
    if conv:
        model: nn.Module = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, outputs),
        )  # fmt: skip
        X = torch.randn(n, 1, 14, 14)
    else:
        model = nn.Sequential(nn.Linear(784, 784), nn.Tanh(), nn.Linear(784, 512), nn.Tanh(), nn.Linear(512, outputs))
        X = torch.randn(n, 784)
    return Problem(model, nn.functional.mse_loss, (X, torch.zeros(n, outputs)))


def _torch_contraction(problem, X, once: bool):  # type: ignore[no-untyped-def]
    """The documented recipe; rows chunked so that a Jacobian takes at most 4 GiB."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    params = {key: value.detach() for key, value in problem.model.named_parameters()}

    def single(parameters, x):  # type: ignore[no-untyped-def]
        return functional_call(problem.model, parameters, (x.unsqueeze(0),)).squeeze(0)

    jacobian = vmap(jacrev(single), (None, 0))

    def kernel(x1, x2):  # type: ignore[no-untyped-def]
        one = [j.flatten(2) for j in jacobian(params, x1).values()]
        two = one if once and x1 is x2 else [j.flatten(2) for j in jacobian(params, x2).values()]
        parts = [torch.einsum("Naf,Mbf->NMab", a, b) for a, b in zip(one, two, strict=True)]
        return torch.stack(parts).sum(0)

    size = max(1, int((4 << 30) // (problem.dim * 4 * single(params, X[0]).numel())))
    pieces = X.split(size)
    return torch.cat([torch.cat([kernel(a, b) for b in pieces], 1) for a in pieces], 0)


def _torch_products(problem, X):  # type: ignore[no-untyped-def]
    """The documented NTK-vector products."""
    import torch
    from torch.func import functional_call, jvp, vjp, vmap

    params = {key: value.detach() for key, value in problem.model.named_parameters()}

    def single(parameters, x):  # type: ignore[no-untyped-def]
        return functional_call(problem.model, parameters, (x.unsqueeze(0),)).squeeze(0)

    def ntk(x1, x2):  # type: ignore[no-untyped-def]
        def func_x1(p):  # type: ignore[no-untyped-def]
            return single(p, x1)

        output, vjp_fn = vjp(lambda p: single(p, x2), params)

        def vps(vector):  # type: ignore[no-untyped-def]
            return jvp(func_x1, (params,), vjp_fn(vector))[1]

        return vmap(vps)(torch.eye(output.numel(), dtype=output.dtype))

    # all pairs at once would need every perturbed activation of n^2 pairs: rows of 10 samples
    return torch.cat([vmap(vmap(ntk, (None, 0)), (0, None))(rows, X) for rows in X.split(10)])


def run(row: str, n: int, outputs: int) -> dict[str, float | list[float]]:
    """One row: seconds, peak memory in MB, a few entries of the kernel, and the extreme eigenvalues' seconds."""
    import torch

    from tameopt.kl.ntk import _contraction, _structured, structured_layers

    torch.set_num_threads(1)
    problem = _problem(n, outputs, row.startswith("conv"))
    X = problem.batches.whole[0]

    def compute(x, count: int):  # type: ignore[no-untyped-def]
        if "torch.func contraction" in row:
            return _torch_contraction(problem, x, "once" in row)
        if "products" in row:
            return _torch_products(problem, x)
        chosen = torch.arange(count)
        if "structured" in row:
            return _structured(problem, problem.theta, chosen, outputs, *structured_layers(problem), 256 << 20)
        return _contraction(problem, problem.theta, chosen, outputs, 256 << 20)

    compute(X[:8], 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    while not seconds or (len(seconds) < 3 and seconds[0] < 10):
        begun = time.process_time()
        K = compute(X, n)
        seconds.append(time.process_time() - begun)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if K.ndim == 4:
        K = K.permute(0, 2, 1, 3).reshape(n * outputs, n * outputs)
    begun = time.process_time()
    dense = "tameopt structured" in row and len(K) <= LARGEST_ENDS
    ends = torch.linalg.eigvalsh(K)[[0, -1]] if dense else torch.zeros(2)
    sample = [float(v) for v in K.flatten()[:: max(1, K.numel() // 7)][:7]]
    return {
        "seconds": min(seconds), "MB": peak, "entries": sample, "ends": [float(v) for v in ends],
        "seconds_ends": time.process_time() - begun,
    }  # fmt: skip


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    outputs = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if sys.argv[3:4] == ["--one"]:
        print(json.dumps(run(sys.argv[4], n, outputs)))
        return
    print(
        f"n = {n}, outputs = {outputs}\n\n| kernel | CPU seconds | peak MB | difference |\n|---|---|---|---|",
        flush=True,
    )
    first: dict[bool, list[float]] = {}
    for row in sys.argv[3:] or ROWS:
        done = subprocess.run(
            [sys.executable, __file__, str(n), str(outputs), "--one", row], capture_output=True, text=True
        )
        if done.returncode:
            print(f"| {row} | failed: {(done.stderr.strip().splitlines() or ['killed'])[-1][:80]} | | |", flush=True)
            continue
        found = json.loads(done.stdout)
        reference = first.setdefault(row.startswith("conv"), found["entries"])
        gap = max(abs(a - b) for a, b in zip(reference, found["entries"], strict=True)) / max(map(abs, reference))
        print(f"| {row} | {found['seconds']:.2f} | {found['MB']:,.0f} | {gap:.1e} |", flush=True)
        if found["ends"][1]:
            print(f"  its ends {found['ends'][0]:.4g}, {found['ends'][1]:.4g} in {found['seconds_ends']:.2f} s more")


if __name__ == "__main__":
    main()
