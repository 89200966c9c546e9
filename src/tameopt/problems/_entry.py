"""What an entry of the problem catalogue is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tameopt.problem import Problem


@dataclass(frozen=True)
class ProblemEntry:
    """A ready problem.

    name: as people type it; title: one line; source: where data or function come from.
    build: keyword options -> Problem.
    training: the settings that `tameopt audit` trains it with when none are given: optimizer, lr, steps,
        batch_size (None = full batch), schedule.
    """

    name: str
    title: str
    source: str
    build: Callable[..., Problem]
    training: Mapping[str, Any] = field(default_factory=dict)

    def load(self, **options: Any) -> Problem:
        """Build the problem.

        Raises TypeError naming the options there are.
        """
        known = inspect.signature(self.build).parameters
        for option in options:
            if option not in known:
                raise TypeError(f"{self.name} takes the options {', '.join(known) or '(none)'}, got {option!r}.")
        return self.build(**options)
