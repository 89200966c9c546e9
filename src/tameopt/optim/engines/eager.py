"""The eager engine: the rule itself, called with tensors. It supports everything and is the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tameopt.optim.plan import Bucket, Signature
from tameopt.optim.rule import Numbers, apply

NAME = "eager"


def unsupported(signature: Signature) -> str:
    """Why this engine cannot run the bucket; "" when it can (always)."""
    del signature
    return ""


def run(
    bucket: Bucket, gradients: Sequence[torch.Tensor | None], rows: Sequence[Numbers], row_of: np.ndarray
) -> None:
    """One step of every unit that has a gradient, in place.

    Low-precision tensors are computed in float32 and rounded once when stored, as torch's fused optimizers do.
    """
    signature = bucket.signature
    flags = dict(signature.flags)
    names = [name for name, _ in signature.states]
    work = signature.compute
    for unit, gradient, row in zip(bucket.units, gradients, row_of.tolist(), strict=True):
        if gradient is None or row < 0:
            continue
        states = dict(zip(names, (s.to(work) for s in unit.states), strict=True))
        new_theta, new_states = apply(
            signature.rule, flags, unit.theta.to(work), gradient.to(work), states, rows[row]
        )
        unit.theta.copy_(new_theta)
        for name, state in zip(names, unit.states, strict=True):
            if name in new_states:
                state.copy_(new_states[name])
