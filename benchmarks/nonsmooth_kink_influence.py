"""Does the derivative chosen at 0 matter on digits, and in which precision?

Question (Bertoin et al. 2021): on which share of mini-batches do gradients with another ReLU'(0), or another entry of
a max-pooling tie, differ from PyTorch's at the same theta, by how much, and does training with them end elsewhere
than rounding takes it? Both operators for ReLU'(0): the chain rule *multiplies* by it, the published code *sets*
the gradient to it.

    OMP_NUM_THREADS=1 python benchmarks/nonsmooth_kink_influence.py [STEPS [REPEATS]]       (about 15 minutes)
"""

from __future__ import annotations

import sys
import time

import torch

import tameopt as tame
from tameopt.nonsmooth import kink_influence

LR = {"digits-mlp": 0.5, "digits-cnn": 0.3}


def main() -> None:
    """Print one table a network."""
    given = [int(word) for word in sys.argv[1:]]
    steps, repeats = given[0] if given else 300, given[1] if len(given) > 1 else 3
    print(
        "torch", torch.__version__, "cpu threads", torch.get_num_threads(), "seed 0, batches of 64,", steps, "steps"
    )
    for name, lr in LR.items():
        begun = time.perf_counter()
        found = kink_influence(tame.problems.load(name), steps=steps, repeats=repeats, lr=lr)
        print(f"\n{name}, lr {lr}, {repeats} trainings a choice, {time.perf_counter() - begun:.0f} s")
        for dtype, (active, entries) in found.active.items():
            ties, windows = found.ties[dtype]
            print(f"  {dtype}: {active:.2f} of {entries:,} ReLU inputs at 0, {ties:.1f} of {windows:,} windows tied")
        print(
            f"{'dtype':9} {'choice':34} {'differ':>9} {'> 4 eps':>8} {'median':>8} {'most':>8} {'drift':>8} accuracy"
        )
        for row in found.rows:
            drift = sum(row.drifts) / repeats
            mean, spread = row.accuracy
            print(
                f"{row.dtype:9} {row.choice:34} {f'{row.differing}/{row.batches}':>9} {row.beyond_rounding:8} "
                f"{row.typical:8.1e} {row.largest:8.1e} {drift:8.1e} {mean:.4f} +- {spread:.4f} ({row.diverged} lost)"
            )


if __name__ == "__main__":
    main()
