"""The cheap numbers of a watched training: loss, steps, gradient norms, kept on the device and written now and then.

They are read at some steps only, spaced so that they take a third of the budget; nothing is done in between.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from tameopt.integrations._ranks import Alone, Plan
from tameopt.integrations._record import Record

_BUFFER_ROWS = 512  # our choice: sampled steps held on the device before they are written
_FLUSH_SECONDS = 1.0  # our choice: what a kill -9 may cost
_HOOKED_PARAMETERS = 512  # our choice: beyond, a hook a parameter would cost more than it tells
_ENGINE = torch.autograd.Variable._execution_engine
_COLUMNS = ("loss", "gradient_norm", "gradient_norm_before_clipping")


class Samples:
    """What is known of the sampled steps and not yet written.

    parameters: those of the optimizer that are trained.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[torch.Tensor],
        ranks: Alone,
        scaler: Any,
    ) -> None:
        self._optimizer, self._parameters, self._ranks = optimizer, parameters, ranks
        device = parameters[0].device
        self._buffer = torch.full((_BUFFER_ROWS, len(_COLUMNS)), math.nan, device=device)
        self._unknown = torch.full((), math.nan, device=device)
        self._rows: list[tuple[int, list[float]]] = []  # (step, lr of each group) of the buffer's rows
        self._written: set[str] = set()
        self._last = 0  # the last step written
        self._loss: torch.Tensor | None = None
        self._losses = 0
        self.rows = 0  # of the loss' first argument, for the present step
        self._flushed = time.perf_counter()
        self._hooked = len(parameters) <= _HOOKED_PARAMETERS
        self._handles: list[Any] = []
        self._accumulators: list[Any] = []  # the graph nodes that fill .grad; hooks go with them
        self._backward_ends = False  # whether the end of the present backward pass is waited for
        self._before: torch.Tensor | None = None  # () norm of the gradients at the end of the last backward pass
        self.hook_seconds = 0.0  # spent for the next sample outside `take`
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.skips = Skips(scaler, fused) if scaler is not None and scaler.is_enabled() else None

    def arm(self) -> None:
        """See the gradients as the last backward pass of the coming step leaves them, before any clipping."""
        if not self._hooked:
            return
        self.disarm()
        self._backward_ends, self._before = False, None
        leaves = [parameter for parameter in self._parameters if parameter.is_leaf]
        if self._ranks.world > 1:
            # fully_shard fills the shards' .grad by itself and calls the hooks of the tensor, not of a node
            self._handles = [parameter.register_post_accumulate_grad_hook(self._see) for parameter in leaves]
            return
        # a hook on the tensor would leave its empty table behind, 2 us a parameter in each later backward pass
        self._accumulators = [get_gradient_edge(parameter).node for parameter in leaves]
        self._handles = [node.register_hook(self._see) for node in self._accumulators]

    def _see(self, *gradients: Any) -> None:
        # the first parameter that a backward pass reaches asks to be called when that pass is over
        if not self._backward_ends:
            self._backward_ends = True
            _ENGINE.queue_callback(self._last_hook_called)

    def _last_hook_called(self) -> None:
        # DDP averages the gradients in such a call too, which it asked for after this one: wait for it
        _ENGINE.queue_callback(self._backward_over)

    def _backward_over(self) -> None:
        begun = time.perf_counter()
        self._backward_ends = False
        if self._handles:
            self._before = self._gradient_norm()
        self.hook_seconds += time.perf_counter() - begun

    def disarm(self) -> None:
        """Take the hooks of `arm` away."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._accumulators = [], []

    def add_loss(self, loss: torch.Tensor) -> None:
        """A loss of the coming step; several, when gradients are accumulated, are averaged."""
        value = loss.detach().mean()
        self._loss = value if self._loss is None else self._loss + value
        self._losses += 1

    def take(self, step: int, plan: Plan) -> Plan:
        """Put the numbers of this step into the buffer; returns the plan that holds for all ranks."""
        with torch.no_grad():
            loss = self._unknown if self._loss is None else (self._loss / self._losses).to(self._unknown)
            after = self._gradient_norm()
            before = self._unknown if self._before is None else self._before
            if self.skips is not None:
                # backward left scaled gradients; a fused optimizer unscales them inside its step
                before = before / self.skips.scale.to(before)
                if getattr(self._optimizer, "grad_scale", None) is not None:
                    after = after / self.skips.scale.to(after)
            numbers, self.rows, plan = self._ranks.join(loss, after, before, self.rows, plan)
            self._buffer[len(self._rows)] = numbers
        self._rows.append((step, [float(group["lr"]) for group in self._optimizer.param_groups]))
        self._loss, self._losses, self._before = None, 0, None
        self.disarm()
        return plan

    def _gradient_norm(self) -> torch.Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if not gradients or any(gradient.is_sparse for gradient in gradients):
            return self._unknown
        norms = self._ranks.local_norms(gradients)
        return torch.stack([norm.to(self._unknown) for norm in norms]).norm()

    def due(self) -> bool:
        """Whether it is time to write."""
        return len(self._rows) == _BUFFER_ROWS or time.perf_counter() - self._flushed > _FLUSH_SECONDS

    def flush(self, run: Record, ended: bool = False) -> None:
        """Write the buffered numbers to the record: the only host synchronisation of the cheap part."""
        self._flushed = time.perf_counter()
        if self.skips is not None and (self._rows or ended):
            self.skips.write(run, self._rows[-1][0] if self._rows else self._last, ended)
        if not self._rows:
            return
        numbers = self._buffer[: len(self._rows)].double().cpu()
        self._buffer.fill_(math.nan)
        steps, alphas = [step for step, _ in self._rows], [lrs for _, lrs in self._rows]
        self._rows = []
        columns: dict[str, list[float]] = {"lr": [lrs[0] for lrs in alphas]}
        for group in range(1, min(len(lrs) for lrs in alphas)):
            name = f"lr of group {group}"
            if name in self._written or any(lrs[group] != lrs[0] for lrs in alphas):
                columns[name] = [lrs[group] for lrs in alphas]
        for index, name in enumerate(_COLUMNS):
            if name in self._written or not bool(torch.isnan(numbers[:, index]).all()):
                columns[name] = numbers[:, index].tolist()
        self._written |= set(columns)
        run.record_many(steps, columns)
        self._last = steps[-1]


class Skips:
    """How often a GradScaler has skipped a step, without waiting for the device.

    A skip multiplies the scale by the backoff factor, growth after enough good steps by another. A plain optimizer
    is called on good steps only: what lies between two calls is that step's growth, if it was due, and the skips
    since. A fused optimizer is called on every step and skips inside: a scale that fell in between is one skip.
    """

    def __init__(self, scaler: Any, fused: bool) -> None:
        self._scaler, self._fused = scaler, fused
        self._expected: torch.Tensor | None = None  # the scale when nothing is skipped until the next call
        self._count: torch.Tensor | None = None
        self._written = 0

    @property
    def scale(self) -> torch.Tensor:
        """() the scale that the last backward pass used."""
        scale = self._scaler._scale
        return torch.ones(()) if scale is None else scale

    def look(self) -> None:
        """Called before each step that is made."""
        scaler = self._scaler
        scale = scaler._scale
        if scale is None:
            return
        with torch.no_grad():
            skipped = self._since(scale)
            self._count = skipped if self._count is None else self._count + skipped
            grows = scaler._growth_tracker + 1 == scaler.get_growth_interval()
            grown = scale if self._fused else scale * scaler.get_growth_factor()
            self._expected = torch.where(grows, grown, scale).clone()

    def _since(self, scale: torch.Tensor) -> torch.Tensor:
        """Skips between the last call and now, () on the device."""
        expected = torch.full_like(scale, self._scaler._init_scale) if self._expected is None else self._expected
        skipped = (torch.log(expected / scale) / -math.log(self._scaler.get_backoff_factor())).round()
        return skipped.clamp(0.0, 1.0 if self._fused else math.inf).reshape(())

    def write(self, run: Record, step: int, ended: bool) -> None:
        """The scale and the number of skipped steps so far; an event when some were skipped since the last time.

        ended: the training is over, so that skips since the last step that was made are complete.
        """
        skipped = 0 if self._count is None else int(self._count)
        if ended and self._scaler._scale is not None:
            skipped += int(self._since(self._scaler._scale))
        scale = float(self._scaler.get_scale())
        run.record(step, {"grad_scale": scale, "skipped_steps": float(skipped)})
        if skipped > self._written:
            run.event(
                step,
                "steps skipped by GradScaler",
                {"since_last_time": skipped - self._written, "in_all": skipped, "scale": scale},
            )
        self._written = skipped
