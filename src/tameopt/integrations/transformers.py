"""tameopt as a callback of transformers' Trainer: `Trainer(..., callbacks=[TameCallback(...)])`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tameopt.batches import Batch
from tameopt.extras import require
from tameopt.integrations.watch import Watch, watch

_TRANSFORMERS = require("transformers", "TameCallback")


def model_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The loss that a transformers model returns when its batch holds labels."""
    loss: torch.Tensor = model(**batch).loss
    return loss


class TameCallback(_TRANSFORMERS.TrainerCallback):  # type: ignore[name-defined]
    """Watch a transformers training.

    data: dict batches (or tensors) for probes of F over all data, with `forward` (by default the model's own loss).
    options: as in `tame.watch` (budget, out, name, ...).

    The Watch is `callback.watching` from the start of the training on. The Trainer clips before the step: norms
    before and after are recorded under their names.
    """

    def __init__(
        self,
        data: Any = None,
        forward: Callable[[nn.Module, Batch], torch.Tensor] = model_loss,
        **options: Any,
    ) -> None:
        self._data, self._forward, self._options = data, forward, options
        self.watching: Watch | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Begin to watch."""
        model = rest["model"]
        forward = self._forward if self._data is not None else None
        watching = watch(model, rest["optimizer"], None, self._data, forward=forward, **self._options)
        self.watching = watching

        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            loss = getattr(output, "loss", None)
            if isinstance(loss, torch.Tensor) and loss.requires_grad:
                watching.step(loss)

        self._hook = model.register_forward_hook(see)

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Close the record."""
        if self._hook is not None:
            self._hook.remove()
        if self.watching is not None:
            self.watching.close()
