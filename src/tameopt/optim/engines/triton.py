"""The GPU engine: one Triton launch for all tensors of a bucket, no temporaries, no wait for the device.

The table of addresses and chunks lives on the device and is sent again only when an address changes. Learning rate
and step count arrive as a row of numbers, so changing them never compiles anything. With TRITON_INTERPRET=1 the same
kernels run on the CPU, slowly, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

import functools
import linecache
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt import extras
from tameopt.optim.engines import triton_source
from tameopt.optim.expr import Graph, trace
from tameopt.optim.layout import match_strides
from tameopt.optim.plan import Bucket, Signature
from tameopt.optim.rule import Numbers

NAME = "triton"

# Measured on an H100 for tables of many tensors: 4096-element chunks with 8 warps reach the copy bandwidth.
BLOCK, WARPS = 4096, 8
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def interpreting() -> bool:
    """Whether Triton interprets its kernels on the CPU (the environment variable TRITON_INTERPRET)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def unsupported(signature: Signature) -> str:
    """Why this engine cannot run the bucket; "" when it can."""
    if signature.device.type != "cuda" and not (interpreting() and signature.device.type == "cpu"):
        return f"the parameters are on {signature.device}"
    if signature.differentiable:
        return "differentiable=True needs autograd, which only the eager engine gives"
    if signature.sparse:
        return "the gradients are sparse"
    if not signature.dense:
        return "the parameters overlap or have gaps in memory"
    odd = [d for d in (signature.theta, signature.g, *(d for _, d in signature.states)) if d not in _DTYPES]
    if odd:
        return f"it has no {odd[0]}"
    if not extras.available("triton"):
        return "the package triton is not here: pip install triton"
    missing = triton_source.unsupported(_graph(signature))
    return f"it has no correctly rounded {missing!r}" if missing else ""


@dataclass(frozen=True)
class Kernel:
    """A generated kernel. launch: Triton's function; seconds: what generating it took; source: its Python text."""

    graph: Graph
    launch: Callable[..., Any]
    seconds: float
    source: str


def _graph(signature: Signature) -> Graph:
    return trace(signature.rule, signature.flags, tuple(name for name, _ in signature.states))


@functools.cache
def generated(signature: Signature) -> Kernel:
    """The kernel of a signature; Triton compiles it at its first launch and keeps it on disk."""
    extras.require("triton", "engine='triton'")
    begin = time.perf_counter()
    graph = _graph(signature)
    names = ("theta", "g", *(name for name, _ in signature.states))
    dtypes = (signature.theta, signature.g, *(dtype for _, dtype in signature.states))
    words = tuple(str(dtype).removeprefix("torch.") for dtype in dtypes)
    source = triton_source.kernel(graph, names, words, str(signature.compute).removeprefix("torch."))
    # Triton reads a kernel's source through `inspect`, which asks linecache for files that are not on disk
    file = f"<tameopt {signature.rule.name} {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": "tameopt_generated"}
    exec(compile(source, file, "exec"), namespace)  # noqa: S102 - one of the two places that generate code
    return Kernel(graph, namespace["step"], time.perf_counter() - begin, source)


@dataclass
class _Tables:
    """What stays on the device from step to step. host: the addresses as last sent."""

    host: np.ndarray[Any, Any]
    addresses: torch.Tensor
    rows: np.ndarray[Any, Any]
    row_of: torch.Tensor
    tensors: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    strides: list[tuple[int, ...]]
    aligned: bool


def _lay_out(bucket: Bucket) -> _Tables:
    units, device = bucket.units, bucket.signature.device
    host = np.zeros((2 + len(bucket.signature.states), len(units)), dtype=np.int64)
    host[0] = [unit.theta.data_ptr() for unit in units]
    for place in range(len(bucket.signature.states)):
        host[2 + place] = [unit.states[place].data_ptr() for unit in units]
    sizes = np.array([unit.theta.numel() for unit in units], dtype=np.int64)
    chunks = -(-sizes // BLOCK)
    tensors = np.repeat(np.arange(len(units)), chunks)
    starts = (np.arange(len(tensors)) - (np.cumsum(chunks) - chunks)[tensors]) * BLOCK
    lengths = np.minimum(BLOCK, sizes[tensors] - starts)
    return _Tables(
        host,
        torch.zeros(host.shape, dtype=torch.int64, device=device),
        np.full(len(units), -2, dtype=np.int32),
        torch.zeros(len(units), dtype=torch.int32, device=device),
        _sent(tensors.astype(np.int32), device),
        _sent(starts.astype(np.int64), device),
        _sent(lengths.astype(np.int32), device),
        [unit.theta.stride() for unit in units],
        False,
    )


def _sent(values: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """A copy on the device, without waiting for it: pinned memory is released only when the copy is done."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.clone()


def run(
    bucket: Bucket, gradients: Sequence[torch.Tensor | None], rows: Sequence[Numbers], row_of: np.ndarray[Any, Any]
) -> None:
    """One step of every unit that has a gradient, in place."""
    kernel, device = generated(bucket.signature), bucket.signature.device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the triton engine sends its coefficients from the host at each step, which a CUDA graph would freeze: "
            "capture the forward and backward pass, and step outside the graph."
        )
    tables: _Tables | None = bucket.cache.get("triton")
    if tables is None:
        tables = bucket.cache["triton"] = _lay_out(bucket)
        bucket.cache["compile_seconds"] = kernel.seconds
    if not len(tables.tensors) or not rows:
        return
    given = [bucket.units[place].theta if g is None else g for place, g in enumerate(gradients)]
    if [g.stride() for g in given] != tables.strides:
        given = [match_strides(g, unit.theta) for g, unit in zip(given, bucket.units, strict=True)]
    addresses = [g.data_ptr() for g in given]
    if addresses != bucket.cache.get("triton_addresses"):
        bucket.cache["triton_addresses"] = addresses
        tables.host[1] = addresses
        tables.addresses = _sent(tables.host, device)
        tables.aligned = not (tables.host % 16).any()
    if not np.array_equal(row_of, tables.rows):
        tables.rows = row_of.astype(np.int32)
        tables.row_of = _sent(tables.rows, device)
    width = np.float64 if bucket.signature.compute == torch.float64 else np.float32
    numbers = np.array([[row[name] for name in kernel.graph.coefficients] for row in rows], dtype=width)
    kernel.launch[(len(tables.tensors),)](  # type: ignore[index]
        tables.addresses,
        len(bucket.units),
        tables.row_of,
        tables.tensors,
        tables.starts,
        tables.lengths,
        _sent(numbers, device),
        BLOCK=BLOCK,
        ALIGNED=tables.aligned,
        num_warps=WARPS,
        enable_fp_fusion=False,
    )


def squared_norms(bucket: Bucket, gradients: Sequence[torch.Tensor | None]) -> np.ndarray[Any, Any]:
    """Sum of the squares of each gradient, in float64; 0 where there is none. Waits for the device once."""
    del bucket
    there = [(place, g) for place, g in enumerate(gradients) if g is not None]
    found = np.zeros(len(gradients))
    if there:
        norms = torch._foreach_norm([g for _, g in there], dtype=torch.float64)
        found[[place for place, _ in there]] = torch.stack(norms).cpu().numpy() ** 2
    return found
