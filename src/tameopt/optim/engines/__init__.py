"""Engines run an update rule over the parameters of a bucket: eager (the reference), cpu (LLVM), triton (GPU).

An engine is a module: FOLDS, whether it folds coefficients beside the parameters instead of on the host;
`unsupported(signature)`; `run(bucket, gradients, inputs)`, one step in place; `squared_norms(bucket, gradients)`.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from tameopt.optim.plan import Choice, Signature

# fastest first
NAMES = ("triton", "cpu", "eager")


@functools.cache
def engine(name: str) -> ModuleType:
    """The module of an engine."""
    return importlib.import_module(f"tameopt.optim.engines.{name}")


def choose(wanted: str, signature: Signature) -> Choice:
    """The engine for a bucket: the one wanted, or with "auto" the fastest that can run it.

    Raises RuntimeError saying why when the one wanted cannot run it: there is no silent fallback.
    """
    if wanted != "auto":
        reason = engine(wanted).unsupported(signature)
        if reason:
            raise RuntimeError(
                f"engine={wanted!r} cannot run this step of {signature.rule.name}: {reason}. "
                "engine='auto' picks one that can."
            )
        return Choice(wanted, ())
    passed_over: list[tuple[str, str]] = []
    for name in NAMES:
        reason = engine(name).unsupported(signature)
        if not reason:
            return Choice(name, tuple(passed_over))
        passed_over.append((name, reason))
    raise AssertionError("the eager engine runs everything")
