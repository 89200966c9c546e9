"""How fast a step is: every elementwise optimizer against torch's, in one process, as a share of the roofline.

The roofline of a step is the fewest bytes a fused step must move (read theta, g and the states, write theta and the
states) over the bandwidth of a copy measured beside it. Implementations and the copy take turns step by step, so that
whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from tameopt.optim.torch_optimizer import RuleOptimizer
from tameopt.optim.traffic import bytes_moved

Shapes = tuple[tuple[int, ...], ...]

# OpenMP's threads spin for some milliseconds after their work, and would take the cores from whoever comes next.
_SPIN = 0.02


def gpt2_medium() -> Shapes:
    """The 292 parameter tensors of GPT-2 medium: 354,823,168 elements."""
    d = 1024
    block = ((d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,))
    return ((50257, d), (1024, d), *(shape for _ in range(24) for shape in block), (d,), (d,))


def small_tensors() -> Shapes:
    """1,000 tensors of 64 x 33 and of 64 elements in turn."""
    return ((64, 33), (64,)) * 500


def case(name: str) -> Shapes:
    """Shapes of a case: "small", "sharded" (the same as DTensors), "gpt2-medium", or "one:N" for one tensor."""
    if name in ("small", "sharded"):
        return small_tensors()
    if name == "gpt2-medium":
        return gpt2_medium()
    kind, _, count = name.partition(":")
    if kind == "one" and count.replace("_", "").isdigit():
        return ((int(count),),)
    raise ValueError(f"a case is small, sharded, gpt2-medium or one:N with N the number of elements, got {name!r}.")


@dataclass(frozen=True)
class Row:
    """One implementation of one optimizer in one case.

    first: seconds of the first step (compilation included); median, low, high: seconds of a step and its quartiles;
    bytes: fewest a fused step moves; roofline: bytes / (copy bandwidth * median); counted: bytes that the operations
    of a foreach step move, 0 for the others; failure: why there are no times.
    """

    case: str
    optimizer: str
    implementation: str
    first: float
    median: float
    low: float
    high: float
    bytes: int
    roofline: float
    extra_memory: int
    failure: str = ""
    counted: int = 0


@dataclass(frozen=True)
class Table:
    """All rows, the copy bandwidth in bytes a second of each case, and what they were measured with."""

    rows: tuple[Row, ...]
    bandwidth: Mapping[str, float]
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The table as plain data."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "bandwidth": dict(self.bandwidth),
            "versions": dict(self.versions),
        }


def measure(
    cases: Sequence[str],
    names: Sequence[str],
    *,
    device: str = "cpu",
    repeats: int = 15,
    compiled: bool = False,
    engine: str = "auto",
    progress: Callable[[str], None] = lambda line: None,
) -> Table:
    """The table.

    cases: see `case`; names: elementwise optimizers of `tameopt.optim`; compiled: also torch.compile'd optimizers
    (minutes each); progress: called with a line now and then. Cost: about (repeats + 1) steps of each implementation.
    """
    from tameopt import optim

    rows: list[Row] = []
    bandwidth: dict[str, float] = {}
    for label in cases:
        shapes = case(label)
        copies: list[float] = []
        with _alone() if label == "sharded" else nullcontext():
            for name in names:
                progress(f"{label}: {name}")
                kinds = _implementations(optim.entry(name), engine, compiled, device)
                rows += _race(label, name, shapes, kinds, copies, device, repeats)
        bandwidth[label] = float(np.median(copies))
    return Table(tuple(rows), bandwidth, _versions(device))


def _copy(elements: int, device: str) -> tuple[int, Callable[[], Any]]:
    """Bytes moved by a copy between float32 tensors of as many elements (at least 2^22), and the copy."""
    source = torch.ones(max(elements, 1 << 22), device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel(), lambda: target.copy_(source)


def _implementations(
    entry: Any, engine: str, compiled: bool, device: str
) -> dict[str, Callable[[list[torch.Tensor]], Any]]:
    name = entry.name
    kinds: dict[str, Callable[[list[torch.Tensor]], Any]] = {
        "tameopt": lambda params: entry.optimizer(params, engine=engine)
    }
    theirs = getattr(torch.optim, name, None)
    if theirs is None:
        return kinds
    if name in ("SGD", "Adam", "AdamW", "Adagrad"):
        kinds["torch fused"] = lambda params: theirs(params, fused=True)
    kinds["torch foreach"] = lambda params: theirs(params, foreach=True)
    if compiled:
        kinds["torch compiled"] = lambda params: _Compiled(theirs(params, foreach=True))
    for package, label in (("optimi", "torch-optimi"), ("heavyball", "heavyball")):
        found = _other_library(package, name)
        if found is not None:
            kinds[label] = found
    return kinds


def _other_library(package: str, name: str) -> Callable[[list[torch.Tensor]], Any] | None:
    from tameopt import extras

    if not extras.available(package):
        return None
    names = {
        "optimi": {"SGD": "SGD", "Adam": "Adam", "AdamW": "AdamW", "RAdam": "RAdam"},
        "heavyball": {"SGD": "SGD", "AdamW": "AdamW", "NAdam": "NAdam", "RMSprop": "RMSprop"},
    }
    kind = getattr(extras.require(package, "the benchmark"), names[package].get(name, ""), None)
    return None if kind is None else lambda params: kind(params, lr=1e-3)


class _Compiled:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        torch.compiler.reset()  # past dynamo's limit of recompilations the next would run uncompiled
        self.step = torch.compile(optimizer.step)


def _race(
    label: str,
    name: str,
    shapes: Shapes,
    kinds: Mapping[str, Callable[[list[torch.Tensor]], Any]],
    copies: list[float],
    device: str,
    repeats: int,
) -> list[Row]:
    """Rows of one optimizer: the implementations and a copy share the machine and take turns.

    copies: the bandwidth found is appended.
    """
    generator = torch.Generator(device).manual_seed(0)
    params: list[torch.Tensor] = [
        torch.nn.Parameter(torch.randn(shape, device=device, generator=generator)) for shape in shapes
    ]
    gradients = [torch.randn(p.shape, device=device, generator=generator) for p in params]
    if label == "sharded":
        params, gradients = _sharded(params, device), [g.detach() for g in _sharded(gradients, device)]

    def step(optimizer: Any) -> float:
        for p, g in zip(params, gradients, strict=True):  # heavyball takes `.grad` away: the next would step nothing
            p.grad = g
        if device == "cpu" and torch.get_num_threads() > 1:
            time.sleep(_SPIN)
        return _timed(optimizer.step, device)

    running: dict[str, Any] = {}
    first: dict[str, float] = {}
    memory: dict[str, int] = {}
    failures: dict[str, str] = {}
    moved = 0
    for implementation, make in kinds.items():
        try:
            optimizer = make(params)
            before = _memory(device)
            first[implementation] = step(optimizer)
            step(optimizer)
            _reset_peak(device)
            held = _memory(device)
            step(optimizer)
            memory[implementation] = max(0, _peak(device) - held) if before >= 0 else 0
        except Exception as error:  # noqa: BLE001 - a peer that fails is a result of the benchmark
            failures[implementation] = f"{type(error).__name__}: {error}"
            continue
        if isinstance(optimizer, RuleOptimizer):
            moved = optimizer.bytes_moved()
        running[implementation] = optimizer
    times: dict[str, list[float]] = {implementation: [] for implementation in running}
    copied, copy = _copy(sum(p.numel() for p in params), device)
    _timed(copy, device)
    copy_times = []
    turns = list(running.items())
    for _ in range(repeats):
        copy_times.append(_timed(copy, device))
        turns = turns[1:] + turns[:1]  # what one leaves in the caches, and the copy throws out, falls on each in turn
        for implementation, optimizer in turns:
            times[implementation].append(step(optimizer))
    bandwidth = copied / float(np.median(copy_times))
    copies.append(bandwidth)
    rows = []
    for implementation in kinds:
        if implementation in failures:
            rows.append(Row(label, name, implementation, 0.0, 0.0, 0.0, 0.0, moved, 0.0, 0, failures[implementation]))
            continue
        low, median, high = np.quantile(times[implementation], (0.25, 0.5, 0.75)).tolist()
        share = moved / bandwidth / median
        rows.append(
            Row(
                label,
                name,
                implementation,
                first[implementation],
                median,
                low,
                high,
                moved,
                share,
                memory[implementation],
                counted=bytes_moved(running[implementation].step, 2) if implementation == "torch foreach" else 0,
            )
        )
    return rows


@contextmanager
def _alone() -> Iterator[None]:
    """A process group of this one process, where there is none."""
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    store = distributed.HashStore()  # type: ignore[attr-defined]  # public by torch's docs
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _sharded(tensors: Sequence[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Parameters that are DTensors, sharded over the processes: FSDP2's parameters."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    return [torch.nn.Parameter(distribute_tensor(tensor.detach(), mesh, [Shard(0)])) for tensor in tensors]


def _timed(action: Callable[[], Any], device: str) -> float:
    _wait(device)
    begin = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _memory(device: str) -> int:
    return torch.cuda.memory_allocated() if device.startswith("cuda") else 0


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def _versions(device: str) -> dict[str, str]:
    import importlib.metadata

    found = {"torch": torch.__version__, "python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for package in ("llvmlite", "triton", "torch-optimi", "heavyball"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = device.startswith("cuda")
    found["device"] = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    return found
