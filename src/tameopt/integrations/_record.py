"""Where a watch writes: a run whose disk may fail while the training must go on, or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tameopt.integrations._optimizer import arguments_of
from tameopt.problem import Problem
from tameopt.run import Run, RunFormatError

_LOG = logging.getLogger("tameopt")


def free_folder(root: Path, name: str) -> Path:
    """`root/name`, with a number added rather than a run that is there already."""
    folder, serial = root / name, 2
    while folder.exists():
        folder, serial = root / f"{name}-{serial}", serial + 1
    return folder


def settings_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[torch.Tensor],
    problem: Problem | None,
    name: str | None,
) -> dict[str, Any]:
    """What the record says of a watched training from its beginning on."""
    kind = type(model).__name__.removeprefix("FSDP")
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    return {
        "target": name or kind,
        "problem": kind,
        "d": sum(parameter.numel() for parameter in parameters),
        "n": problem.n if problem is not None else None,
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "optimizer": {
            "name": type(optimizer).__name__,
            "arguments": arguments_of(optimizer.param_groups[0]),
            "groups": [arguments_of(group, names) for group in optimizer.param_groups],
        },
        "watched": True,
    }


class Record:
    """A run that stops recording, with one warning, when it cannot be written; without a run, a record that is not
    kept (the ranks that do not write).

    A full disk, a quota, a folder taken away: what was recorded before stays readable, and the training goes on.
    """

    def __init__(self, run: Run | None) -> None:
        self._run = run
        self.failure = ""

    def record(self, step: int, scalars: Mapping[str, float]) -> None:
        """As `Run.record`."""
        self._write(lambda run: run.record(step, scalars))

    def record_many(self, steps: Sequence[int], columns: Mapping[str, Sequence[float]]) -> None:
        """As `Run.record_many`."""
        self._write(lambda run: run.record_many(steps, columns))

    def save_vectors(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        """As `Run.save_vectors`."""
        self._write(lambda run: run.save_vectors(step, vectors))

    def save_block(self, name: str, steps: Sequence[int], rows: torch.Tensor) -> None:
        """As `Run.save_block`."""
        self._write(lambda run: run.save_block(name, steps, rows))

    def event(self, step: int, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """As `Run.event`."""
        self._write(lambda run: run.event(step, kind, data))

    def update_meta(self, settings: Mapping[str, Any]) -> None:
        """As `Run.update_meta`."""
        self._write(lambda run: run.update_meta(settings))

    def write_file(self, name: str, write: Callable[[Path], None]) -> None:
        """A file of its own in the run's folder, which `write` makes at the path it is given."""
        self._write(lambda run: write(run.path / name))

    def _write(self, call: Callable[[Run], None]) -> None:
        if self._run is None or self.failure:
            return
        try:
            call(self._run)
        except (OSError, RunFormatError) as error:
            self.failure = str(error)
            _LOG.warning("tameopt: recording has stopped, training goes on: %s", self.failure)
