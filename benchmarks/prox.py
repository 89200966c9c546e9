"""How fast is the prox catalogue against pyproximal on a batch of a million?

Question: milliseconds for one proximal map of 10^6 float64 entries, against pyproximal's operator in the same
process, and the largest difference of the results (its log, l0 and tv1d answer otherwise: another algorithm, an
approximate one, or another parameter).

    python benchmarks/prox.py        (needs: pip install --no-deps pyproximal pylops)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth import prox

ENTRIES, REPEATS = 10**6, 7


def peers() -> dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[np.ndarray], Any]]]:
    """name -> (ours on a tensor, theirs on an array)."""
    import pyproximal

    l1, l0, l2 = pyproximal.L1(), pyproximal.L0(), pyproximal.Euclidean()
    log, box = pyproximal.Log(1.0, 1.0), pyproximal.Box(-0.5, 0.5)
    return {
        "l1": (lambda v: prox.l1(v, 0.5), lambda v: l1.prox(v, 0.5)),
        "l0": (lambda v: prox.l0(v, 0.5), lambda v: l0.prox(v, 0.5)),
        "l2 (one vector)": (lambda v: prox.l2(v, 0.5), lambda v: l2.prox(v, 0.5)),
        "box": (lambda v: prox.box(v, low=-0.5, high=0.5), lambda v: box.prox(v, 1.0)),
        "log_sum": (lambda v: prox.log_sum(v, 0.1), lambda v: log.prox(v, 0.1)),
        "simplex (one vector)": (
            lambda v: prox.simplex(v),
            lambda v: pyproximal.Simplex(ENTRIES, 1.0).prox(v, 1.0),
        ),
        "tv1d (one vector)": (lambda v: prox.tv1d(v, 0.5), lambda v: pyproximal.TV((ENTRIES,), 0.5).prox(v, 1.0)),
    }


def timed(call: Callable[[], Any], repeats: int = REPEATS) -> tuple[Any, float, float, float]:
    """The result, and median and quartiles of milliseconds after one warm-up."""
    result = call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return result, *(float(q) for q in np.quantile(times, [0.5, 0.25, 0.75]))


def main() -> None:
    """Print a table; an entry that the peer cannot do, or does otherwise, is printed as it is."""
    v = torch.randn(ENTRIES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    array = v.numpy()
    print(
        "torch", torch.__version__, "pyproximal", version("pyproximal"), "threads", torch.get_num_threads(), "seed 0"
    )
    for name, (ours, theirs) in peers().items():
        x, middle, low, high = timed(lambda ours=ours: ours(v))
        slow = 1 if name.startswith("tv") else REPEATS
        try:
            y, other, other_low, other_high = timed(lambda theirs=theirs: theirs(array), slow)
        except Exception as error:  # noqa: BLE001 - a failure of the peer is a result
            print(f"{name:22} ours {middle:8.2f} ms   pyproximal failed: {type(error).__name__}: {str(error)[:60]}")
            continue
        difference = float(np.abs(x.numpy() - np.asarray(y)).max())
        print(
            f"{name:22} ours {middle:8.2f} [{low:7.2f}, {high:7.2f}] ms   pyproximal {other:8.2f} [{other_low:7.2f}, "
            f"{other_high:7.2f}] ms   ratio {other / middle:6.1f}   difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
