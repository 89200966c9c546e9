"""The error of a network on data that it was not trained on, for the honest scale of a certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.problem import Problem


@dataclass(frozen=True)
class HeldOut:
    """What a network gets wrong on `samples` held-out samples.

    kind: "signs" (one output, targets +-1: the share of wrong signs), "classes" (one-hot or class numbers: the
    share whose largest output is another) or "loss" (anything else: the mean loss).
    """

    kind: str
    value: float
    samples: int

    def __str__(self) -> str:
        if self.kind == "loss":
            return f"loss on held-out data: {self.value:.4g} ({self.samples:,} samples)"
        what = "signs" if self.kind == "signs" else "classes"
        return f"error on held-out data: {100 * self.value:.1f}% of {self.samples:,} {what}"


def held_out(problem: Problem, theta: torch.Tensor | None = None) -> HeldOut | None:
    """The error on problem.held_out at theta (the model's own by default); None when it has no such data.

    Raises ValueError when the problem does not give outputs, or the held-out data do not fit the model.
    """
    if problem.held_out is None:
        return None
    problem.require_outputs()
    parameters = problem.unflatten(problem.at(theta))
    count, total, kind = 0, 0.0, ""
    with torch.no_grad():
        for batch in problem.held_out:
            size = len(batch[-1])
            output, target = problem.batch_output(parameters, batch, True), batch[-1]
            wrong = _wrong(output, target)
            if wrong is None:
                if kind not in ("", "loss"):
                    raise ValueError(
                        "the held-out targets must be of one kind, some batches hold classes and some not."
                    )
                loss = problem.batch_output(parameters, batch)
                kind, part = "loss", float(loss.sum() if problem.reduction != "mean" else loss * size)
            else:
                if kind not in ("", wrong[0]):
                    raise ValueError(
                        "the held-out targets must be of one kind, some batches hold classes and some not."
                    )
                kind, part = wrong[0], float(wrong[1])
            count, total = count + size, total + part
    return HeldOut(kind, total / count if count else math.nan, count)


def _wrong(output: torch.Tensor, target: torch.Tensor) -> tuple[str, int] | None:
    """(kind, how many are wrong), or None where targets are plain numbers."""
    if not target.is_floating_point():
        classes = output.argmax(1) if output.ndim == 2 and target.ndim == 1 else None
        return None if classes is None else ("classes", int((classes != target).sum()))
    if output.shape != target.shape:
        return None
    if target[0].numel() == 1:
        if not bool((target.abs() == 1).all()):
            return None
        return "signs", int((output.sign() != target).sum())
    one_hot = target.ndim == 2 and bool(((target == 0) | (target == 1)).all() and (target.sum(1) == 1).all())
    return ("classes", int((output.argmax(1) != target.argmax(1)).sum())) if one_hot else None
