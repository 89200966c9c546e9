"""What the network's outputs and activations show: chance level, softmax applied twice, dead units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tameopt.analysis import Context
from tameopt.evidence import Finding, Scope, measured, refuted, unknown
from tameopt.problem import Problem

CHANCE = "run.chance_level"
DEAD = "units.dead"
_NEAR_CHANCE = 0.02  # F within 2% of the entropy of the labels
_DEAD_SHARE = 0.5  # of a layer's units
_SAMPLES = 2048  # units are looked at on at most this many samples
_ZERO_AT_REST = ("relu", "relu_", "hardtanh", "hardtanh_", "clamp_min", "clamp", "threshold")


@dataclass(frozen=True)
class Chance:
    """F against what a constant prediction reaches.

    F: the loss now. entropy: of the labels' frequencies (nats), what the best constant prediction reaches; uniform:
    ln K. spread: standard deviation of the outputs over the inputs, as a share of their size. softmax: the outputs
    are probabilities already.
    """

    F: float
    entropy: float
    uniform: float
    spread: float
    softmax: bool


def chance(context: Context) -> tuple[Finding, dict[str, Any]]:
    """run.chance_level of a classifier with integer targets, and the numbers behind it."""
    found = _measure_chance(context)
    if isinstance(found, str):
        return unknown(CHANCE, f"There is no chance level to compare with: {found}.", missing=found), {}
    ratio = found.F / found.entropy
    numbers = {
        "F": found.F,
        "label_entropy": found.entropy,
        "ln_classes": found.uniform,
        "output_spread": found.spread,
        "outputs_are_probabilities": found.softmax,
    }
    how = f"F against the entropy of the labels, {found.entropy:.4g} nats (ln K = {found.uniform:.4g})"
    near = abs(ratio - 1.0) < _NEAR_CHANCE or abs(found.F / found.uniform - 1.0) < _NEAR_CHANCE
    if not near:
        said = "below" if ratio < 1 else "above"
        return (
            refuted(
                CHANCE,
                f"F = {found.F:.4g} is {said} what a constant prediction reaches ({found.entropy:.4g}).",
                numbers,
                method=how,
                scope=Scope.POINT,
            ),
            numbers,
        )
    why = ""
    if found.softmax:
        why = " The outputs are probabilities already: softmax is applied twice, before the loss and inside it."
    elif found.spread < 1e-3:
        why = f" The outputs hardly depend on the input (they vary by {found.spread:.1e} of their size)."
    return (
        measured(
            CHANCE,
            f"F = {found.F:.4g} is what a constant prediction reaches: the labels' entropy is {found.entropy:.4g}, "
            f"ln K = {found.uniform:.4g}.{why}",
            ratio,
            method=how,
            error_kind="exact sums over all samples",
            scope=Scope.POINT,
            sample_size=context.problem.n,
            witness=numbers,
        ),
        numbers,
    )


def _measure_chance(context: Context) -> Chance | str:
    problem = context.problem
    if problem.is_function or problem.forward is not None:
        return "the problem was not given as model, loss and (input, label) batches"
    targets = problem.targets()
    if targets.is_floating_point() or targets.is_complex():
        return "the targets are no class labels"
    outputs = problem.outputs(context.theta)
    if outputs.ndim < 2 or outputs.ndim != targets.ndim + 1 or outputs.shape[1] < 2:
        return "the outputs are no scores of classes"
    labels = targets.reshape(-1)
    labels = labels[labels >= 0]
    classes = int(outputs.shape[1])
    if not labels.numel() or int(labels.max()) >= classes:
        return "the labels do not number the outputs"
    shares = torch.bincount(labels, minlength=classes).double() / labels.numel()
    entropy = float(-(shares[shares > 0] * shares[shares > 0].log()).sum())
    if not entropy > 0:
        return "all labels are the same"
    F = float(problem.value(context.theta))
    if problem.reduction == "sum":
        F /= problem.n
    rows = outputs.double().movedim(1, -1).reshape(-1, classes)
    size = float(rows.square().mean().sqrt())
    varies = float(rows.std(dim=0, unbiased=False).square().mean().sqrt())
    softmax = bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1.0).abs() < 1e-4).all())
    return Chance(F, entropy, math.log(classes), varies / size if size > 0 else 0.0, softmax)


# -- dead units ------------------------------------------------------------------------------------------------


class _Watch(TorchDispatchMode):
    """Collects, for each rectifier called in a forward pass, which of its units were ever above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[torch.Tensor] = []
        self._calls = 0

    def restart(self) -> None:
        self._calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if name not in _ZERO_AT_REST or not isinstance(result, torch.Tensor):
            return result
        if result.ndim >= 2 and _is_rectifier(name, args):
            # units lie along dimension 1 of images (b, channels, …), along the last one otherwise
            axis = 1 if result.ndim == 4 else result.ndim - 1
            seen = (result > 0).movedim(axis, -1).reshape(-1, result.shape[axis]).any(dim=0)
            if self._calls < len(self.alive):
                if self.alive[self._calls].shape == seen.shape:
                    self.alive[self._calls] |= seen
            else:
                self.alive.append(seen)
            self._calls += 1
        return result


def _is_rectifier(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the call is max(x, 0), possibly cut off above (ReLU6)."""
    if name.startswith("relu"):
        return True
    if name.startswith(("hardtanh", "clamp")):
        return len(args) > 1 and args[1] == 0
    return len(args) > 2 and args[1] == 0 and args[2] == 0


def dead_units(context: Context) -> tuple[Finding, dict[str, Any]]:
    """units.dead: in each rectifier layer, the share of units that are 0 for every sample looked at."""
    problem = context.problem
    if problem.is_function:
        return unknown(DEAD, "A plain function has no units.", missing="a network"), {}
    watch = _Watch()
    looked_at = 0
    parameters = problem.unflatten(context.theta)
    with torch.no_grad(), watch:
        for batch, size in _some_batches(problem):
            watch.restart()
            problem.batch_output(parameters, batch)
            looked_at += size
    if not watch.alive:
        return unknown(DEAD, "The network has no rectifiers.", missing="ReLU units"), {}
    shares = [1.0 - float(layer.double().mean()) for layer in watch.alive]
    counts = [int((~layer).sum()) for layer in watch.alive]
    facts = {
        "layers": [
            {"layer": i + 1, "units": int(layer.numel()), "dead": count}
            for i, (layer, count) in enumerate(zip(watch.alive, counts, strict=True))
        ],
        "samples": looked_at,
    }
    worst = max(range(len(shares)), key=shares.__getitem__)
    units = int(watch.alive[worst].numel())
    words = f"{counts[worst]} of {units} units of rectifier layer {worst + 1} are 0 for all {looked_at:,} samples"
    how = f"the outputs of {len(shares)} rectifier layers at the last iterate"
    if shares[worst] < _DEAD_SHARE:
        said = f"At most {words}." if counts[worst] else f"Every rectifier fires for some of {looked_at:,} samples."
        return refuted(DEAD, said, {"share": shares[worst], **facts}, method=how, scope=Scope.POINT), facts
    blocked = " Nothing passes through this layer, so no gradient reaches the layers before it."
    ending = blocked if shares[worst] == 1 else ""
    return (
        measured(
            DEAD,
            f"{words}.{ending}",
            shares[worst],
            method=how,
            error_kind="exact on the samples looked at",
            scope=Scope.POINT,
            sample_size=looked_at,
            witness=facts,
        ),
        facts,
    )


def _some_batches(problem: Problem) -> Iterator[tuple[Any, int]]:
    from tameopt.batches import rows, size_of

    seen = 0
    for batch in problem.batches:
        size = size_of(batch)
        if seen + size > _SAMPLES:
            batch, size = rows(batch, slice(0, _SAMPLES - seen)), _SAMPLES - seen
        if size <= 0:
            return
        yield batch, size
        seen += size
