"""Certificates of zero training loss, tried while a watched training goes on and when they are cheap.

A third of the watching budget at most goes to them. When one holds, the run gets an event with the statement, and the
certificate file, which `tameopt certify --check` replays; then nothing more is tried.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tameopt.integrations._budget import Budget
from tameopt.integrations._record import Record
from tameopt.problem import Problem

if TYPE_CHECKING:
    from tameopt.kl.live import AnyCertificate, Kind

EVENT = "zero loss certified"
_LOG = logging.getLogger("tameopt")
MOST_INLINE_BYTES = 64 << 20  # what a certificate may store to be carried in a finding
_PART = 1 / 3  # our choice, of the budget
_LOOK_SECONDS = 0.5  # importing the certificates, probing the loss, or tracing a model
_TRACER = "torch.fx.experimental.proxy_tensor"
_TRACER_SECONDS = 2.5  # importing that, if nothing has yet: measured, on a busy core


class LiveCertificates:
    """Tries the certificate that a problem admits at the probed thetas, within a part of the budget.

    found: the certificate once one holds, step: the step it is about. never: why none can be had, else "".
    """

    def __init__(self, problem: Problem | None) -> None:
        self._problem = problem
        self.found: AnyCertificate | None = None
        self.step = -1
        self.never = "" if problem is not None else "no data were given"
        if problem is not None and (problem.is_function or problem.forward is not None):
            self.never = "the outputs are hidden"
        elif problem is not None and 8 * problem.dim > MOST_INLINE_BYTES:
            self.never = f"theta takes more than {MOST_INLINE_BYTES >> 20} MiB in float64"
        self.tries = 0
        self._kind: Kind | None = None
        self._spent = 0.0
        self._seconds = _LOOK_SECONDS
        self._traces = False  # whether the first look may trace the model
        self._last: tuple[int, float, float] | None = None  # step, F and number of the last try

    @property
    def wanted(self) -> bool:
        """Whether one may still come."""
        return not self.never and self.found is None

    def reserve(self, budget: Budget) -> float:
        """Seconds that the probes leave for the next try: without them nothing dear could ever be paid."""
        if not self.wanted:
            return 0.0
        return min(max(_PART * budget.allowed * budget.elapsed - self._spent, 0.0), self._seconds)

    def attempt(self, record: Record, step: int, theta: torch.Tensor, value: float, budget: Budget) -> None:
        """Try at theta, where F is `value`, if it is affordable and promising."""
        if not self.wanted or not math.isfinite(value):
            return
        if self._kind is not None and not self._promising(self._kind, step, value):
            return
        part = self._spent + self._seconds <= _PART * budget.allowed * budget.elapsed
        if not (part and budget.allows(self._seconds)):
            return
        begun = time.perf_counter()
        try:
            with torch.random.fork_rng(devices=[]):
                self._try(record, step, theta, value)
        except Exception as error:  # noqa: BLE001 - whatever a person's model raises, their training goes on
            self.never = f"{type(error).__name__}: {error}"
            _LOG.warning("tameopt: no certificates are tried from step %d on: %s", step, self.never)
        took = time.perf_counter() - begun
        self._spent += took
        if self._kind is not None:
            # what it took, when that is more than the model of its cost said
            self._seconds = max(self._kind.seconds, took if self.tries else 0.0)

    def _try(self, record: Record, step: int, theta: torch.Tensor, value: float) -> None:
        from tameopt.kl.live import FILE, kind_of

        assert self._problem is not None
        if self._kind is None:
            kind = kind_of(self._problem, self._traces)
            if kind is None:
                self._traces = True
                self._seconds = _LOOK_SECONDS + (0.0 if _TRACER in sys.modules else _TRACER_SECONDS)
                return
            if isinstance(kind, str):
                self.never = kind
                return
            # a kind is found for (input, target) in memory only
            data: list[torch.Tensor] = list(self._problem.batches.whole or ())
            stored = self._problem.dim + sum(part.numel() for part in data)
            if 8 * stored > MOST_INLINE_BYTES:
                self.never = f"weights and data take more than {MOST_INLINE_BYTES >> 20} MiB in float64"
                return
            # the first try waits until the budget has paid for this look
            self._kind = kind
            return
        self.tries += 1
        certificate = self._kind.certify(theta)
        self._last = step, value, self._kind.number(certificate)
        if not certificate.holds:
            return
        self.found, self.step = certificate, step
        statement = certificate.finding(step).statement
        record.write_file(FILE, lambda path: _save(certificate, path))
        record.event(step, EVENT, {"verdict": str(certificate.verdict), "statement": statement, "file": FILE})
        _LOG.info("tameopt: %s  %s", certificate.verdict, statement)

    def _promising(self, kind: Kind, step: int, value: float) -> bool:
        """Whether the number may have come down to what is needed since the last try."""
        if kind.known is not None:
            return kind.known(value) < kind.limit
        if self._last is None:
            return True
        last_step, last_value, number = self._last
        if not (math.isfinite(number) and value > 0 and last_value > 0):
            return step >= 2 * last_step
        # twice the limit: the Jacobian gets better conditioned along a run, too
        now = number * (value / last_value) ** kind.power
        return now <= 2 * kind.limit or step >= 2 * last_step


def _save(certificate: AnyCertificate, path: Path) -> None:
    """Written aside and renamed: a certificate is there whole or not at all."""
    aside = path.with_suffix(".part")
    certificate.save(aside)
    os.replace(aside, path)
