"""How close does a step of each optimizer come to the speed of memory, and how far ahead of torch's is it?

    python benchmarks/optimizers.py                         # two-core CPU: about five minutes
    python benchmarks/optimizers.py --device cuda           # one tensor of 256M elements, GPT-2 medium, small tensors
    python benchmarks/optimizers.py --device cuda --compiled  # with torch.compile'd optimizers, minutes each

Prints a Markdown table; --json FILE also writes the raw figures. What memory allows is the ratio of bytes, foreach's
counted operation by operation. "Per byte": a step's time over the fewest bytes it moves, against torch's fused Adam.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch

from tameopt import optim
from tameopt.optim.benchmark import Row, Table, measure


def markdown(table: Table) -> str:
    """One line an optimizer and case: milliseconds of each implementation, shares of the roofline, ratios."""
    lines = [
        "| case | optimizer | tameopt ms (quartiles) | share of copy | first step s | extra MB | torch's best ms | "
        "torch / tameopt | foreach / tameopt | bytes: foreach / tameopt | per byte: torch's fused Adam / tameopt | "
        "others / tameopt (first step s) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    pairs = dict.fromkeys((row.case, row.optimizer) for row in table.rows)
    for case, name in pairs:
        rows = {r.implementation: r for r in table.rows if (r.case, r.optimizer) == (case, name)}
        ours = rows["tameopt"]
        if ours.failure:
            lines.append(f"| {case} | {name} | failed: {ours.failure} | | | | | | | | | |")
            continue
        others = [r for label, r in rows.items() if label != "tameopt" and not r.failure]
        torchs = [r for r in others if r.implementation in ("torch fused", "torch foreach")]
        best = min(torchs, key=lambda r: r.median, default=None)
        foreach = rows.get("torch foreach")
        shown = f"{best.median * 1e3:.2f} ({best.implementation})" if best else "-"
        ratio = f"{best.median / ours.median:.2f}" if best else "-"
        rest = ", ".join(
            f"{r.implementation} {r.median / ours.median:.2f} ({r.first:.1f})" for r in others if r not in torchs
        )
        unfused = f"{foreach.median / ours.median:.2f}" if foreach and not foreach.failure else "-"
        counted = f"{foreach.counted / ours.bytes:.2f}" if foreach and foreach.counted else "-"
        adam = _row(table, case, "Adam", "torch fused")
        per_byte = f"{adam.median / adam.bytes / (ours.median / ours.bytes):.2f}" if adam else "-"
        lines.append(
            f"| {case} | {name} | {ours.median * 1e3:.2f} ({ours.low * 1e3:.2f}-{ours.high * 1e3:.2f}) | "
            f"{ours.roofline:.2f} | {ours.first:.2f} | {ours.extra_memory / 1e6:.0f} | "
            f"{shown} | {ratio} | {unfused} | {counted} | {per_byte} | {rest or '-'} |"
        )
    lines += [f"\nfailed: {r.case} {r.optimizer} {r.implementation}: {r.failure}" for r in table.rows if r.failure]
    lines.append("\ncopy: " + ", ".join(f"{case} {b / 1e9:.1f} GB/s" for case, b in table.bandwidth.items()))
    lines.append(", ".join(f"{name} {version}" for name, version in table.versions.items()))
    return "\n".join(lines)


def _row(table: Table, case: str, optimizer: str, implementation: str) -> Row | None:
    wanted = (case, optimizer, implementation)
    found = (r for r in table.rows if (r.case, r.optimizer, r.implementation) == wanted and not r.failure)
    return next(found, None)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    elementwise = [name for name in optim.names() if optim.entry(name).gradients == "dense"]
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--optimizers", nargs="*", default=elementwise)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    large = ["one:256_000_000", "gpt2-medium"] if arguments.device.startswith("cuda") else ["one:16_000_000"]
    table = measure(
        arguments.cases or [*large, "small"],
        arguments.optimizers,
        device=arguments.device,
        repeats=arguments.repeats,
        compiled=arguments.compiled,
        engine=arguments.engine,
        progress=lambda line: print(line, file=sys.stderr),
    )
    print(markdown(table))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(table.as_json(), file, indent=1)


if __name__ == "__main__":
    main()
