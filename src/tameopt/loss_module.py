"""A person's model and loss as one module of a batch, whose tensors can be swapped from outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tameopt.batches import Batch

Loss = Callable[..., torch.Tensor]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel or DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class BatchLoss(nn.Module):
    """batch -> what the person's loss returns, as one module, so that functional_call can swap the parameters."""

    def __init__(
        self, model: nn.Module, loss: Loss | None, forward: Callable[[nn.Module, Batch], torch.Tensor] | None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.batch_forward = forward

    def forward(self, batch: Batch, outputs_only: bool = False) -> torch.Tensor:
        if self.batch_forward is not None:
            return self.batch_forward(self.model, batch)
        *inputs, target = batch
        output = self.model(*inputs)
        if outputs_only:
            return output
        assert self.loss is not None
        return self.loss(output, target)


class Function(nn.Module):
    """A plain function of theta as a module with one parameter."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], theta0: torch.Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta0.detach().clone())
        self.function = function

    def forward(self) -> torch.Tensor:
        return self.function(self.theta)


def structure_copy(model: nn.Module) -> nn.Module:
    """The module tree copied, its tensors shared: mode and hooks can differ, no memory is taken."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def trainable(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters that are theta, by name.

    Raises ValueError when there are none, or complex ones.
    """
    parameters = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise ValueError(
            f"the model must have trainable parameters, {name} has none: set requires_grad_(True) on some."
        )
    for key, parameter in parameters.items():
        if parameter.is_complex():
            raise ValueError(f"parameters must be real, {key!r} is {parameter.dtype}: view it as real pairs.")
    return parameters
