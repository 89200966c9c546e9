"""What Python decided on tensors that depend on theta while a function ran, and what it shall decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tameopt.structure.program import Place, Ref

_MOST = 64  # our choice: decisions of one run; a loop that makes more is not followed to its end


class TooManyDecisionsError(Exception):
    """A run that was made to decide otherwise does not end."""


@dataclass
class Decisions:
    """forced: what the first decisions shall be; the later ones are as the values have it.

    conditions, made, places: the condition of each decision (in the nodes of its part), what was decided, and where.
    idle: nothing that depends on theta was computed since the last decision. spoiled: Python also learned of theta
        in a way that cannot be turned (a number, NumPy).
    """

    forced: Sequence[bool] = ()
    conditions: list[Ref] = field(default_factory=list)
    made: list[bool] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    idle: bool = False
    spoiled: bool = False

    def take(self, condition: Ref, natural: bool, place: Place) -> bool:
        """Decide, and note it."""
        k = len(self.made)
        if self.forced and k >= _MOST:
            raise TooManyDecisionsError
        taken = bool(self.forced[k]) if k < len(self.forced) else natural
        self.conditions.append(condition)
        self.made.append(taken)
        self.places.append(place)
        self.idle = True
        return taken
