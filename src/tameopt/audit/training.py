"""Train a problem and record the run: what `tameopt audit` does before it can say anything."""

from __future__ import annotations

import copy
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tameopt import optim
from tameopt.audit.recorder import Grid, Recorder, affordable_points
from tameopt.audit.symptoms.nonfinite import locate
from tameopt.batches import Batch, index_batches, rows, size_of
from tameopt.optim import schedules
from tameopt.problem import Problem
from tameopt.run import Run
from tameopt.threads import threads_for

Sampling = Literal["full batch", "with replacement", "reshuffled", "unknown"]
Progress = Callable[[int, int, float], None]

_BLOW_UP = 1e10  # our choice: a loss this many times its start (plus one) will not come back
_PRICED_SAMPLES = 256  # our choice: enough that the fixed cost of a pass does not dominate
_FLOAT64_NUMBERS = 50_000_000  # d * 8 bytes: up to 400 MB the full loss is summed in float64


def train(
    problem: Problem,
    *,
    optimizer: str = "SGD",
    arguments: Mapping[str, Any] | None = None,
    lr: float = 0.05,
    steps: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    schedule: schedules.Schedule | str | None = None,
    sampling: Literal["with replacement", "reshuffled"] = "with replacement",
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    target: str = "",
) -> Run:
    """Train a copy of the problem's model from its present parameters, and record the run in the folder `out`.

    optimizer: a name of `tame.optim.names()`; arguments: its keyword arguments besides lr.
    schedule: a Schedule, a string for `schedules.parse`, or None for constant lr. batch_size: None or >= n is full
    batch. sampling: "with replacement" draws b samples uniformly at each step (the lecture's noise), "reshuffled"
    goes through random permutations (a DataLoader's).
    progress: called with (steps done, steps planned, loss) about once a second.

    The model runs in its training mode with the person's loss, in its own dtype; with reduction "sum" a
    mini-batch's gradient is scaled by n/b, so that it is an unbiased gradient of F. F(theta_k) and its gradient are
    recorded on a grid in float64 where that fits. Divergence ends the run with an event "diverged"; Ctrl-C with
    "interrupted"; what was recorded is kept in both cases. The model itself is left as it was.

    Returns the run, open to read. Raises ValueError, TypeError or OSError for settings that cannot be used.
    """
    loop = _Loop.prepare(problem, optimizer, arguments or {}, lr, steps, seed, batch_size, schedule, sampling)
    meta = {**loop.meta(), "target": target or problem.name}
    with Run.create(Path(out), meta) as run, threads_for(problem, batch_size):
        status = loop.run(run, progress)
        run.update_meta({"status": status, "finished": time.time()})
    return Run.open(out)


def _schedule_of(schedule: schedules.Schedule | str | None, lr: float, steps: int) -> schedules.Schedule:
    if isinstance(schedule, schedules.Schedule):
        return schedule
    if schedule is not None and not isinstance(schedule, str):
        raise TypeError(
            f"schedule must be a schedule or a string such as 'cosine:warmup=100', got {type(schedule).__name__}."
        )
    return schedules.parse(schedule or "constant", lr, steps)


class _Loop:
    """One training run; the settings are checked in `prepare`, before anything is written."""

    def __init__(
        self,
        problem: Problem,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        schedule: schedules.Schedule,
        batch_size: int,
        sampling: Sampling,
        steps: int,
        seed: int,
    ) -> None:
        self.problem, self.model, self.optimizer, self.settings = problem, model, optimizer, settings
        self.schedule, self.batch_size, self.sampling = schedule, batch_size, sampling
        self.steps, self.seed = steps, seed
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        first = next(iter(self.parameters.values()))
        self.batches = problem.batches.to(first.dtype, first.device)
        self.dtype = first.dtype
        precise = problem.dim <= _FLOAT64_NUMBERS and first.device.type != "mps"
        self.exact = problem.to(torch.float64) if precise and not problem.is_function else problem
        self.buffers = dict(model.named_buffers())
        self._last_loss, self._limit, self._looking = math.nan, math.inf, 0.0

    @classmethod
    def prepare(
        cls,
        problem: Problem,
        optimizer: str,
        arguments: Mapping[str, Any],
        lr: float,
        steps: int,
        seed: int,
        batch_size: int | None,
        schedule: schedules.Schedule | str | None,
        sampling: str,
    ) -> _Loop:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number >= 1, got {steps}: there is nothing to record otherwise.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 (or None for the full batch), got {batch_size}.")
        if sampling not in ("with replacement", "reshuffled"):
            raise ValueError(f"sampling must be 'with replacement' or 'reshuffled', got {sampling!r}.")
        # the schedule checks lr, with the reason
        alphas = _schedule_of(schedule, lr, steps)
        entry = optim.entry(optimizer)
        model = copy.deepcopy(problem.model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        known = inspect.signature(entry.optimizer.__init__).parameters
        for name in arguments:
            if name not in known or name in ("self", "params", "lr"):
                listed = ", ".join(key for key in known if key not in ("self", "params", "lr", "extras"))
                raise ValueError(f"{entry.name} has no argument {name!r} beside lr: it takes {listed}.")
        made = entry.optimizer(parameters, lr=alphas(0), **arguments)
        b, how = problem.n, "full batch"
        if batch_size is not None and batch_size < problem.n:
            b, how = batch_size, sampling
            if not problem.batches.indexable:
                b, how = problem.batches.batch_size, "unknown"
        settings = {"name": entry.name, "arguments": {"lr": lr, **arguments}}
        return cls(problem, model, made, settings, alphas, b, how, steps, seed)  # type: ignore[arg-type]

    def meta(self) -> dict[str, Any]:
        """The settings as the record keeps them."""
        return {
            "problem": self.problem.name,
            "d": self.problem.dim,
            "n": self.problem.n,
            "dtype": str(self.dtype).removeprefix("torch."),
            "optimizer": self.settings,
            "schedule": self.schedule.to_json(),
            "batch_size": self.batch_size,
            "sampling": self.sampling,
            "seed": self.seed,
            "steps_planned": self.steps,
            "steps_done": 0,
            "initial_law": self.problem.initial_law,
            "reduction": self.problem.reduction,
        }

    # -- the loop ------------------------------------------------------------------------------------------

    def run(self, run: Run, progress: Progress | None) -> str:
        """Train; returns the status."""
        points = affordable_points(*self._prices())
        grid = Grid.plan(self.steps, self.problem.dim, self.dtype.itemsize, points)
        run.update_meta({"windows": [list(window) for window in grid.windows], "grid_points": points})
        recorder = Recorder(run, grid)
        begun = time.perf_counter()
        self._looking = 0.0
        k, status, batch = 0, "finished", None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            draws = self._draws()
            try:
                for k in range(self.steps):
                    self._look(k, recorder)
                    batch = next(draws)
                    self._step(k, batch, recorder)
                    if recorder.tick():
                        run.update_meta({"steps_done": k + 1})
                        if progress is not None:
                            progress(k + 1, self.steps, self._last_loss)
                k = self.steps
            except _DivergedError as diverged:
                status = "diverged"
                run.event(k, "diverged", {"step": k, "loss": str(diverged), **self._locate(batch)})
            except KeyboardInterrupt:
                status = "interrupted"
                run.event(k, "interrupted", {"step": k})
            self._close(k, recorder)
        run.update_meta(
            {
                "steps_done": k,
                "seconds_training": time.perf_counter() - begun,
                "seconds_recording": self._looking + run.seconds_recording,
            }
        )
        if progress is not None:
            progress(k, self.steps, self._last_loss)
        return status

    def _prices(self) -> tuple[float, float]:
        """Seconds of F and its gradient over all samples, and of the whole training without a record."""
        if self.problem.is_function:
            return 0.0, 0.0
        theta, whole = self._flat(), next(iter(self.batches))
        part = rows(whole, slice(0, min(_PRICED_SAMPLES, size_of(whole))))
        step = rows(whole, slice(0, min(self.batch_size, size_of(whole))))
        exactly = self._exactly()
        precise = next(iter(exactly.batches))
        look = _seconds(lambda: exactly.batch_gradient(theta, rows(precise, slice(0, size_of(part)))))
        train = _seconds(lambda: self.problem.batch_gradient(theta, step))
        return look * self.problem.n / size_of(part), train * self.steps * self.batch_size / size_of(step)

    def _step(self, k: int, batch: Batch, recorder: Recorder) -> None:
        """Step k. Raises _DivergedError before theta is changed when the loss or gradient is not finite."""
        alpha = self.schedule(k)
        for group in self.optimizer.param_groups:
            group["lr"] = alpha
        first = True

        def closure() -> torch.Tensor:
            nonlocal first
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            loss.backward()
            if first:
                first = False
                norm = self._gradient_norm()
                recorder.scalars(k, {"loss": loss.detach(), "lr": alpha, "gradient_norm": norm})
                self._check(k, loss, norm)
            return loss

        # torch's annotation asks for a float, its documentation and its optimizers for the loss
        self.optimizer.step(closure)  # type: ignore[arg-type]

    def _check(self, k: int, loss: torch.Tensor, gradient_norm: torch.Tensor) -> None:
        # reading a number of a GPU waits for it: there, every 32nd step is soon enough
        if loss.device.type != "cpu" and k % 32 and k + 1 < self.steps:
            return
        number, norm = float(loss.detach()), float(gradient_norm)
        self._last_loss = number
        if k == 0:
            self._limit = _BLOW_UP * (1.0 + abs(number))
        if not (math.isfinite(number) and math.isfinite(norm)) or abs(number) > self._limit:
            raise _DivergedError(f"{number:.6g}")

    def _loss(self, batch: Batch) -> torch.Tensor:
        if self.problem.is_function:
            value: torch.Tensor = self.model()
            return value
        if self.problem.forward is not None:
            value = self.problem.forward(self.model, batch)
        else:
            *inputs, target = batch
            assert self.problem.loss is not None
            value = self.problem.loss(self.model(*inputs), target)
        if self.problem.reduction == "sum":
            return value * (self.problem.n / size_of(batch))
        return value.mean() if value.ndim else value

    def _gradient_norm(self) -> torch.Tensor:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        parts = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        if not parts:
            return torch.zeros(())
        return torch.stack(list(torch._foreach_norm(parts))).norm()

    def _flat(self) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters.values()])

    def _look(self, k: int, recorder: Recorder) -> None:
        """What is recorded of theta_k before step k."""
        wants_theta, wants_loss = recorder.wants_theta(k), k in recorder.grid.full
        if not (wants_theta or wants_loss):
            return
        begun = time.perf_counter()
        theta = self._flat()
        if wants_theta:
            recorder.theta(k, theta)
        if k in recorder.grid.states:
            recorder.state(k, self._second_moments())
        if wants_loss:
            value, gradient = self._exactly().value_and_gradient(theta)
            recorder.scalars(k, {"full_loss": value, "full_gradient_norm": gradient.norm()})
        self._looking += time.perf_counter() - begun

    def _locate(self, batch: Batch) -> dict[str, str]:
        """Where the first number that is not finite is; {} when all are (a loss too large, but finite)."""
        return locate(self.model, lambda: self._loss(batch), batch, self.optimizer.state)

    def _second_moments(self) -> dict[str, torch.Tensor]:
        """The running squares of the gradients of an adaptive optimizer, flat like theta; {} for others."""
        found = {}
        for name in ("exp_avg_sq", "square_avg", "sum"):
            parts = [self.optimizer.state.get(p, {}).get(name) for p in self.parameters.values()]
            if all(isinstance(part, torch.Tensor) for part in parts):
                found[name] = torch.cat([part.detach().reshape(-1) for part in parts])
        return found

    def _exactly(self) -> Problem:
        return self.exact.load_buffers(self.buffers) if self.buffers else self.exact

    def _close(self, k: int, recorder: Recorder) -> None:
        """Record the iterate after the last step."""
        theta = self._flat()
        if bool(torch.isfinite(theta).all()):
            recorder.theta(k, theta)
            recorder.state(k, self._second_moments())
        value, gradient = self._exactly().value_and_gradient(theta)
        recorder.scalars(k, {"full_loss": value, "full_gradient_norm": gradient.norm()})
        recorder.flush()
        if self.buffers:
            recorder.run.save_vectors(k, {f"buffer:{name}": tensor for name, tensor in self.buffers.items()})

    def _draws(self) -> Iterator[Batch]:
        """The batches of the steps, for ever."""
        if self.sampling == "full batch":
            while True:
                if self.problem.is_function:
                    yield None
                    continue
                whole = self.batches.whole
                if whole is None:
                    raise ValueError("full-batch training needs samples of one shape, these differ: give batch_size.")
                yield whole
        if self.sampling == "unknown":
            while True:
                yield from self.batches
        generator = torch.Generator().manual_seed(self.seed)
        for indices in index_batches(self.problem.n, self.batch_size, generator, self.sampling == "with replacement"):
            yield self.batches.pick(indices)


def _seconds(call: Callable[[], object]) -> float:
    """The faster of two calls after one to warm up."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


class _DivergedError(Exception):
    """The loss or its gradient is no finite number, or too large to come back; the message is the loss."""
