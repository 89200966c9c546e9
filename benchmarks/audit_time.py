"""Where does the time of an audit go?

Question: how long does `tameopt audit` take on digits-mlp, and on a finished 10,000-step run of it, by part: train,
record, each analysis, the rest?

    python benchmarks/audit_time.py --repeats 3

Wall time and process CPU time are both given: on a busy machine only the second is a property of the program.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

import tameopt as tame
from tameopt.audit.conduct import audit
from tameopt.audit.training import train
from tameopt.run import Run


def main() -> None:
    """Time the parts and print them, median of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--long-steps", type=int, default=10_000, help="length of the finished run; 0 leaves it out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"tameopt {tame.__version__}, torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, "
          f"{options.threads} threads")  # fmt: skip
    parts: dict[str, list[float]] = defaultdict(list)
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = time.perf_counter(), time.process_time()
            diagnosis = audit("digits-mlp", out=Path(folder) / "run")
            parts["whole audit, wall"].append(time.perf_counter() - wall)
            parts["whole audit, CPU"].append(time.process_time() - cpu)
            times = diagnosis.reproducibility
            parts["training and recording"].append(times.seconds_training)
            parts["  of which recording"].append(times.seconds_recording)
            parts["analyses and judging"].append(times.seconds_analysing)
            for record in diagnosis.analyses:
                name = f"  {record.name}" + ("" if record.status == "done" else f" ({record.status})")
                parts[name].append(record.actual.seconds)
            if repeat == 0:
                size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
                print(f"verdict: {diagnosis.verdict}; record, diagnosis: {size / 1e6:.1f} MB")
    if options.long_steps:
        finished(options.long_steps, options.repeats, parts)
    for name, seconds in parts.items():
        low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        print(f"{name:40} {middle:8.2f} s   [{low:.2f}, {high:.2f}]")
    walls = parts["whole audit, wall"]
    print(f"medians of {options.repeats}; the first repeat, with imports and warm-up, took {walls[0]:.1f} s")


def finished(steps: int, repeats: int, parts: dict[str, list[float]]) -> None:
    """Audit a run that is there already."""
    with tempfile.TemporaryDirectory() as folder:
        problem = tame.problems.load("digits-mlp")
        train(problem, lr=0.05, steps=steps, batch_size=64, out=Path(folder) / "long").close()
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            audit(Run.open(Path(folder) / "long"), problem=problem)
            parts[f"audit of a finished {steps:,}-step run, wall"].append(time.perf_counter() - wall)
            parts[f"audit of a finished {steps:,}-step run, CPU"].append(time.process_time() - cpu)


if __name__ == "__main__":
    main()
