"""tame.watch: two lines in anybody's training loop, at a cost one forgets.

The optimizer's own hooks see each step; nothing in the loop changes. Cheap numbers (learning rate, loss where the
loss is a module, gradient norms before and after clipping) go into a buffer on the device and reach the disk now
and then; full-data values, gradients and copies of theta are taken when the budget allows. Probes are functional:
parameters, buffers, gradients and random states stay bit for bit what they were.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from tameopt.batches import Batch, rows, size_of
from tameopt.integrations._budget import Budget, parse_share
from tameopt.loss_module import Loss, unwrapped
from tameopt.problem import Problem
from tameopt.run import Run

_LOG = logging.getLogger("tameopt")
_BUFFER_ROWS = 512  # our choice: sampled steps held on the device before they are written
_FLUSH_SECONDS = 1.0  # our choice: what a kill -9 may cost
_WINDOW_STEPS = 100  # consecutive iterates in one window, for the ODE method
_WINDOW_BYTES = 64 << 20
_VECTOR_BYTES = 1 << 30  # our choice: a record's copies of theta stop here
_ESTIMATE_SAMPLES = 256  # our choice: large enough that the fixed cost of a pass does not dominate
_COLUMNS = ("loss", "gradient_norm", "gradient_norm_before_clipping")


class Watch:
    """A training run being watched; made by `tame.watch`.

    run: the record on disk. problem: the full-data objective, or None when no data were given.
    Use it as a context manager, or call `close()` at the end; a run that is never closed stays readable.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Loss | None,
        problem: Problem | None,
        run: Run,
        budget: Budget,
        window_steps: int,
        scaler: Any = None,
    ) -> None:
        self.run = run
        self.problem = problem
        self.budget = budget
        self._optimizer = optimizer
        self._scaler = scaler
        self._scale = math.nan
        self._parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad
        ]
        self._trainable = {
            name: parameter for name, parameter in unwrapped(model).named_parameters() if parameter.requires_grad
        }
        self._d = sum(parameter.numel() for parameter in self._trainable.values())
        first = self._parameters[0]
        self._buffer = torch.full((_BUFFER_ROWS, len(_COLUMNS)), math.nan, device=first.device)
        self._rows: list[tuple[int, float]] = []  # (step, lr) of the buffer's rows
        self._step = 0
        self._closure = False
        self._batch_size = 0  # samples that the loss saw for the first sampled step; -1 once written
        self._armed = True  # whether the coming step is sampled
        self._next_sample = 0
        self._sample_seconds = 0.0
        self._loss: torch.Tensor | None = None
        self._losses = 0
        self._probing = False
        self._probe_seconds = self._estimated_probe_seconds()
        self._next_probe = 0
        self._probe_fails = "" if problem is not None else "no data were given"
        self._window: list[torch.Tensor] = []
        self._window_start = -1
        self._window_steps = window_steps
        self._windows: list[list[int]] = []
        self._vector_bytes = 0
        self._flushed = time.perf_counter()
        self._closed = False
        self._clipping_handles: list[Any] = []
        self._norms_before: list[torch.Tensor] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        if isinstance(loss_fn, nn.Module):
            self._handles.append(loss_fn.register_forward_hook(self._see_loss))
        self._arm_clipping()

    # -- what the loop may call ----------------------------------------------------------------------------

    def step(self, loss: torch.Tensor | None = None, batch: Batch = None) -> None:
        """Tell the loss of the coming optimizer step, where the loss is a function that no hook can see.

        loss: scalar tensor; it is kept on its device. batch: its size is recorded once.
        """
        if loss is not None and self._armed:
            self._add_loss(loss)
        if batch is not None and self._batch_size >= 0 and self._armed:
            self._batch_size += size_of(batch)

    def report(self, **options: Any) -> Any:
        """The audit of the run so far (a Diagnosis); training may go on afterwards."""
        import tameopt

        self.flush()
        with_problem = {} if self.problem is None else {"problem": self.problem}
        return tameopt.audit(self.run, **with_problem, **options)

    def close(self) -> None:
        """Write what is held and take the hooks away; the last iterate is saved."""
        if self._closed:
            return
        self._closed = True
        for handle in (*self._handles, *self._clipping_handles):
            handle.remove()
        self._probe()
        self._save_theta()
        self._end_window()
        self.flush()
        self.run.update_meta(
            {
                "status": "finished" if self.run.status == "running" else self.run.status,
                "steps_done": self._step,
                "watching": {
                    "seconds": self.budget.spent,
                    "share_of_time": self.budget.used,
                    "probes": int(self.run.series("full_loss")[0].size),
                },
            }
        )
        self.run.close()
        self.run = Run.open(self.run.path)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and not self._closed:
            self.run.event(self._step, "interrupted", {"by": kind.__name__})
            self.run.update_meta({"status": "interrupted"})
        self.close()

    def __repr__(self) -> str:
        return f"Watch({self.run.path.name}, step {self._step:,}, cost {self.budget.used:.1%} of the time)"

    # -- hooks ---------------------------------------------------------------------------------------------

    def _see_loss(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._armed and not self._probing and torch.is_grad_enabled() and isinstance(output, torch.Tensor):
            self._add_loss(output)
            if self._batch_size >= 0 and inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim:
                self._batch_size += inputs[0].shape[0]

    def _add_loss(self, loss: torch.Tensor) -> None:
        value = loss.detach().mean()
        self._loss = value if self._loss is None else self._loss + value
        self._losses += 1

    def _arm_clipping(self) -> None:
        """See each gradient as the last backward pass of the coming step leaves it, before any clipping."""
        if len(self._parameters) > 512:
            return  # a hook a parameter a step would cost more than it tells
        self._norms_before = []
        for handle in self._clipping_handles:
            handle.remove()
        seen: dict[int, torch.Tensor] = {}

        def see(parameter: torch.Tensor) -> None:
            if parameter.grad is not None and not parameter.grad.is_sparse:
                seen[id(parameter)] = parameter.grad.detach().norm()

        self._seen = seen
        self._clipping_handles = [
            parameter.register_post_accumulate_grad_hook(see) for parameter in self._parameters if parameter.is_leaf
        ]

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # optimizer.step(closure) computes the gradients inside (Lightning, LBFGS): they are read after the step
        self._closure = kwargs.get("closure") is not None or any(callable(one) for one in args[1:])
        if self._step >= self._next_probe and self.budget.allows(self._probe_seconds):
            self._timed_probe()
        if self._armed and not self._closure:
            self._sample()
        if self._window_start >= 0:
            begun = time.perf_counter()
            self._window.append(self._flat_theta())
            if len(self._window) > self._window_steps:
                self._end_window()
            self.budget.spent += time.perf_counter() - begun

    def _after_step(self, *rest: Any) -> None:
        if self._armed and self._closure:
            self._sample()
        self._step += 1
        if not self._armed and self._step >= self._next_sample:
            begun = time.perf_counter()
            self._armed = True
            self._arm_clipping()
            self.budget.spent += time.perf_counter() - begun

    # -- cheap numbers -------------------------------------------------------------------------------------

    def _sample(self) -> None:
        begun = time.perf_counter()
        with torch.no_grad():
            row = self._buffer[len(self._rows)]
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            if self._loss is not None:
                row[0] = self._loss / self._losses
            if gradients and not any(gradient.is_sparse for gradient in gradients):
                row[1] = get_total_norm(gradients)
            if self._clipping_handles and self._seen:
                norms = list(self._seen.values())
                row[2] = torch.stack([norm.to(row.device, row.dtype) for norm in norms]).norm()
        self._rows.append((self._step, float(self._optimizer.param_groups[0]["lr"])))
        self._loss, self._losses = None, 0
        if self._batch_size > 0:
            self.run.update_meta({"batch_size": self._batch_size})
            self._batch_size = -1  # the first sampled step tells; the last batch of an epoch may be smaller
        if self._step == 0:
            self._save_theta()  # F(theta_0) can be evaluated later; theta_0 cannot be had later
        for handle in self._clipping_handles:
            handle.remove()
        self._clipping_handles = []
        if len(self._rows) == _BUFFER_ROWS or time.perf_counter() - self._flushed > _FLUSH_SECONDS:
            self.flush()
        spent = time.perf_counter() - begun
        self.budget.spent += spent
        self._sample_seconds = spent if not self._sample_seconds else 0.8 * self._sample_seconds + 0.2 * spent
        # a third of the budget goes to these numbers, the rest to the probes
        step_seconds = max(self.budget.elapsed - self.budget.spent, 1e-9) / (self._step + 1)
        stride = math.ceil(3 * self._sample_seconds / (self.budget.share * step_seconds))
        self._next_sample = self._step + max(1, stride)
        self._armed = False

    def flush(self) -> None:
        """Write the buffered numbers to the record: the only host synchronisation of the cheap part."""
        self._flushed = time.perf_counter()
        if not self._rows:
            return
        numbers = self._buffer[: len(self._rows)].double().cpu()
        self._buffer.fill_(math.nan)
        steps = [step for step, _ in self._rows]
        columns: dict[str, list[float]] = {"lr": [lr for _, lr in self._rows]}
        for index, name in enumerate(_COLUMNS):
            if not bool(torch.isnan(numbers[:, index]).all()) or self.run.series(name)[0].size:
                columns[name] = numbers[:, index].tolist()
        self._rows = []
        self.run.record_many(steps, columns)
        if self._scaler is not None:
            scale = float(self._scaler.get_scale())
            self.run.record(steps[-1], {"grad_scale": scale})
            if scale < self._scale:
                self.run.event(steps[-1], "gradient scale fell", {"from": self._scale, "to": scale})
            self._scale = scale

    # -- probes --------------------------------------------------------------------------------------------

    def _timed_probe(self) -> None:
        begun = time.perf_counter()
        self._probe()
        self._save_theta()
        if self._window_start < 0 and self._window_affordable():
            self._window_start = self._step
        seconds = time.perf_counter() - begun
        self.budget.spent += seconds
        self._probe_seconds = seconds
        # geometric spacing: a run of a million steps gets some hundreds of probes, dense where it moves fast
        self._next_probe = self._step + max(1, self._step // 50)

    def _probe(self) -> None:
        """F and its gradient over all data at the present theta."""
        if self._probe_fails or self.problem is None:
            return
        self._probing = True
        try:
            value, gradient = self.problem.value_and_gradient()
            self.run.record(self._step, {"full_loss": float(value), "full_gradient_norm": float(gradient.norm())})
        except Exception as error:  # noqa: BLE001 - whatever a person's model raises, their training goes on
            self._probe_fails = f"{type(error).__name__}: {error}"
            _LOG.warning("tameopt: the full-data probe is off from step %d on: %s", self._step, self._probe_fails)
            self.run.event(self._step, "probe disabled", {"probe": "full loss", "reason": self._probe_fails})
        finally:
            self._probing = False

    def _estimated_probe_seconds(self) -> float:
        """What a probe will cost, from a part of the data: the first probe of a large problem must fit too."""
        if self.problem is None or self.problem.is_function:
            return 0.0
        batch = next(iter(self.problem.batches))
        part = rows(batch, slice(0, min(_ESTIMATE_SAMPLES, size_of(batch))))
        theta = self.problem.theta
        self.problem.batch_gradient(theta, part)  # the first call warms up
        begun = time.perf_counter()
        self.problem.batch_gradient(theta, part)
        return (time.perf_counter() - begun) * self.problem.n / size_of(part)

    def _flat_theta(self) -> torch.Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in self._trainable.values()])

    def _save_theta(self) -> None:
        bytes_needed = 4 * self._d
        if self._vector_bytes + bytes_needed > _VECTOR_BYTES:
            return
        self._vector_bytes += bytes_needed
        self.run.save_vectors(self._step, {"theta": self._flat_theta()})

    def _window_affordable(self) -> bool:
        bytes_needed = 4 * self._d * (self._window_steps + 1)
        spaced = not self._windows or self._step > 2 * self._windows[-1][1]
        return (
            self._window_steps > 0
            and spaced
            and bytes_needed <= _WINDOW_BYTES
            and self._vector_bytes + bytes_needed <= _VECTOR_BYTES
        )

    def _end_window(self) -> None:
        if self._window_start >= 0 and len(self._window) > 1:
            first = self._step - len(self._window) + 1 if not self._closed else self._step - len(self._window)
            steps = list(range(first, first + len(self._window)))
            self.run.save_block("theta", steps, torch.stack(self._window))
            self._vector_bytes += 4 * self._d * len(self._window)
            self._windows.append([steps[0], steps[-1]])
            self.run.update_meta({"windows": self._windows})
        self._window, self._window_start = [], -1


def _arguments(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group that JSON can hold."""
    return {
        key: value if isinstance(value, (bool, int, float, str, type(None))) else list(value)
        for key, value in group.items()
        if key not in ("params", "param_names")
        and (
            isinstance(value, (bool, int, float, str, type(None)))
            or (isinstance(value, (tuple, list)) and all(isinstance(part, (int, float)) for part in value))
        )
    }


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside the wrappers of Accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return optimizer


def _free_folder(root: Path, name: str) -> Path:
    folder, serial = root / name, 2
    while folder.exists():
        folder, serial = root / f"{name}-{serial}", serial + 1
    return folder


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss | None = None,
    data: Any = None,
    *,
    forward: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
    budget: str | float = "2%",
    batch_size: int | None = None,
    out: str | os.PathLike[str] = "runs",
    name: str | None = None,
    window_steps: int = _WINDOW_STEPS,
    scaler: torch.amp.GradScaler | None = None,
) -> Watch:
    """Watch a training loop through its optimizer's hooks; the loop itself stays as it is.

    model: compiled and parallel wrappers are looked through. optimizer: any torch or tameopt optimizer.
    loss_fn, data, forward, batch_size: as in `Problem`, for probes of F over all data (in eval mode); without
        data only the cheap numbers are recorded. When `loss_fn` is a module its values are recorded too; for a
        function call `watch.step(loss)` once a step.
    budget: share of the training's time that watching may take, "2%" or 0.02.
    out, name: the record goes to `out/name` (a number is added rather than overwrite).
    window_steps: consecutive iterates kept in a window now and then (0 for none).
    scaler: the loop's GradScaler, whose scale is recorded; a step that it skips is not counted as a step.

    Under torch.distributed only rank 0 watches; the other ranks get a Watch that does nothing but hold no hooks.

    Raises ValueError for a bad budget, an optimizer without trainable parameters, parameters that are sharded
    (DTensor), or data the model cannot run on.

    >>> import tempfile
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> data = (torch.ones(8, 3), torch.zeros(8, 1))
    >>> with watch(model, optimizer, torch.nn.MSELoss(), data, out=tempfile.mkdtemp(), name="doc") as watching:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.mse_loss(model(data[0]), data[1]).backward()
    ...         _ = optimizer.step()
    >>> watching.run.meta["steps_done"]
    3
    """
    share = parse_share(budget)
    optimizer = innermost(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError("the optimizer must hold trainable parameters, it holds none: pass model.parameters().")
    sharded = [type(parameter).__name__ for parameter in parameters if type(parameter.data).__name__ == "DTensor"]
    if sharded:
        raise ValueError(
            "watch takes whole parameters, these are sharded (DTensor): not measured under FSDP; watch a replicated "
            "(DDP) run, or audit a full checkpoint."
        )
    problem = None
    if data is not None and (loss_fn is not None or forward is not None):
        problem = Problem(model, loss_fn, data, forward=forward, batch_size=batch_size, mode="eval")
    inner = unwrapped(model)
    settings = {
        "target": name or type(inner).__name__,
        "problem": type(inner).__name__,
        "d": sum(parameter.numel() for parameter in inner.parameters() if parameter.requires_grad),
        "n": problem.n if problem is not None else None,
        "dtype": str(next(inner.parameters()).dtype).removeprefix("torch."),
        "optimizer": {
            "name": type(optimizer).__name__,
            "arguments": _arguments(optimizer.param_groups[0]),
            "groups": [_arguments(group) for group in optimizer.param_groups],
        },
        "sampling": "unknown",
        "watched": True,
        "budget": share,
    }
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    root = Path(out)
    label = name or type(inner).__name__.lower()
    if rank:
        return _Idle(root / label)
    run = Run.create(_free_folder(root, label), settings)
    return Watch(model, optimizer, loss_fn, problem, run, Budget(share), window_steps, scaler)


class _Idle(Watch):
    """What ranks other than 0 hold: no hooks, no record."""

    def __init__(self, path: Path) -> None:
        self.problem = None
        self.budget = Budget(0.5)
        self._path = path
        self._closed = True
        self._armed = False

    def step(self, loss: torch.Tensor | None = None, batch: Batch = None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __repr__(self) -> str:
        return "Watch(idle: rank 0 records)"
