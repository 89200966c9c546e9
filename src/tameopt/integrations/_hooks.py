"""The hooks through which a watch sees a training: one counts steps, the others stand while one is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tameopt.loss_module import Loss


class Hooks:
    """Calls `after_step` after each step from now on; `before_step` and `see_loss` between `look` and `look_away`.

    `see_loss` is called where the loss is a module. A hook costs some microseconds a step even if it does nothing.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Loss | None,
        before_step: Callable[..., None],
        after_step: Callable[..., None],
        see_loss: Callable[..., None],
    ) -> None:
        self._optimizer, self._loss = optimizer, loss if isinstance(loss, nn.Module) else None
        self._before_step, self._see_loss = _out_of_graphs(before_step), see_loss
        self._counting = optimizer.register_step_post_hook(_out_of_graphs(after_step))
        self._stepping: Any = None
        self._losing: Any = None

    def look(self) -> None:
        """Let the hooks stand that are not there."""
        if self._stepping is None:
            self._stepping = self._optimizer.register_step_pre_hook(self._before_step)
        if self._losing is None and self._loss is not None:
            self._losing = self._loss.register_forward_hook(self._see_loss)

    def leave_loss(self) -> None:
        """Take the loss' hook away, which may be done in `before_step` too."""
        if self._losing is not None:
            self._losing.remove()
            self._losing = None

    def look_away(self) -> None:
        """Only count; not to be called in `before_step`."""
        self.leave_loss()
        if self._stepping is not None:
            self._stepping.remove()
            self._stepping = None

    def close(self) -> None:
        """No hook is left."""
        self.look_away()
        self._counting.remove()


def _out_of_graphs(hook: Callable[..., None]) -> Callable[..., None]:
    """The same hook, which a compiled optimizer.step() calls in Python instead of tracing what it does.

    An optimizer has imported torch's compiler already; an uncompiled step pays the question alone.
    """
    untraced = torch.compiler.disable(hook)

    def called(*args: Any) -> None:
        if torch.compiler.is_compiling():
            untraced(*args)
        else:
            hook(*args)

    return called
