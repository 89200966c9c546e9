"""The CPU engine: one pass over memory for all tensors of a bucket, compiled by LLVM, threads as torch's.

llvmlite brings LLVM as a wheel, so no compiler is needed; a kernel compiles in some tens of milliseconds, once a
process for each rule, set of flags and dtypes. Learning rates and step counts are arguments: changing them never
compiles anything. The kernel computes what the eager engine does, operation by operation, so results are equal bit
for bit (except where a rule uses `power`).
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt import extras
from tameopt.optim.engines import llvm_source
from tameopt.optim.engines import threads as threads_of
from tameopt.optim.engines.llvm import machine_code
from tameopt.optim.expr import Graph, trace
from tameopt.optim.layout import is_dense
from tameopt.optim.plan import Bucket, Inputs, Signature
from tameopt.optim.step_layout import Gradients, laid_out_alike

NAME, FOLDS = "cpu", False

# Our choices. The shortest chunk is long enough to amortise its table look-ups (about 20 ns); the longest is short
# enough to balance threads. In between, some chunks a thread: two threads took 23 ms for Adam on 4M elements by
# chunks of 262144, 29 ms by chunks of 65536 (whole steps, machine shared). Below the threshold waking a second thread
# (about 50 us) costs more than it saves.
CHUNK = 16384
_LONGEST_CHUNK, _CHUNKS_PER_THREAD = 262_144, 4
_ELEMENTS_FOR_THREADS = 200_000
_LLVM_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "half",
    torch.bfloat16: "bfloat",
}


def unsupported(signature: Signature) -> str:
    """Why this engine cannot run the bucket; "" when it can."""
    if signature.device.type != "cpu":
        return f"the parameters are on {signature.device}"
    if signature.differentiable:
        return "differentiable=True needs autograd, which only the eager engine gives"
    if signature.sparse:
        return "the gradients are sparse"
    if not signature.dense:
        return "the parameters overlap or have gaps in memory"
    dtypes = (signature.theta, signature.g, *(dtype for _, dtype in signature.states))
    odd = [dtype for dtype in dtypes if dtype not in _LLVM_TYPES]
    if odd:
        return f"it has no {odd[0]}"
    if not extras.available("llvmlite"):
        return "the package llvmlite is not here: pip install 'tameopt[cpu]'"
    if torch.float16 in dtypes and not _has_half():
        return "this processor converts no float16"
    return ""


@dataclass(frozen=True)
class Kernel:
    """A compiled pass.

    call: its C function; task: address of the same for one of several threads; seconds: what compiling took; source:
    its LLVM text.
    """

    graph: Graph
    call: Callable[..., None]
    task: int
    seconds: float
    source: str
    keep_alive: Any


@functools.cache
def compiled(signature: Signature) -> Kernel:
    """The kernel of a signature, compiled on first use."""
    begin = time.perf_counter()
    names = tuple(name for name, _ in signature.states)
    graph = trace(signature.rule, signature.flags, names)
    roles = llvm_source.Roles(
        ("theta", "g", *names),
        tuple(_LLVM_TYPES[d] for d in (signature.theta, signature.g, *(dtype for _, dtype in signature.states))),
        _LLVM_TYPES[signature.compute],
    )
    source = llvm_source.kernel(graph, roles)
    (step, task), alive = machine_code(source, "step", "task")
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 10)(step)
    return Kernel(graph, call, task, time.perf_counter() - begin, source, alive)


@functools.cache
def _has_half() -> bool:
    """Whether the processor converts float16 itself (otherwise LLVM would call a library that is not linked)."""
    binding = extras.require("llvmlite.binding", "engine='cpu'")
    triple = binding.get_process_triple()
    return triple.startswith(("aarch64", "arm64")) or bool(binding.get_host_cpu_features().get("f16c"))


@dataclass
class _Tables:
    """What a bucket's kernel reads; all but the gradients' addresses stays from step to step."""

    addresses: np.ndarray[Any, Any]
    tensors: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    elements: int
    next: np.ndarray[Any, Any]
    together: np.ndarray[Any, Any]
    one_row: np.ndarray[Any, Any]

    def __post_init__(self) -> None:
        arrays = (
            self.addresses, self.tensors, self.starts, self.lengths, self.next, self.together, self.one_row
        )  # fmt: skip
        self.words = np.zeros(10, dtype=np.int64)  # the kernel's arguments, for other threads
        self.words_at = self.words.ctypes.data
        self.places = tuple(array.ctypes.data for array in arrays)  # asking numpy costs microseconds


def _lay_out(bucket: Bucket, width: int) -> _Tables:
    units = bucket.units
    roles = 2 + len(bucket.signature.states)
    addresses = np.zeros((roles, len(units)), dtype=np.int64)
    addresses[0] = [unit.theta.data_ptr() for unit in units]
    for place in range(roles - 2):
        addresses[2 + place] = [unit.states[place].data_ptr() for unit in units]
    sizes = np.array([unit.theta.numel() for unit in units], dtype=np.int64)
    share = int(sizes.sum()) // (_CHUNKS_PER_THREAD * torch.get_num_threads()) // CHUNK * CHUNK
    chunk = min(max(share, CHUNK), _LONGEST_CHUNK)
    chunks = -(-sizes // chunk)
    tensors = np.repeat(np.arange(len(units), dtype=np.int64), chunks)
    first_chunk = np.cumsum(chunks) - chunks
    starts = (np.arange(len(tensors), dtype=np.int64) - first_chunk[tensors]) * chunk
    lengths = np.minimum(chunk, sizes[tensors] - starts)
    return _Tables(
        addresses,
        tensors,
        starts,
        lengths,
        int(sizes.sum()),
        np.zeros(1, dtype=np.int64),
        bucket.together,
        np.zeros(width, dtype=np.float64),
    )


def run(bucket: Bucket, gradients: Gradients, inputs: Inputs) -> None:
    """One step of every unit that has a gradient, in place."""
    rows, row_of = bucket.advance(gradients.present, inputs, gradients.in_step)
    if "cpu" not in bucket.cache:
        made = compiled(bucket.signature)
        bucket.cache["cpu"] = made, _lay_out(bucket, len(made.graph.coefficients))
        bucket.cache["compile_seconds"] = bucket.cache["cpu"][0].seconds
    kernel, tables = bucket.cache["cpu"]
    if not tables.elements or not rows:
        return
    addresses, _copies = laid_out_alike(bucket, gradients)  # the copies must outlive the call
    tables.addresses[1] = addresses
    table, tensors, starts, lengths, following, together, one_row = tables.places
    names = kernel.graph.coefficients
    if row_of is bucket.together:
        tables.one_row[:] = [rows[0][name] for name in names]
        row_places = together, one_row
    else:
        coefficients = np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
        row_places = row_of.ctypes.data, coefficients.ctypes.data
    tables.next[0] = 0
    arguments = (
        table,
        len(bucket.units),
        row_places[0],
        tensors,
        starts,
        lengths,
        row_places[1],
        len(names),
        following,
        len(tables.tensors),
    )
    threads = min(torch.get_num_threads(), len(tables.tensors))
    if threads == 1 or tables.elements < _ELEMENTS_FOR_THREADS:
        kernel.call(*arguments)
        return
    tables.words[:] = arguments
    threads_of.together(threads, kernel.task, tables.words_at, lambda: kernel.call(*arguments))


def squared_norms(bucket: Bucket, gradients: Gradients) -> torch.Tensor:
    """Sum of the squares of each gradient (n,), in float64; 0 where there is none."""
    del bucket
    # torch's own reduction runs at the speed of memory; squares of float32 are summed in float64 by chunks
    found = torch.zeros(len(gradients.tensors), dtype=torch.float64)
    for place, g in enumerate(gradients.tensors):
        if g is not None:
            flat = g.as_strided((g.numel(),), (1,), g.storage_offset()) if is_dense(g) else g.reshape(-1)
            found[place] = sum(float(part.to(torch.float64).square().sum()) for part in flat.split(CHUNK * 4))
    return found
