"""Where the first number that is not finite appeared: input, activation, loss, gradient, state or parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tameopt.audit.symptoms.history import History
from tameopt.batches import Batch, tensors_of
from tameopt.evidence import Finding, Scope, measured, refuted, unknown

CLAIM = "run.first_non_finite"


def locate(
    model: nn.Module,
    loss: Callable[[], torch.Tensor],
    batch: Batch,
    state: Mapping[Any, Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """Repeat one forward and backward pass and name the first thing that is not finite, in the order of computing.

    loss: evaluates the loss of `batch` with the model as it is. state: the optimizer's. The pass leaves gradients
    behind. Returns {"where", "what"}; {} when everything is finite (the numbers blew up between two steps).
    """
    for number, tensor in enumerate(tensors_of(batch)):
        if _bad(tensor):
            return {"where": "input", "what": f"tensor {number} of the batch, shape {tuple(tensor.shape)}"}
    for name, parameter in model.named_parameters():
        if _bad(parameter):
            return {"where": "parameter", "what": name}
    found: list[str] = []
    handles = [module.register_forward_hook(_hook(name, found)) for name, module in model.named_modules() if name]
    try:
        for parameter in model.parameters():
            parameter.grad = None
        value = loss()
        if found:
            return {"where": "activation", "what": found[0]}
        if _bad(value):
            return {"where": "loss", "what": f"{float(value.detach().double().reshape(-1)[0])}"}
        value.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and _bad(parameter.grad):
            return {"where": "gradient", "what": f"of {name}"}
    for slots in (state or {}).values():
        for key, tensor in slots.items():
            if isinstance(tensor, torch.Tensor) and _bad(tensor):
                return {"where": "optimizer state", "what": str(key)}
    return {}


def _bad(tensor: torch.Tensor) -> bool:
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all())


def _hook(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if any(_bad(tensor) for tensor in tensors_of(output)):
            found.append(f"the output of {name} ({type(module).__name__})")

    return look


def find(history: History) -> Finding:
    """run.first_non_finite: from the event of the training loop, else from the recorded series."""
    how = "every recorded number, and the pass that broke repeated module by module"
    for event in history.run.events("diverged") + history.run.events("non-finite"):
        data = event["data"]
        if data.get("where"):
            step = int(event["step"])
            return measured(
                CLAIM,
                f"The first number that is not finite at step {step:,} is in the {data['where']}: {data['what']}.",
                float(step),
                method=how,
                error_kind="exact",
                scope=Scope.RUN,
                witness={"where": data["where"], "what": data["what"], "step": step},
            )
    first: tuple[int, str] | None = None
    for name in history.run.names:
        steps, numbers = history.run.series(name)
        broken = [int(step) for step, number in zip(steps, numbers, strict=True) if not abs(number) < float("inf")]
        if broken and (first is None or broken[0] < first[0]):
            first = (broken[0], name)
    if first is not None:
        return measured(
            CLAIM,
            f"{first[1]} is the first recorded series that is not finite, at step {first[0]:,}.",
            float(first[0]),
            method="every recorded number",
            error_kind="exact for what was recorded",
            scope=Scope.RUN,
            witness={"where": first[1], "what": "recorded series", "step": first[0]},
        )
    if not history.run.names:
        return unknown(CLAIM, "Nothing was recorded.", missing="a record")
    return refuted(
        CLAIM,
        "Every recorded number is finite.",
        {"series": len(history.run.names)},
        method="every recorded number",
        scope=Scope.RUN,
    )
