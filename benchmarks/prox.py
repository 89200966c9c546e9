"""How fast is the prox catalogue against pyproximal and ProxTorch on a batch of a million?

Question: milliseconds for one proximal map of 10^6 entries in the same process as the peers' operators (pyproximal:
numpy, on the CPU, float64; ProxTorch: torch, on the device), and the largest difference of the results (pyproximal's
log, l0 and tv1d answer otherwise: another algorithm, an approximate one, or another parameter).

Every peer is timed against ours alone, each in a process of its own (a library's memory is no other's), in turn:
ours, peer, peer, ours and then the other way about. Each call comes right after one of its own that is not timed, so
that it finds the memory and the caches that itself left; all return a fresh array, freed before the next call, and
the page faults of it are counted. The ratio is the median over the groups of four. `out=` (into a buffer, which the
peers do not have) is timed against ours in the same way.

    python benchmarks/prox.py [--device cuda] [l2 ...]   # pip install --no-deps pyproximal pylops proxtorch
"""

from __future__ import annotations

import argparse
import multiprocessing
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


def call_of(name: str, who: str, device: str) -> Callable[[], Any]:
    """The map `name` as one library makes it, on the same vector."""
    v = torch.randn(ENTRIES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    ours, on_array, on_tensor = peers()[name]
    if who == "pyproximal":
        assert on_array is not None
        array = v.cpu().numpy()
        return lambda: on_array(array)
    if who == "ProxTorch":
        assert on_tensor is not None
        return lambda: on_tensor(v)
    buffer = torch.empty_like(v) if who == "out=" else None
    return lambda: ours(v, buffer)


def serve(name: str, who: str, device: str, pipe: Any) -> None:
    """Time a call whenever the other end asks."""
    torch.set_num_threads(1)
    call = call_of(name, who, device)
    while pipe.recv():
        pipe.send(once(call, device != "cpu"))


def against(name: str, peer: str, device: str) -> dict[str, np.ndarray]:
    """Milliseconds and faults of both, (2 groups, 2) each, and the ratio peer over ours of each group of four."""
    context, pipes, workers = multiprocessing.get_context("spawn"), {}, []
    for who in ("ours", peer):
        pipes[who], other = context.Pipe()
        workers.append(context.Process(target=serve, args=(name, who, device, other)))
        workers[-1].start()

    def timed(who: str) -> tuple[float, int]:
        pipes[who].send(True)
        found: tuple[float, int] = pipes[who].recv()
        return found

    slow = max(timed(who)[0] for who in ("ours", peer)) > 20
    rows: dict[str, list[Any]] = {"ours": [], peer: [], "ratio": []}
    for group in range(FEW_GROUPS if slow else GROUPS):
        order = ("ours", peer, peer, "ours") if group % 2 else (peer, "ours", "ours", peer)
        four = [(who, timed(who)) for who in order]
        for who, times in four:
            rows[who].append(times)
        rows["ratio"].append(
            sum(ms for who, (ms, _) in four if who == peer) / sum(ms for who, (ms, _) in four if who == "ours")
        )
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(False)
        worker.join()
    return {who: np.array(found) for who, found in rows.items()}


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
    print(
        f"torch {torch.__version__} pyproximal {version('pyproximal')} ProxTorch {version('proxtorch')} device "
        f"{torch.cuda.get_device_name() if device != 'cpu' else 'cpu'}, one thread, float64 seed 0, "
        f"ms{'' if device != 'cpu' else ' of CPU time'} as medians [quartiles] (page faults); "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for name, (_, on_array, on_tensor) in peers().items():
        if (names and name.split()[0] not in names) or (device != "cpu" and name.startswith("tv")):
            continue
        own = as_array(call_of(name, "ours", device)())
        there = [("pyproximal", on_array), ("ProxTorch", on_tensor)]
        for who in [*(one for one, call in there if call is not None), "out="]:
            try:
                difference = float(np.abs(own - as_array(call_of(name, who, device)())).max())
            except Exception as error:  # noqa: BLE001 - a failure of the peer is a result
                print(f"{name:20} {who:10} failed: {type(error).__name__}: {str(error)[:60]}")
                continue
            found = against(name, who, device)
            low, middle, high = np.quantile(found["ratio"], [0.25, 0.5, 0.75])
            both = " ".join(
                f"{one} {np.median(rows[:, 0]):7.2f} ({np.mean(rows[:, 1]):.0f})"
                for one, rows in found.items()
                if one != "ratio"
            )
            print(f"{name:20} {middle:6.2f}x ours [{low:.2f}, {high:.2f}] {both}  differs {difference:.0e}")


if __name__ == "__main__":
    main()
