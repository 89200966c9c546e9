"""tameopt as a Lightning callback: `Trainer(callbacks=[TameCallback(...)])`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tameopt.batches import Batch
from tameopt.extras import require
from tameopt.integrations.watch import Watch, watch

_LIGHTNING = require("lightning.pytorch", "TameCallback")


class TameCallback(_LIGHTNING.Callback):  # type: ignore[name-defined]
    """Watch a Lightning training.

    data, forward: for probes of F over all data; forward(module, batch) -> loss, e.g.
        lambda module, batch: module.training_step(batch, 0) where that draws no random numbers.
    options: as in `tame.watch` (budget, out, name, ...).

    The Watch is `callback.watching` from the start of the fit on. Lightning computes gradients inside
    optimizer.step(closure): norms before and after its clipping are recorded under their names.

    Raises ValueError at the start of a fit with several optimizers: watch each with `tame.watch`.
    """

    def __init__(
        self,
        data: Any = None,
        forward: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
        **options: Any,
    ) -> None:
        self._data, self._forward, self._options = data, forward, options
        self.watching: Watch | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch."""
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"TameCallback watches one optimizer, this module has {len(trainer.optimizers)}: "
                "call tame.watch for each."
            )
        self.watching = watch(
            pl_module, trainer.optimizers[0], None, self._data, forward=self._forward, **self._options
        )

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Tell the loss of the coming step."""
        if self.watching is not None:
            self.watching.step(loss)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the record."""
        if self.watching is not None:
            self.watching.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the record of a fit that was stopped."""
        if self.watching is not None:
            self.watching.__exit__(type(exception), exception, None)
