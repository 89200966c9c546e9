"""Epoch-aligned steps: the loss falls when an epoch begins and hardly within one."""

from __future__ import annotations

import math

import numpy as np

from tameopt.audit.symptoms.history import Array, History
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

CLAIM = "run.epoch_steps"
_EPOCHS = 3
_STEPS = 8  # fewer steps an epoch cannot show where in it the loss falls
_SHARE = 0.7  # of the fall that must happen at the boundaries
_DEVIATIONS = 5.0


def find(history: History) -> Finding:
    """run.epoch_steps, from the loss of every step of a run that goes through the data in epochs."""
    meta = history.meta
    if meta.get("sampling") != "reshuffled" or not meta.get("n") or not meta.get("batch_size"):
        if meta.get("sampling") in ("with replacement", "full batch"):
            return refuted(
                CLAIM,
                f"The run has no epochs: its batches were drawn {meta['sampling']}.",
                {"sampling": meta["sampling"]},
                method="the record's sampling",
                scope=Scope.RUN,
            )
        return unknown(CLAIM, "Whether there are epochs is not recorded.", missing="sampling, n and batch_size")
    length = -(-int(meta["n"]) // int(meta["batch_size"]))
    losses = history.batch.values
    count = losses.size // length
    if count < _EPOCHS + 1 or length < _STEPS:
        return unknown(
            CLAIM,
            "The record is too short to see the epochs.",
            missing=f"{_EPOCHS + 1} epochs of at least {_STEPS} steps; {count} of {length} are there",
            remedy="train longer",
        )
    table = losses[: count * length].reshape(count, length)
    share, deviations, fall = measure(table)
    how = f"the first and last quarters of {count} epochs of {length} steps"
    numbers = {"share": share, "deviations": deviations, "fall": fall, "epoch_steps": length}
    if share < _SHARE or deviations < _DEVIATIONS or not fall > 0:
        return refuted(
            CLAIM,
            f"The loss does not fall in steps at the epochs: {100 * share:.3g}% of its fall lies at their "
            f"boundaries.",
            numbers,
            method=how,
            scope=Scope.RUN,
        )
    return measured(
        CLAIM,
        f"{100 * min(share, 1.0):.3g}% of the fall of the loss happens where an epoch ({length} steps) begins: "
        f"{deviations:.3g} standard errors more than within the epochs.",
        share,
        method=how,
        error_kind=f"{deviations:.3g} standard errors",
        scope=Scope.RUN,
        sample_size=int(count),
        witness=numbers,
    )


def measure(table: Array) -> tuple[float, float, float]:
    """(share of the fall at the boundaries, its standard errors from 0, the fall) of losses (epochs, steps).

    A loss that falls evenly loses, between the middles of the last and first quarters of neighbouring epochs, the
    quarter of an epoch's fall that lies between them; that much is taken off the boundary's share.
    """
    if (table > 0).all():
        # a loss that falls by factors does so evenly in its logarithm
        table = np.log(table)
    quarter = table.shape[1] // 4
    first, last = table[:, :quarter].mean(axis=1), table[:, -quarter:].mean(axis=1)
    within = first - last
    # from the middle of the last quarter to the middle of the next first quarter: 1/3 of the way within an epoch
    across = last[:-1] - first[1:]
    excess = across - within[:-1] / 3.0
    fall = float(first[0] - last[-1])
    if not fall > 0:
        return 0.0, 0.0, fall
    error = float(excess.std(ddof=1)) / math.sqrt(excess.size)
    noise = float(np.median(table[:, -quarter:].std(axis=1))) * math.sqrt(2.0 / quarter / excess.size)
    return float(excess.sum()) / fall, float(excess.mean()) / max(error, noise, 1e-300), fall
