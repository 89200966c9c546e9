"""The GPU engine: one Triton launch for all tensors of a bucket, no temporaries, no wait for the device.

What a step needs lives on the device: the table of addresses and chunks, sent again only when an address changes; the
hyperparameters, of which only those that changed are written; the step counts. A first small launch counts the step
and folds these into coefficients in double (`tameopt.optim.fold`), the second makes the step. So a new learning rate
compiles nothing, a learning rate or a found_inf that is a tensor is never read by the host, and a step that is
captured in a CUDA graph goes on counting when it is replayed.

With TRITON_INTERPRET=1 the same kernels run on the CPU, slowly, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from tameopt import extras
from tameopt.optim.engines import triton_source, triton_tables
from tameopt.optim.engines.triton_tables import Chunks, Coefficients
from tameopt.optim.expr import Graph, trace
from tameopt.optim.fold import fold
from tameopt.optim.plan import Bucket, Inputs, Signature
from tameopt.optim.step_layout import Gradients

NAME, FOLDS = "triton", True

WARPS = 8  # measured on an H100, see `triton_tables.BLOCK`
UNITS = 128  # our choice: units that one program of `fold` takes
PARTIAL_SUMS = 1024  # our choice: partial sums that one program of `total` adds at a time
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
    return ""


def word(dtype: torch.dtype) -> str:
    """What the generator calls a dtype."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Kernel:
    """A generated kernel. functions: Triton's, by name; seconds: what generating took; source: its Python text."""

    functions: dict[str, Any]
    seconds: float
    source: str


@functools.cache
def generated(source: str) -> Kernel:
    """The functions of a Python text; Triton compiles each at its first launch and keeps it on disk."""
    extras.require("triton", "engine='triton'")
    begin = time.perf_counter()
    # Triton reads a kernel's source through `inspect`, which asks linecache for files that are not on disk
    file = f"<tameopt {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": "tameopt_generated"}
    exec(compile(source, file, "exec"), namespace)  # noqa: S102 - one of the two places that generate code
    return Kernel(namespace, time.perf_counter() - begin, source)


def step_source(signature: Signature) -> tuple[Graph, str]:
    """The graph of a signature's update and the text of its kernel."""
    graph = trace(signature.rule, signature.flags, tuple(name for name, _ in signature.states))
    names = ("theta", "g", *(name for name, _ in signature.states))
    dtypes = (signature.theta, signature.g, *(dtype for _, dtype in signature.states))
    return graph, triton_source.step(graph, names, tuple(map(word, dtypes)), word(signature.compute))


def fold_source(bucket: Bucket, inputs: Inputs, wanted: tuple[str, ...]) -> tuple[Coefficients, str]:
    """The device's tables of what a bucket's coefficients are made of, and the text of the kernel that makes them."""
    signature = bucket.signature
    group = inputs.options[bucket.units[0].group]
    folding = fold(signature.rule, getattr(group, "as_given", group), wanted)
    tables = Coefficients.of(bucket, folding, len(inputs.options))
    text = triton_source.fold(
        folding, tuple(bucket.counts), tables.given_names, word(bucket.first.dtype), word(signature.compute)
    )
    return tables, text


@dataclass(frozen=True)
class _Prepared:
    """What a bucket needs at every step."""

    coefficients: Coefficients
    fold: Any
    step: Any


def _prepared(bucket: Bucket, inputs: Inputs) -> _Prepared:
    graph, text = step_source(bucket.signature)
    coefficients, fold_text = fold_source(bucket, inputs, graph.coefficients)
    kernels = [generated(text), generated(fold_text)]
    bucket.cache["compile_seconds"] = sum(kernel.seconds for kernel in kernels)
    return _Prepared(coefficients, kernels[1].functions["fold"], kernels[0].functions["step"])


def run(bucket: Bucket, gradients: Gradients, inputs: Inputs) -> None:
    """One step of every unit that has a gradient, in place."""
    device, n = bucket.signature.device, len(bucket.units)
    with _on(device):
        chunks = _chunks(bucket)
        _copies = chunks.send(bucket, gradients)  # the launch reads them
        if "triton" not in bucket.cache:
            bucket.cache["triton"] = _prepared(bucket, inputs)
        prepared: _Prepared = bucket.cache["triton"]
        numbers = prepared.coefficients
        numbers.send(inputs)
        skip = numbers.no_skip
        if inputs.found_inf is not None:
            skip = inputs.found_inf.to(device=device, dtype=torch.float32, non_blocking=True)
        prepared.fold[(-(-n // UNITS),)](
            chunks.addresses,
            n,
            numbers.groups,
            numbers.options,
            numbers.counts,
            bucket.first,
            numbers.given,
            skip,
            numbers.folded,
            BLOCK=UNITS,
            SHARED=inputs.shared_count,
            enable_fp_fusion=False,
        )
        if chunks.count:
            prepared.step[(chunks.count,)](
                chunks.addresses,
                n,
                chunks.tensors,
                chunks.starts,
                chunks.lengths,
                numbers.folded,
                skip,
                BLOCK=triton_tables.BLOCK,
                ALIGNED=chunks.aligned,
                num_warps=WARPS,
                enable_fp_fusion=False,
            )


def squared_norms(bucket: Bucket, gradients: Gradients) -> torch.Tensor:
    """Sum of the squares of each gradient (n,), in float64 on the device; 0 where there is none. Nobody waits."""
    device, n = bucket.signature.device, len(bucket.units)
    with _on(device):
        chunks = _chunks(bucket)
        _copies = chunks.send(bucket, gradients)
        functions = generated(triton_source.squares(word(bucket.signature.g))).functions
        partial = torch.empty(max(1, chunks.count), dtype=torch.float64, device=device)
        sums = torch.empty(n, dtype=torch.float64, device=device)
        if chunks.count:
            functions["squares"][(chunks.count,)](
                chunks.addresses,
                n,
                chunks.tensors,
                chunks.starts,
                chunks.lengths,
                partial,
                BLOCK=triton_tables.BLOCK,
                num_warps=WARPS,
            )
        functions["total"][(n,)](partial, chunks.begins, sums, BLOCK=PARTIAL_SUMS)
        return sums


def _chunks(bucket: Bucket) -> Chunks:
    if "chunks" not in bucket.cache:
        bucket.cache["chunks"] = Chunks.of(bucket)
    found: Chunks = bucket.cache["chunks"]
    return found


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the parameters'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
