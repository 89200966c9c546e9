"""tame.watch: two lines in anybody's training loop, at a cost one forgets.

The optimizer's own hooks see each step; nothing in the loop changes. Cheap numbers (learning rate, loss where the
loss is a module, gradient norms before and after clipping) go into a buffer on the device and reach the disk now
and then; full-data values, gradients and copies of theta are taken when the budget allows, and at the probed thetas
the certificate of zero training loss is tried while that is cheap. Probes are functional: parameters, buffers,
gradients and random states stay bit for bit what they were.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tameopt.batches import Batch, size_of
from tameopt.evidence import Finding
from tameopt.integrations._budget import Budget, parse_share
from tameopt.integrations._hooks import Hooks
from tameopt.integrations._optimizer import innermost
from tameopt.integrations._probes import Probes, full_objective, loss_rows
from tameopt.integrations._ranks import GATHERED_BYTES, Alone, Plan, Sharded, sharded
from tameopt.integrations._record import Record, free_folder, settings_of
from tameopt.integrations._samples import Samples
from tameopt.loss_module import Loss, unwrapped
from tameopt.problem import Problem
from tameopt.run import Run

_WINDOW_STEPS = 100  # consecutive iterates in one window, for the ODE method


class Watch:
    """A training run being watched; made by `tame.watch`.

    problem: the full-data objective, or None when no data were given (or it cannot be probed).
    Use it as a context manager, or call `close()` at the end; a run that is never closed stays readable.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        loss_fn: Loss | None,
        samples: Samples,
        probes: Probes,
        run: Run | None,
        budget: Budget,
        ranks: Alone,
        replicas: int,
    ) -> None:
        self.budget = budget
        self._samples, self._probes, self._ranks, self._replicas = samples, probes, ranks, replicas
        self._rows = loss_rows(probes.problem, loss_fn)
        self._told = False  # whether `step` tells the batches
        self._run = run
        self._record = Record(run)
        self._step = 0
        self._closure = False
        self._batch_size_written = False
        self._armed = True  # whether the coming step is sampled
        self._next_sample = 0
        self._sample_seconds = 0.0
        self._probe_due = False
        self._next_probe = 0
        self._closed = False
        self._hooks = Hooks(optimizer, loss_fn, self._before_step, self._after_step, self._see_loss)
        self._quiet_until = 0  # before this many steps `_after_step` only counts
        self._arm()

    @property
    def run(self) -> Run:
        """The record on disk.

        Raises RuntimeError on the ranks that do not record.
        """
        if self._run is None:
            raise RuntimeError(f"rank {self._ranks.rank} keeps no record, rank 0 does: read watching.run there.")
        return self._run

    @property
    def problem(self) -> Problem | None:
        """F over all data, as the probes evaluate it."""
        return self._probes.problem

    @property
    def certified(self) -> Finding | None:
        """The proof that zero training loss is reached from a probed step on, once a certificate held there.

        Its file is `certificate.safetensors` in the run's folder, which `tameopt certify --check` replays.
        """
        live = self._probes.certificates
        return None if live.found is None else live.found.finding(live.step)

    # -- what the loop may call ----------------------------------------------------------------------------

    def step(self, loss: torch.Tensor | None = None, batch: Batch = None) -> None:
        """Tell the loss of the coming optimizer step, where the loss is a function that no hook can see.

        loss: scalar tensor; it is kept on its device. batch: its size is recorded once.
        """
        if not self._armed:
            return
        if loss is not None:
            self._samples.add_loss(loss)
        if batch is not None:
            self._samples.rows = size_of(batch) * (self._rows or 1) + (self._samples.rows if self._told else 0)
            self._told = True

    def report(self, **options: Any) -> Any:
        """The audit of the run so far (a Diagnosis); training may go on afterwards."""
        import tameopt

        self.flush()
        with_problem = {} if self.problem is None else {"problem": self.problem}
        with self._unhooked(again=self._armed and not self._closed):
            return tameopt.audit(self.run, **with_problem, **options)

    def flush(self) -> None:
        """Write the buffered numbers to the record."""
        self._samples.flush(self._record)

    def close(self) -> None:
        """Write what is held and take the hooks away; the last iterate is saved. With sharded parameters all ranks
        call it."""
        self._close(True)

    def _close(self, collectively: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._hooks.close()
        self._samples.disarm()
        if collectively:
            self._probes.look(self._record, self._step)
        self._probes.end_window(self._record)
        self._samples.flush(self._record, ended=True)
        if self._run is None:
            return
        self._record.update_meta(
            {
                "status": "finished" if self._run.status == "running" else self._run.status,
                "steps_done": self._step,
                "watching": {
                    "seconds": self.budget.spent,
                    "share_of_time": self.budget.used,
                    "probes": self._probes.count,
                },
            }
        )
        self._run.close()
        self._run = Run.open(self._run.path)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and not self._closed:
            self._record.event(self._step, "interrupted", {"by": kind.__name__})
            self._record.update_meta({"status": "interrupted"})
        # after an exception the other ranks may be elsewhere: nobody would answer a collective
        self._close(kind is None or self._ranks.world == 1)

    def __repr__(self) -> str:
        name = f"rank {self._ranks.rank}" if self._run is None else self._run.path.name
        return f"Watch({name}, step {self._step:,}, cost {self.budget.used:.1%} of the time)"

    # -- hooks ---------------------------------------------------------------------------------------------

    def _see_loss(self, module: nn.Module, inputs: Any, output: Any) -> None:
        seen = self._armed and not self._probes.running and torch.is_grad_enabled()
        if seen and isinstance(output, torch.Tensor):
            self._samples.add_loss(output)
            if self._rows and not self._told and inputs and isinstance(inputs[0], torch.Tensor):
                self._samples.rows += inputs[0].shape[0]

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # optimizer.step(closure) computes the gradients inside (Lightning, LBFGS): they are read after the step
        self._closure = kwargs.get("closure") is not None or any(callable(one) for one in args[1:])
        if self._samples.skips is not None:
            self._samples.skips.look()
        if not (self._armed or self._probes.in_window):
            return
        begun = time.perf_counter()
        if self._armed and self._probe_due:
            with self._unhooked(again=self._closure):  # without a closure all gradients are there already
                self._probes.timed_look(self._record, self._step)
                self._probes.certify(self._record, self._step, self.budget)
            self._probe_due = False
            # geometric spacing: a run of a million steps gets some hundreds of probes, dense where it moves fast
            self._next_probe = self._step + max(1, self._step // 50)
        if self._probes.in_window:
            self._probes.iterate(self._record, self._step)
        self.budget.spent += time.perf_counter() - begun
        if self._armed and not self._closure:
            self._sample()

    def _after_step(self, *rest: Any) -> None:
        if self._armed and self._closure:
            self._sample()
        self._step += 1
        if self._step < self._quiet_until:  # most steps end here, and no other hook stands
            return
        begun = time.perf_counter()
        if not self._armed and self._step >= self._next_sample:
            self._arm()
        elif not self._armed and not self._probes.in_window:
            if self._samples.skips is None:  # a GradScaler's skips are counted between any two steps
                self._hooks.look_away()
            self._quiet_until = self._next_sample
        self._samples.hook_seconds += time.perf_counter() - begun

    def _arm(self) -> None:
        """The coming step is sampled."""
        self._armed, self._quiet_until = True, 0
        self._samples.arm()
        self._hooks.look()

    @contextmanager
    def _unhooked(self, again: bool) -> Iterator[None]:
        """The model and the loss without hooks of ours, which an analysis would take for somebody else's."""
        self._samples.disarm()
        self._hooks.leave_loss()
        try:
            yield
        finally:
            if again:
                self._arm()

    def _sample(self) -> None:
        begun = time.perf_counter()
        stride, probe = self._samples.take(self._step, self._plan())
        self._write_batch_size()
        if self._step == 0:
            self._probes.save(self._record, 0)  # F(theta_0) can be evaluated later; theta_0 cannot be had later
        if self._samples.due():
            self.flush()
        spent = time.perf_counter() - begun + self._samples.hook_seconds
        self._samples.hook_seconds = 0.0
        self.budget.spent += spent
        if self._step:  # the first sample also loads libraries and saves theta_0
            self._sample_seconds = spent if not self._sample_seconds else 0.8 * self._sample_seconds + 0.2 * spent
        self._probe_due = bool(probe)
        self._next_sample = self._step + stride
        self._armed = False

    def _plan(self) -> Plan:
        """Steps to the next sample, and whether that one is probed; rank 0's plan is every rank's."""
        # a third of the budget goes to these numbers, up to a third to certificates, the rest to probes
        step_seconds = max(self.budget.elapsed - self.budget.spent, 1e-9) / (self._step + 1)
        stride = max(1, math.ceil(3 * self._sample_seconds / (self.budget.allowed * step_seconds)))
        due = self._step + stride >= self._next_probe and self.budget.allows(
            self._probes.seconds + self._probes.certificates.reserve(self.budget)
        )
        return stride, int(due)

    def _write_batch_size(self) -> None:
        # the first sampled step tells; the last batch of an epoch may be smaller
        size, rest = divmod(self._samples.rows * self._replicas, self._rows or 1)
        if size and not rest and not self._batch_size_written:
            self._record.update_meta({"batch_size": size})
            self._batch_size_written = True
        self._samples.rows = 0


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
    sampling: str = "unknown",
) -> Watch:
    """Watch a training loop through its optimizer's hooks; the loop itself stays as it is.

    model: compiled and parallel wrappers are looked through. optimizer: any torch or tameopt optimizer.
    loss_fn, data, forward, batch_size: as in `Problem`, for probes of F over all data (in eval mode); without
        data only the cheap numbers are recorded. When `loss_fn` is a module its values are recorded too; for a
        function call `watch.step(loss)` once a step.
    budget: share of the training's time that watching may take, "2%" or 0.02.
    out, name: the record goes to `out/name` (a number is added rather than overwrite).
    window_steps: consecutive iterates kept in a window now and then (0 for none).
    sampling: how the loop draws its batches, as you know it: "reshuffled", "with replacement" or "full batch".
    scaler: the loop's GradScaler, whose scale is recorded; a step that it skips is not counted as a step.

    Under DDP only rank 0 watches, the other ranks get a Watch that does nothing. With sharded parameters (FSDP2's
    fully_shard, DTensor) every rank must call `watch` (after sharding, before the first step) and `close`: all enter
    one all-reduce of six numbers at a sampled step; a probe gathers theta on every rank (up to 2 GiB, beyond that
    only the cheap numbers are recorded), each rank evaluates its share of the data, and rank 0 writes.

    A loss that draws random numbers even in eval mode is no F: its probe is off, with a warning, the rest is watched.

    Raises ValueError for a bad budget, an optimizer without trainable parameters, or data the model cannot run on.

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
    share, known = parse_share(budget), ("unknown", "reshuffled", "with replacement", "full batch")
    if sampling not in known:
        raise ValueError(f"sampling must be one of {', '.join(known)}, got {sampling!r}.")
    optimizer = innermost(optimizer)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in held if parameter.requires_grad]
    if not trained:
        raise ValueError("the optimizer must hold trainable parameters, it holds none: pass model.parameters().")
    inner = unwrapped(model)
    label = name or type(inner).__name__.removeprefix("FSDP").lower()
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    spread = sharded(held)
    rank = torch.distributed.get_rank() if several else 0
    if rank and not spread:
        return Idle(rank)
    ranks = Sharded(trained[0].device) if spread else Alone()
    parameters = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    d = sum(parameter.numel() for parameter in parameters)
    gathers = not spread or d * parameters[0].element_size() <= GATHERED_BYTES
    problem, fails = None, ""
    if data is not None and (loss_fn is not None or forward is not None):
        if gathers:
            problem, fails = full_objective(inner, loss_fn, data, forward, batch_size, ranks)
        else:
            fails = f"theta takes more than {GATHERED_BYTES >> 30} GiB: it is not gathered on every rank"
    settings = settings_of(inner, optimizer, parameters, problem, name) | {"sampling": sampling, "budget": share}
    run = None if rank else Run.create(free_folder(Path(out), label), settings)
    replicated = isinstance(model, nn.parallel.DistributedDataParallel)
    replicas = torch.distributed.get_world_size() if several and replicated else 1
    samples = Samples(optimizer, trained, ranks, scaler)
    probes = Probes(problem, parameters, ranks, window_steps, fails, gathers)
    watching = Watch(optimizer, loss_fn, samples, probes, run, Budget(share), ranks, replicas)
    if fails:
        probes.disable(watching._record, 0, fails)
    return watching


class Idle(Watch):
    """What ranks other than 0 hold under DDP: no hooks, no record."""

    def __init__(self, rank: int) -> None:
        self.budget = Budget(0.5)
        self._rank = rank
        self._closed = True

    @property
    def run(self) -> Run:
        """Raises RuntimeError: there is no record here."""
        raise RuntimeError(f"rank {self._rank} keeps no record, rank 0 does: read watching.run there.")

    @property
    def problem(self) -> Problem | None:
        """None: the probes are rank 0's."""
        return None

    @property
    def certified(self) -> Finding | None:
        """None: the certificates are rank 0's."""
        return None

    def step(self, loss: torch.Tensor | None = None, batch: Batch = None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Nothing."""

    def __repr__(self) -> str:
        return "Watch(idle: rank 0 records)"
