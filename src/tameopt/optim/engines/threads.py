"""The threads of the CPU engine: torch's own where its C interface lends them, else a pool.

torch's are OpenMP's, which stay awake for some milliseconds after each parallel operation: a step right after a
backward pass need not wake anybody. `torch_parallel_for` belongs to torch's stable C interface (2.10 on); where it is
missing, or in a forked child (OpenMP's threads do not survive a fork), Python's own pool does the work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_DECLARATION = (
    "typedef void (*ParallelFunc)(int64_t begin, int64_t end, void* ctx);"
    "AOTI_TORCH_EXPORT AOTITorchError torch_parallel_for("
    "int64_t begin, int64_t end, int64_t grain_size, ParallelFunc func, void* ctx);"
)
_PROCESS = os.getpid()


def together(threads: int, task: int, words: int, alone: Callable[[], None]) -> None:
    """Run a task on several threads and wait for it.

    task: address of a C function (begin, end, words) that takes its share of work from a counter, so that any number
    of threads may call it; alone: the same as a Python function that releases the interpreter's lock.
    """
    lend = _torchs(os.getpid() == _PROCESS)
    if lend is not None:
        if lend(0, threads, 1, task, words) != 0:
            raise RuntimeError("torch_parallel_for failed: its message is on the standard error stream.")
        return
    others = [pool(os.getpid()).submit(alone) for _ in range(threads - 1)]
    alone()
    for other in others:
        if not other.cancel():  # on a busy machine a thread may not have woken up yet: nothing is left for it
            other.result()


@functools.cache
def _torchs(in_parent: bool) -> Callable[..., int] | None:
    """torch_parallel_for, None when it is not there or not what its declaration says."""
    folder = pathlib.Path(torch.__file__).parent
    try:
        text = (folder / "include/torch/csrc/stable/c/shim.h").read_text(encoding="utf-8")
        library = ctypes.CDLL(str(folder / "lib" / ("libtorch_cpu" + _SUFFIX)))
        function = library.torch_parallel_for
    except (OSError, AttributeError):
        return None
    if not in_parent or "".join(_DECLARATION.split()) not in "".join(text.split()):
        return None
    function.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 2
    function.restype = ctypes.c_int32
    return function


_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


@functools.cache
def pool(process: int) -> ThreadPoolExecutor:
    """Worker threads, idle between steps; a forked child gets its own."""
    del process
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="tameopt")
