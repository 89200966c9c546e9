"""How fast is the prox catalogue against pyproximal and ProxTorch on a batch of a million?

Question: milliseconds for one proximal map of 10^6 entries in the same process as the peers' operators (pyproximal:
numpy, on the CPU, float64; ProxTorch: torch, on the device), and the largest difference of the results (pyproximal's
log, l0 and tv1d answer otherwise: another algorithm, an approximate one, or another parameter).

    python benchmarks/prox.py [--device cuda]    (needs: pip install --no-deps pyproximal pylops proxtorch)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth import prox

ENTRIES, REPEATS = 10**6, 9
Call = Callable[[torch.Tensor], Any]


def peers() -> dict[str, tuple[Call, Callable[[np.ndarray], Any] | None, Call | None]]:
    """name -> (ours on a tensor, pyproximal's on an array, ProxTorch's on a tensor)."""
    import pyproximal
    from proxtorch.constraints import Box, L2Ball, NonNegative
    from proxtorch.operators import L1, L2, ElasticNet

    l1, l0, l2 = pyproximal.L1(), pyproximal.L0(), pyproximal.Euclidean()
    log, box = pyproximal.Log(1.0, 1.0), pyproximal.Box(-0.5, 0.5)
    squared, ball = pyproximal.L2(), pyproximal.EuclideanBall(0.0, 1.0)
    simplex, total = pyproximal.Simplex(ENTRIES, 1.0), pyproximal.TV((ENTRIES,), 0.5)
    soft, shrink, elastic = L1(1.0), L2(1.0), ElasticNet(1.0, 1.0)
    clip, disc, positive = Box(-0.5, 0.5), L2Ball(1.0), NonNegative()
    return {
        "l1": (lambda v: prox.l1(v, 0.5), lambda v: l1.prox(v, 0.5), lambda v: soft.prox(v, 0.5)),
        "l0": (lambda v: prox.l0(v, 0.5), lambda v: l0.prox(v, 0.5), None),
        "l2 (one vector)": (lambda v: prox.l2(v, 0.5), lambda v: l2.prox(v, 0.5), None),
        "l2_squared": (
            lambda v: prox.l2_squared(v, 0.5), lambda v: squared.prox(v, 0.5), lambda v: shrink.prox(v, 0.5),
        ),
        "elastic_net": (lambda v: prox.elastic_net(v, 0.5), None, lambda v: elastic.prox(v, 0.5)),
        "box": (lambda v: prox.box(v, low=-0.5, high=0.5), lambda v: box.prox(v, 1.0), clip.prox),
        "ball_l2 (one vector)": (lambda v: prox.ball_l2(v), lambda v: ball.prox(v, 1.0), disc.prox),
        "nonnegative": (lambda v: prox.nonnegative(v), None, positive.prox),
        "log_sum": (lambda v: prox.log_sum(v, 0.1), lambda v: log.prox(v, 0.1), None),
        "simplex (one vector)": (lambda v: prox.simplex(v), lambda v: simplex.prox(v, 1.0), None),
        "tv1d (one vector)": (lambda v: prox.tv1d(v, 0.5), lambda v: total.prox(v, 1.0), None),
    }  # fmt: skip


def timed(call: Callable[[], Any], cuda: bool, repeats: int = REPEATS) -> tuple[Any, float, float, float]:
    """The result, and median and quartiles of milliseconds after two warm-ups."""
    result = call()
    call()
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return result, *(float(q) for q in np.quantile(times, [0.5, 0.25, 0.75]))


def compared(words: str, ours: tuple[Any, float], call: Callable[[], Any], cuda: bool, repeats: int) -> str:
    """One peer's column; a failure of the peer is a result."""
    try:
        theirs, middle, low, high = timed(call, cuda, repeats)
    except Exception as error:  # noqa: BLE001 - a failure of the peer is a result
        return f"   {words} failed: {type(error).__name__}: {str(error)[:50]}"
    result = theirs.cpu().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    difference = float(np.abs(ours[0].cpu().numpy() - result).max())
    return f"   {words} {middle:8.2f} [{low:.2f}, {high:.2f}] {middle / ours[1]:6.1f}x differs {difference:.0e}"


def main() -> None:
    """Print a table; an entry that a peer cannot do, or does otherwise, is printed as it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    cuda = device != "cpu"
    v = torch.randn(ENTRIES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    array, v = v.numpy(), v.to(device)
    print(
        f"torch {torch.__version__} pyproximal {version('pyproximal')} ProxTorch {version('proxtorch')} device "
        f"{torch.cuda.get_device_name() if cuda else 'cpu'} threads {torch.get_num_threads()} float64 seed 0, ms"
    )
    for name, (ours, on_array, on_tensor) in peers().items():
        if cuda and name.startswith("tv"):
            continue
        repeats = 1 if name.startswith("tv") else REPEATS
        x, middle, low, high = timed(lambda ours=ours: ours(v), cuda)
        line = f"{name:22} ours {middle:7.2f} [{low:.2f}, {high:.2f}]"
        if on_array is not None:
            line += compared("pyproximal", (x, middle), lambda f=on_array: f(array), False, repeats)
        if on_tensor is not None:
            line += compared("ProxTorch", (x, middle), lambda f=on_tensor: f(v), cuda, repeats)
        print(line)


if __name__ == "__main__":
    main()
