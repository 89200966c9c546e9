"""How fast is the prox catalogue against pyproximal and ProxTorch on a batch of a million?

Question: milliseconds for one proximal map of 10^6 entries in the same process as the peers' operators (pyproximal:
numpy, on the CPU, float64; ProxTorch: torch, on the device), and the largest difference of the results (pyproximal's
log, l0 and tv1d answer otherwise: another algorithm, an approximate one, or another parameter). Ours is timed both as
the peers are, returning a fresh tensor, and into a buffer (`out=`), which the peers do not have.

    python benchmarks/prox.py [--device cuda]    (needs: pip install --no-deps pyproximal pylops proxtorch)
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth import prox

ENTRIES, REPEATS = 10**6, 41
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
    return {
        "l1": (lambda v, out: prox.l1(v, 0.5, out=out), lambda v: l1.prox(v, 0.5), lambda v: soft.prox(v, 0.5)),
        "l0": (lambda v, out: prox.l0(v, 0.5, out=out), lambda v: l0.prox(v, 0.5), None),
        "l2 (one vector)": (lambda v, out: prox.l2(v, 0.5, out=out), lambda v: l2.prox(v, 0.5), None),
        "l2_squared": (
            lambda v, out: prox.l2_squared(v, 0.5, out=out),
            lambda v: squared.prox(v, 0.5),
            lambda v: shrink.prox(v, 0.5),
        ),
        "elastic_net": (lambda v, out: prox.elastic_net(v, 0.5, out=out), None, lambda v: elastic.prox(v, 0.5)),
        "box": (lambda v, out: prox.box(v, low=-0.5, high=0.5, out=out), lambda v: box.prox(v, 1.0), clip.prox),
        "ball_l2 (one vector)": (lambda v, out: prox.ball_l2(v, out=out), lambda v: ball.prox(v, 1.0), disc.prox),
        "nonnegative": (lambda v, out: prox.nonnegative(v, out=out), None, positive.prox),
        "log_sum": (lambda v, out: prox.log_sum(v, 0.1, out=out), lambda v: log.prox(v, 0.1), None),
        "simplex (one vector)": (lambda v, out: prox.simplex(v, out=out), lambda v: simplex.prox(v, 1.0), None),
        "tv1d (one vector)": (lambda v, out: prox.tv1d(v, 0.5, out=out), lambda v: total.prox(v, 1.0), None),
    }  # fmt: skip


def timed(calls: dict[str, Callable[[], Any]], cuda: bool, repeats: int) -> dict[str, tuple[Any, np.ndarray] | str]:
    """By name the result and milliseconds of each repeat, the calls in turn; a failure is a result in words.

    On a CPU the time is this process's own (other load delays it, and is not in it).
    """
    clock = time.perf_counter if cuda else time.process_time
    found: dict[str, tuple[Any, np.ndarray] | str] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-2, repeats):
        first = repeat % len(calls)  # each comes first in turn: the first finds its data out of the cache
        for name, call in [*calls.items()][first:] + [*calls.items()][:first]:
            if isinstance(found.get(name), str):
                continue
            try:
                if cuda:
                    torch.cuda.synchronize()
                begun = clock()
                result = call()
                if cuda:
                    torch.cuda.synchronize()
            except Exception as error:  # noqa: BLE001 - a failure of the peer is a result
                found[name] = f"failed: {type(error).__name__}: {str(error)[:50]}"
                continue
            if repeat >= 0:
                times[name].append(1e3 * (clock() - begun))
            found[name] = (result, np.array(times[name]))
    return found


def as_array(result: Any) -> np.ndarray:
    """A result of any of the libraries as a numpy array."""
    return result.cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


def main() -> None:
    """Print a table; an entry that a peer cannot do, or does otherwise, is printed as it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    cuda = device != "cpu"
    v = torch.randn(ENTRIES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    array, v = v.numpy(), v.to(device)
    buffer = torch.empty_like(v)
    print(
        f"torch {torch.__version__} pyproximal {version('pyproximal')} ProxTorch {version('proxtorch')} device "
        f"{torch.cuda.get_device_name() if cuda else 'cpu'} threads {torch.get_num_threads()} float64 seed 0, "
        f"{REPEATS} repeats in turn, ms{'' if cuda else ' of CPU time'}; load {os.getloadavg()[0]:.1f}"
    )
    for name, (ours, on_array, on_tensor) in peers().items():
        slow = name.startswith("tv")
        if cuda and slow:
            continue
        calls: dict[str, Callable[[], Any]] = {"ours": lambda f=ours: f(v, None)}
        if not slow:
            calls["ours, out="] = lambda f=ours: f(v, buffer)
        if on_array is not None:
            calls["pyproximal"] = lambda f=on_array: f(array)
        if on_tensor is not None:
            calls["ProxTorch"] = lambda f=on_tensor: f(v)
        found = timed(calls, cuda, 1 if slow else REPEATS)
        own = found["ours"]
        assert not isinstance(own, str), own
        print(name)
        for words, outcome in found.items():
            if isinstance(outcome, str):
                print(f"    {words:12} {outcome}")
                continue
            low, middle, high = np.quantile(outcome[1], [0.25, 0.5, 0.75])
            difference = float(np.abs(as_array(own[0]) - as_array(outcome[0])).max())
            ratio = f"{middle / np.median(own[1]):6.2f}x ours"
            if not slow:
                ratio += f" {middle / np.median(found['ours, out='][1]):6.2f}x ours with out="
            print(f"    {words:12} {middle:8.2f} [{low:.2f}, {high:.2f}] {ratio}   differs {difference:.0e}")


if __name__ == "__main__":
    main()
