"""`tameopt bench`: how fast the optimizers are on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Quiet, emit_json, say, terminal

What = Annotated[str, typer.Argument(metavar="optimizers", help="What to measure.")]
Cases = Annotated[
    list[str] | None,
    typer.Option(
        "--case",
        help="small, sharded (small tensors as DTensors), gpt2-medium or one:N (a tensor of N elements); repeatable.",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None, typer.Option("--optimizer", help="An optimizer by name; repeatable.", show_default=False)
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Steps of each implementation that are timed.")]
Compiled = Annotated[bool, typer.Option("--compiled", help="Also torch.compile'd optimizers (minutes each).")]


def bench(
    what: What = "optimizers",
    cases: Cases = None,
    names: Names = None,
    device: Device = "cpu",
    repeats: Repeats = 15,
    compiled: Compiled = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Time a step of every optimizer against torch's, as a share of the speed of a copy."""
    from tameopt import optim
    from tameopt.optim.benchmark import measure

    if what != "optimizers":
        raise ValueError(f"tameopt bench measures optimizers, got {what!r}: tameopt bench optimizers.")
    elementwise = [name for name in optim.names() if optim.entry(name).gradients == "dense"]
    chosen = names or elementwise
    for name in chosen:
        if optim.entry(name).gradients != "dense":
            raise ValueError(f"the benchmark takes elementwise optimizers, {name} is none: {', '.join(elementwise)}.")
    large = ["one:256_000_000", "gpt2-medium"] if device.startswith("cuda") else ["one:4_000_000"]
    table = measure(
        cases or [*large, "small"],
        chosen,
        device=device,
        repeats=repeats,
        compiled=compiled,
        progress=lambda line: say(line, quiet),
    )
    if as_json:
        emit_json(table.as_json())
        return
    _show(table)


def _show(table: Any) -> None:
    from rich.table import Table

    console = terminal()
    shown = Table(box=None, header_style="bold")
    for title in ("Case", "Optimizer", "Implementation", "ms a step", "quartiles", "of a copy", "first step"):
        shown.add_column(title, justify="left" if title in ("Case", "Optimizer", "Implementation") else "right")
    for row in table.rows:
        if row.failure:
            shown.add_row(row.case, row.optimizer, row.implementation, "failed", row.failure[:40], "", "")
            continue
        shown.add_row(
            row.case,
            row.optimizer,
            row.implementation,
            f"{row.median * 1e3:.3f}",
            f"{row.low * 1e3:.3f}-{row.high * 1e3:.3f}",
            f"{row.roofline:.2f}",
            f"{row.first:.2f} s",
        )
    console.print(shown)
    copies = ", ".join(f"{case} {bandwidth / 1e9:.1f} GB/s" for case, bandwidth in table.bandwidth.items())
    console.print(f"a copy of the same size: {copies}")
    console.print(", ".join(f"{name} {version}" for name, version in table.versions.items()))


ENTRY = Command("bench", Panel.TOOLS, bench)
