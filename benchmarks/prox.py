"""How fast is the prox catalogue against pyproximal and ProxTorch on a batch of a million?

Question: milliseconds for one proximal map of 10^6 entries in the same process as the peers' operators (pyproximal:
numpy, on the CPU, float64; ProxTorch: torch, on the device), and the largest difference of the results (pyproximal's
log, l0 and tv1d answer otherwise: another algorithm, an approximate one, or another parameter).

Every peer is timed against ours alone, in turn: ours, peer, peer, ours and then the other way about; each call comes
right after one of its own that is not timed, so that it finds the memory and the caches that itself left. All return
a fresh array, freed before the next call, and the page faults of it are counted. The ratio is the median over the
groups of four. `out=` (into a buffer, which the peers do not have) is timed against ours in the same way.

    python benchmarks/prox.py [--device cuda] [l2 ...]   # pip install --no-deps pyproximal pylops proxtorch
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth import prox

ENTRIES, GROUPS, FEW_GROUPS = 10**6, 60, 3  # few where a call takes longer than 20 ms
Call = Callable[[torch.Tensor], Any]
Own = Callable[[torch.Tensor, torch.Tensor | None], Any]


def peers() -> dict[str, tuple[Own, Callable[[np.ndarray], Any] | None, Call | None]]:
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
    # every operator is made before the clock starts, ours is looked up
    soft_own, l0_own, l2_own, squared_own = prox.l1, prox.l0, prox.l2, prox.l2_squared
    elastic_own, box_own, ball_own, positive_own = prox.elastic_net, prox.box, prox.ball_l2, prox.nonnegative
    log_own, simplex_own, total_own = prox.log_sum, prox.simplex, prox.tv1d
    return {
        "l1": (lambda v, out: soft_own(v, 0.5, out=out), lambda v: l1.prox(v, 0.5), lambda v: soft.prox(v, 0.5)),
        "l0": (lambda v, out: l0_own(v, 0.5, out=out), lambda v: l0.prox(v, 0.5), None),
        "l2 (one vector)": (lambda v, out: l2_own(v, 0.5, out=out), lambda v: l2.prox(v, 0.5), None),
        "l2_squared": (
            lambda v, out: squared_own(v, 0.5, out=out),
            lambda v: squared.prox(v, 0.5),
            lambda v: shrink.prox(v, 0.5),
        ),
        "elastic_net": (lambda v, out: elastic_own(v, 0.5, out=out), None, lambda v: elastic.prox(v, 0.5)),
        "box": (lambda v, out: box_own(v, low=-0.5, high=0.5, out=out), lambda v: box.prox(v, 1.0), clip.prox),
        "ball_l2 (one vector)": (lambda v, out: ball_own(v, out=out), lambda v: ball.prox(v, 1.0), disc.prox),
        "nonnegative": (lambda v, out: positive_own(v, out=out), None, positive.prox),
        "log_sum": (lambda v, out: log_own(v, 0.1, out=out), lambda v: log.prox(v, 0.1), None),
        "simplex (one vector)": (lambda v, out: simplex_own(v, out=out), lambda v: simplex.prox(v, 1.0), None),
        "tv1d (one vector)": (lambda v, out: total_own(v, 0.5, out=out), lambda v: total.prox(v, 1.0), None),
    }  # fmt: skip


def once(call: Callable[[], Any], cuda: bool) -> tuple[float, int]:
    """Milliseconds and page faults of a call, after one that is not timed.

    On a CPU the time is this process's own (other load delays it, and is not in it).
    """
    clock = time.perf_counter if cuda else time.process_time
    call()
    if cuda:
        torch.cuda.synchronize()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    begun = clock()
    result = call()
    if cuda:
        torch.cuda.synchronize()
    seconds = clock() - begun
    del result
    return 1e3 * seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def against(ours: Callable[[], Any], peer: Callable[[], Any], cuda: bool, groups: int) -> dict[str, np.ndarray]:
    """Milliseconds and faults of both, (2 groups, 2) each, and the ratio peer over ours of each group of four."""
    found: dict[str, list[Any]] = {"ours": [], "peer": [], "ratio": []}
    for group in range(groups):
        order = ("ours", "peer", "peer", "ours") if group % 2 else ("peer", "ours", "ours", "peer")
        four = [(who, once(ours if who == "ours" else peer, cuda)) for who in order]
        for who, times in four:
            found[who].append(times)
        found["ratio"].append(
            sum(ms for who, (ms, _) in four if who == "peer") / sum(ms for who, (ms, _) in four if who == "ours")
        )
    return {who: np.array(rows) for who, rows in found.items()}


def as_array(result: Any) -> np.ndarray:
    """A result of any of the libraries as a numpy array."""
    return result.cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


def main() -> None:
    """Print a table; an entry that a peer cannot do, or does otherwise, is printed as it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    device, names = arguments.device, arguments.names
    cuda = device != "cpu"
    v = torch.randn(ENTRIES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    array, v = v.numpy(), v.to(device)
    buffer = torch.empty_like(v)
    print(
        f"torch {torch.__version__} pyproximal {version('pyproximal')} ProxTorch {version('proxtorch')} device "
        f"{torch.cuda.get_device_name() if cuda else 'cpu'} threads {torch.get_num_threads()} float64 seed 0, "
        f"ms{'' if cuda else ' of CPU time'} as medians [quartiles] (page faults); load {os.getloadavg()[0]:.1f}"
    )
    for name, (ours, on_array, on_tensor) in peers().items():
        if (names and name.split()[0] not in names) or (cuda and name.startswith("tv")):
            continue
        own = as_array(ours(v, None))
        arms: dict[str, Callable[[], Any]] = {}
        if on_array is not None:
            arms["pyproximal"] = lambda f=on_array: f(array)
        if on_tensor is not None:
            arms["ProxTorch"] = lambda f=on_tensor: f(v)
        arms["out="] = lambda f=ours: f(v, buffer)
        for words, call in arms.items():
            try:
                difference = float(np.abs(own - as_array(call())).max())
            except Exception as error:  # noqa: BLE001 - a failure of the peer is a result
                print(f"{name:20} {words:10} failed: {type(error).__name__}: {str(error)[:60]}")
                continue
            begun = time.perf_counter()
            call()
            groups = GROUPS if time.perf_counter() - begun < 0.02 else FEW_GROUPS
            found = against(lambda f=ours: f(v, None), call, cuda, groups)
            low, middle, high = np.quantile(found["ratio"], [0.25, 0.5, 0.75])
            both = " ".join(
                f"{who} {np.median(rows[:, 0]):7.2f} ({np.mean(rows[:, 1]):.0f})"
                for who, rows in found.items()
                if who != "ratio"
            )
            quartiles = f"{middle:6.2f}x ours [{low:.2f}, {high:.2f}]"
            print(f"{name:20} {words:10} {quartiles} {both}  differs {difference:.0e}")


if __name__ == "__main__":
    main()
