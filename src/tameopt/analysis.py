"""What an analysis is: a question, what it may answer, what it costs, and the function that answers it.

Each room that answers questions about runs has one module `findings.py` with `ANALYSES: tuple[Analysis, ...]`;
the audit plans them by cost and never imports anything else of the room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tameopt.evidence import Cost, Finding
from tameopt.picture import Picture
from tameopt.problem import Problem
from tameopt.run import Run


@dataclass(frozen=True)
class Context:
    """What an analysis may look at.

    problem: the objective, deterministic (`Problem` refused it otherwise), float64 unless the person chose.
    run: the record; `run.meta` says optimizer, schedule, batch size, sampling, seed; None for a problem
        that was never trained.
    theta: (d,) the last iterate, in the problem's dtype and on its device.
    seed: for every random choice of the analysis.
    notify: called with a short sentence as work proceeds.
    deadline_seconds: what is left of the audit's budget; an analysis that samples stops in time and says so.
    """

    problem: Problem
    run: Run | None
    theta: torch.Tensor
    seed: int = 0
    notify: Callable[[str], None] = field(default=lambda message: None)
    deadline_seconds: float = 60.0

    def generator(self, stream: int = 0) -> torch.Generator:
        """A CPU generator for this analysis; `stream` separates independent uses of one seed."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + stream)


@dataclass(frozen=True)
class Answer:
    """What an analysis found.

    facts: JSON-serialisable numbers for the report that are no claims (a table, a spectrum).
    """

    findings: tuple[Finding, ...]
    pictures: tuple[Picture, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Analysis:
    """An analysis that the audit can plan.

    name: stable, "room.what"; question: as a person would ask it.
    claims: the claims it may yield findings about.
    estimate: what it will cost on this context, without running it.
    skip: a reason not to run it on this context (no run, wrong loss, too large), or "".
    analyse: the work. It raises only for our bugs; what cannot be measured is an UNKNOWN finding.
    """

    name: str
    question: str
    claims: tuple[str, ...]
    estimate: Callable[[Context], Cost]
    analyse: Callable[[Context], Answer]
    skip: Callable[[Context], str] = lambda context: ""
