"""`tameopt scale`: what each probe would cost on a large sharded training, before it is started."""

from __future__ import annotations

from typing import Annotated

import typer

from tameopt.commands._common import Command, Json, Panel, emit_json, terminal

Parameters = Annotated[float, typer.Option("--parameters", "-d", help="Parameters of the model, as in 7e9.")]
Gpus = Annotated[int, typer.Option("--gpus", "-g", help="GPUs that theta is sharded over.")]
Tokens = Annotated[float, typer.Option("--tokens", help="Tokens in a training step.")]
DataTokens = Annotated[float, typer.Option("--data-tokens", help="Tokens of the data that F is evaluated on.")]
Flops = Annotated[float, typer.Option("--flops", help="Sustained arithmetic of a GPU, 1/s.")]
Bandwidth = Annotated[float, typer.Option("--bandwidth", help="Of collectives, bytes/s for each GPU.")]
Memory = Annotated[float, typer.Option("--memory", help="Of a GPU, bytes.")]
Share = Annotated[float, typer.Option("--share", help="The budget, as a share of the training's time.")]


def scale(
    parameters: Parameters = 1e9,
    gpus: Gpus = 64,
    tokens: Tokens = 4e6,
    data_tokens: DataTokens = 1e6,
    flops: Flops = 4e14,
    bandwidth: Bandwidth = 4e10,
    memory: Memory = 8e10,
    share: Share = 0.02,
    as_json: Json = False,
) -> int | None:
    """Plan past one machine: seconds, communication and memory of each probe of a watched, sharded transformer.

    A model of the costs, no measurement: its counts are checked in the tests, its rates are what you give.
    """
    _check({"--parameters": parameters, "--gpus": gpus, "--tokens": tokens, "--data-tokens": data_tokens,
            "--flops": flops, "--bandwidth": bandwidth, "--memory": memory})  # fmt: skip
    if not 0 < share < 1:
        raise ValueError(f"--share must be between 0 and 1 such as 0.02, got {share}.")
    from rich.table import Table
    from rich.text import Text

    from tameopt.integrations import scale as costs
    from tameopt.report.numbers import seconds

    model = costs.Transformer.of_size(parameters, tokens=int(tokens))
    cluster = costs.Cluster(gpus, flops, bandwidth, memory=memory)
    step = costs.training_step(model, cluster)
    listed = costs.probes(model, cluster, int(data_tokens))
    if as_json:
        emit_json(
            {
                "model": model,
                "cluster": cluster,
                "step_seconds": step.seconds(cluster),
                "probes": [
                    {"probe": one, "seconds": one.seconds(cluster),
                     "steps_between": costs.steps_between(one, model, cluster, share)}
                    for one in listed
                ],
            }
        )  # fmt: skip
        return None
    console = terminal()
    console.print(
        Text(
            f"{model.d:.3g} parameters ({model.layers} layers of width {model.width:,}) on {gpus:,} GPUs: "
            f"a step of {tokens:.3g} tokens takes about {seconds(step.seconds(cluster))}",
            "bold",
        )
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("Probe")
    for heading in ("Seconds", "Once in … steps", "Received a GPU", "Memory a GPU"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in listed:
        table.add_row(
            one.name,
            f"{one.seconds(cluster):.2g}",
            f"{costs.steps_between(one, model, cluster, share):,}",
            _size(one.bytes),
            _size(one.memory),
            Text(f"not done: {one.possible}" if one.possible else "", "dim"),
        )
    console.print(table)
    return None


def _check(numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be > 0, got {number:g}.")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


ENTRY = Command("scale", Panel.TOOLS, scale)
