"""What costs a watched training most: F and its gradient over all data, copies of theta, windows of iterates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tameopt.batches import Batch, batches_of, rows, size_of
from tameopt.integrations._budget import Budget
from tameopt.integrations._certificates import LiveCertificates
from tameopt.integrations._ranks import Alone, plain_copy
from tameopt.integrations._record import Record
from tameopt.loss_module import Loss
from tameopt.probe import NotDeterministicError
from tameopt.problem import Problem

_LOG = logging.getLogger("tameopt")
_WINDOW_BYTES = 64 << 20
_VECTOR_BYTES = 1 << 30  # our choice: a record's copies of theta stop here
_ESTIMATE_SAMPLES = 256  # our choice: large enough that the fixed cost of a pass does not dominate


def full_objective(
    model: nn.Module,
    loss_fn: Loss | None,
    data: Any,
    forward: Callable[[nn.Module, Batch], torch.Tensor] | None,
    batch_size: int | None,
    ranks: Alone,
) -> tuple[Problem | None, str]:
    """F over all data, or why there is none. With several ranks the data are cut so that each has a batch."""
    if ranks.world > 1:
        model = plain_copy(model)
        data = batches_of(data, batch_size)
        share = -(-data.n // ranks.world)
        batch_size = min(data.batch_size, share) if data.indexable else None
        data = data.whole if data.indexable else list(data)
    try:
        return Problem(model, loss_fn, data, forward=forward, batch_size=batch_size, mode="eval"), ""
    except NotDeterministicError as error:
        return None, str(error)


def loss_rows(problem: Problem | None, loss: Loss | None) -> int | None:
    """How many rows of the loss' first argument a sample makes: a language model's loss sees a row a token.

    None when that cannot be told: without data, where the loss is no module, or is not called with a fixed number.
    """
    if problem is None or problem.is_function or not isinstance(loss, nn.Module):
        return None
    batch: Any = next(iter(problem.batches))
    counts = []
    for size in dict.fromkeys((1, min(3, size_of(batch)))):
        rows_seen = [0]

        def count(module: nn.Module, inputs: Any, output: Any, seen: list[int] = rows_seen) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim:
                seen[0] += inputs[0].shape[0]

        handle = loss.register_forward_hook(count)
        try:
            problem.batch_gradient(problem.theta, rows(batch, slice(0, size)))
        except Exception:  # noqa: BLE001 - a model may need more samples than this: then it is not told
            return None
        finally:
            handle.remove()
        counts.append((rows_seen[0], size))
    each = counts[0][0]
    return each if each and all(seen == each * size for seen, size in counts) else None


class Probes:
    """Full-data probes and copies of theta, on every rank that holds a part of theta.

    problem: None when no data were given; parameters: the trainable ones in the order of theta. gathers: whether
    theta may be put together at all. seconds: what the last probe took, at first an estimate.
    """

    def __init__(
        self,
        problem: Problem | None,
        parameters: Sequence[torch.Tensor],
        ranks: Alone,
        window_steps: int,
        fails: str = "",
        gathers: bool = True,
    ) -> None:
        self.problem, self._parameters, self._ranks = problem, parameters, ranks
        self._bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        self.fails = fails or ("" if problem is not None else "no data were given")
        self._gathers = gathers
        self.running = False
        self.count = 0
        self._window: list[torch.Tensor] = []
        self.in_window = False
        self._window_start = 0
        self._window_steps = window_steps
        self._windows: list[list[int]] = []
        self._written_bytes = 0
        self.seconds = _estimated_seconds(problem, ranks.world)
        # with sharded parameters the ranks would have to agree on each try
        self.certificates = LiveCertificates(problem if ranks.world == 1 and gathers else None)
        self._last: tuple[torch.Tensor, float] | None = None

    def look(self, run: Record, step: int) -> None:
        """F and its gradient over all data at the present theta, which is saved too."""
        theta = self._theta()
        if theta is None:
            return
        self._full_value(run, step, theta)
        self._save(run, step, theta)

    def certify(self, run: Record, step: int, budget: Budget) -> None:
        """Try to certify zero training loss from the theta of the last probe on, if the budget has room."""
        if self._last is None:
            return
        theta, value = self._last
        self._last = None
        self.running = True
        try:
            self.certificates.attempt(run, step, theta, value, budget)
        finally:
            self.running = False

    def save(self, run: Record, step: int) -> None:
        """The present theta alone."""
        theta = self._theta()
        if theta is not None:
            self._save(run, step, theta)

    def timed_look(self, run: Record, step: int) -> None:
        """A probe inside the budget; a window of consecutive iterates may begin with it."""
        begun = time.perf_counter()
        self.look(run, step)
        if not self.in_window and self._window_affordable(step):
            self.in_window, self._window_start = True, step
        self.seconds = time.perf_counter() - begun

    def iterate(self, run: Record, step: int) -> None:
        """One more iterate of the present window."""
        theta = self._theta()
        assert theta is not None
        self._window.append(theta)
        if len(self._window) > self._window_steps:
            self.end_window(run)

    def end_window(self, run: Record) -> None:
        """Write the window that was begun, if any."""
        if self.in_window and len(self._window) > 1:
            steps = list(range(self._window_start, self._window_start + len(self._window)))
            run.save_block("theta", steps, torch.stack(self._window))
            self._written_bytes += self._bytes * len(self._window)
            self._windows.append([steps[0], steps[-1]])
            run.update_meta({"windows": self._windows})
        self._window, self.in_window = [], False

    def disable(self, run: Record, step: int, reason: str) -> None:
        """No more full-data probes; the training goes on."""
        self.fails = reason
        _LOG.warning("tameopt: the full-data probe is off from step %d on: %s", step, reason)
        run.event(step, "probe disabled", {"probe": "full loss", "reason": reason})

    def _full_value(self, run: Record, step: int, theta: torch.Tensor) -> None:
        if self.fails or self.problem is None:
            return
        self.running = True
        try:
            value, norm = self._ranks.full_value(self.problem, theta)
            run.record(step, {"full_loss": value, "full_gradient_norm": norm})
            self.count += 1
            if self.certificates.wanted:
                self._last = theta, value
        except Exception as error:  # noqa: BLE001 - whatever a person's model raises, their training goes on
            self.disable(run, step, f"{type(error).__name__}: {error}")
        finally:
            self.running = False

    def _theta(self) -> torch.Tensor | None:
        return self._ranks.flat(self._parameters) if self._gathers else None

    def _save(self, run: Record, step: int, theta: torch.Tensor) -> None:
        if self._written_bytes + self._bytes <= _VECTOR_BYTES:
            self._written_bytes += self._bytes
            run.save_vectors(step, {"theta": theta})

    def _window_affordable(self, step: int) -> bool:
        needed = self._bytes * (self._window_steps + 1)
        spaced = not self._windows or step > 2 * self._windows[-1][1]
        return (
            self._gathers
            and self._window_steps > 0
            and spaced
            and needed <= _WINDOW_BYTES
            and self._written_bytes + needed <= _VECTOR_BYTES
        )


def _estimated_seconds(problem: Problem | None, world: int) -> float:
    """What a probe will cost, from a part of the data: the first probe of a large problem must fit too."""
    if problem is None or problem.is_function:
        return 0.0
    batch: Any = next(iter(problem.batches))
    part = rows(batch, slice(0, min(_ESTIMATE_SAMPLES, size_of(batch))))
    theta = problem.theta
    problem.batch_gradient(theta, part)  # the first call warms up
    begun = time.perf_counter()
    problem.batch_gradient(theta, part)
    return (time.perf_counter() - begun) * problem.n / size_of(part) / world
