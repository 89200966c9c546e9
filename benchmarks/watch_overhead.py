"""What does watching cost? The same training loop with and without `tame.watch`, in one process, in turn.

Prints, for digits-mlp, a small CNN and a small transformer on the CPU: median seconds of the plain arm, the ratio of
the pairs (quartiles; of wall time, and of CPU time), the ratio of the quickest of each arm (which a noisy machine
disturbs least), the watch's own account of its cost, and whether the trained parameters are bit-identical. Then the
peak memory of a process that trains with and without it.

With --blocks N: the two loops go on in turn, N blocks of 50 steps each, which a drifting machine disturbs least.
With --processes P too: that in P processes, for two equal loops differ by a percent by where their memory lies; the
mean of the ratios and its standard error.

    python benchmarks/watch_overhead.py [--steps 3000] [--pairs 7] [--threads 2] [--only CNN]
    python benchmarks/watch_overhead.py --blocks 200 --processes 10 --threads 1
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import nn

import tameopt as tame
from tameopt.problems._digits import digits


class SmallTransformer(nn.Module):
    """Eight rows of eight pixels as eight tokens, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x.view(-1, 8, 8))).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def train(build: Callable[[], nn.Module], steps: int, watched: bool) -> tuple[float, float, torch.Tensor, float, int]:
    """(wall and CPU seconds of the loop, final parameters, the watch's own account of its share, probes)."""
    torch.manual_seed(0)
    model = build()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images, labels = digits()
    indices = torch.randint(len(labels), (steps, 64))
    watching = None
    with tempfile.TemporaryDirectory() as folder:
        if watched:
            watching = tame.watch(model, optimizer, loss_fn, (images, labels), out=folder, name="bench")
        begun, cpu = time.perf_counter(), time.process_time()
        for step in range(steps):
            index = indices[step]
            optimizer.zero_grad()
            loss_fn(model(images[index]), labels[index]).backward()
            optimizer.step()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        used, probes = 0.0, 0
        if watching is not None:
            watching.close()
            used, probes = watching.budget.used, watching.run.meta["watching"]["probes"]
    return seconds, cpu, torch.cat([p.detach().reshape(-1) for p in model.parameters()]), used, probes


def in_turn(build: Callable[[], nn.Module], blocks: int) -> dict[str, float | list[float]]:
    """Microseconds of a step of two loops that go on in turn, one of them watched, and their ratio."""
    images, labels = digits()
    loss_fn = nn.CrossEntropyLoss()
    torch.manual_seed(0)
    indices = torch.randint(len(labels), (50, 64))
    plain, seen = build(), build()
    loops = [(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)) for model in (plain, seen)]
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        with tame.watch(seen, loops[1][1], loss_fn, (images, labels), out=folder, name="bench") as watching:
            for block in range(blocks):
                for which in (0, 1) if block % 2 else (1, 0):
                    model, optimizer = loops[which]
                    begun = time.perf_counter()
                    for index in indices:
                        optimizer.zero_grad()
                        loss_fn(model(images[index]), labels[index]).backward()
                        optimizer.step()
                    seconds[which].append(time.perf_counter() - begun)
                    if which == 0:  # the watch's clock stands still while the other loop runs
                        watching.budget.started += seconds[0][-1]
        used = watching.budget.used
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return {
        "microseconds a step without, with": [round(2e4 * statistics.median(part), 1) for part in seconds],
        "ratio of the sums": round(sum(seconds[1]) / sum(seconds[0]), 4),
        "ratio of the blocks": [round(q, 4) for q in statistics.quantiles(ratios, n=4)],
        "own account": round(used, 4),
    }


LOOPS = (("digits-mlp", mlp, 1.0), ("CNN", cnn, 0.2), ("transformer", SmallTransformer, 0.2))


def over_processes(name: str, blocks: int, threads: int, processes: int) -> dict[str, str | int]:
    """`in_turn` in several processes: mean and standard error of what each printed."""
    command = [sys.executable, __file__, "--only", name, "--blocks", str(blocks), "--threads", str(threads)]
    lines = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(processes)]
    runs = [json.loads(line.splitlines()[-1]) for line in lines]

    def summary(key: str) -> str:
        values = [run[key] for run in runs]
        return f"{statistics.mean(values):.4f} +- {statistics.stdev(values) / len(values) ** 0.5:.4f}"

    plain = statistics.median(run["microseconds a step without, with"][0] for run in runs)
    return {
        "loop": name,
        "processes": processes,
        "steps each": 50 * blocks,
        "microseconds a step": round(plain, 1),
        "ratio of the sums": summary("ratio of the sums"),
        "own account": summary("own account"),
    }


def peak_memory(name: str, steps: int, watched: bool) -> float:
    """MB resident at most, of a process of its own; imports, the same in both arms, are counted."""
    command = [sys.executable, __file__, "--alone", name, "--steps", str(steps), *(["--watched"] if watched else [])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def alone(name: str, steps: int, watched: bool) -> None:
    """One training; prints the peak of this process in MB."""
    (build,) = (build for known, build, _ in LOOPS if known == name)
    train(build, steps, watched)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="loops whose name contains this; with all of --steps")
    parser.add_argument("--blocks", type=int, default=0, help="the two loops in turn, this many blocks of 50 steps")
    parser.add_argument("--processes", type=int, default=1, help="with --blocks: in this many processes")
    parser.add_argument("--alone", default="", help="train this loop alone and print the peak memory")
    parser.add_argument("--watched", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(options.alone, options.steps, options.watched)
        return
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, {options.steps} steps")
    rows = []
    for name, build, factor in LOOPS:
        if options.only not in name:
            continue
        if options.blocks and options.processes > 1:
            print(json.dumps(over_processes(name, options.blocks, options.threads, options.processes)), flush=True)
            continue
        if options.blocks:
            print(json.dumps({"loop": name, **in_turn(build, options.blocks)}))
            continue
        steps = options.steps if options.only else max(int(options.steps * factor), 50)
        train(build, steps // 4, False)
        ratios, cpu_ratios, plain_seconds, watched_seconds, used, probes, identical = [], [], [], [], 0.0, 0, True
        for pair in range(options.pairs):
            # in turn, the first of a pair alternating: drift of the machine cancels
            arms = (False, True) if pair % 2 else (True, False)
            results = {watched: train(build, steps, watched) for watched in arms}
            ratios.append(results[True][0] / results[False][0])
            cpu_ratios.append(results[True][1] / results[False][1])
            plain_seconds.append(results[False][0])
            watched_seconds.append(results[True][0])
            used, probes = results[True][3], results[True][4]
            identical &= bool(torch.equal(results[True][2], results[False][2]))
        quartiles = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "loop": name,
                "steps": steps,
                "seconds without": round(statistics.median(plain_seconds), 3),
                "ratio with/without": [round(q, 4) for q in quartiles],
                "the quickest with/without": round(min(watched_seconds) / min(plain_seconds), 4),
                "ratio of CPU time": [round(q, 4) for q in statistics.quantiles(cpu_ratios, n=4)],
                "own account": round(used, 4),
                "probes": probes,
                "bit-identical": identical,
                "peak MB without, with": [round(peak_memory(name, steps, watched)) for watched in (False, True)],
            }
        )
        print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()
