"""Following many starts at once until it is known where each one goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from tameopt.dynamics.creep import Outlook, Pace, foreseen
from tameopt.dynamics.iterate import Attractor, Map

NONE, LEFT, ELSEWHERE, SLOW = -1, -2, -3, -4

_FIRST_LOOK = 32  # our choice: rounds of steps after which what is foreseen may end the wait

# our choice: blocks of this many numbers stay in a core's cache, which is worth a factor of three on a CPU
_CACHE_NUMBERS = 32_768


def follow(
    step: Map,
    starts: torch.Tensor,
    attractors: Sequence[Attractor],
    *,
    num_steps: int,
    tolerance: float,
    escape: float,
    slopes: Map | None = None,
    every: int = 8,
    notify: Callable[[str], None] = lambda message: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(m,) int16, where each start goes, and (m, d) where it was when that was known.

    The number of an attractor within whose radius it came; -1 none in time; -2 it left; -3 it stands still elsewhere;
    -4 it slows down, and would be moving at no attractor when the time is up. step: T on (m, d). slopes: its
    Jacobians, without which fewer slow starts are foreseen.
    """
    labels = torch.full((starts.shape[0],), NONE, dtype=torch.int16, device=starts.device)
    ends = starts.clone()
    points, open_places = starts, torch.arange(starts.shape[0], device=starts.device)
    chunk = max(1, _CACHE_NUMBERS // starts.shape[1]) if starts.device.type == "cpu" else starts.shape[0]
    pace = Pace.of(starts)
    for count in range(1, math.ceil(num_steps / every) + 1):
        # a chunk takes several steps while it is in the cache; the few slow starts at the end share one chunk
        moved = [_steps(step, part, every) for part in points.split(chunk)]
        earlier, before, points = (torch.cat(parts) for parts in zip(*moved, strict=True))
        least = tolerance * points.norm(dim=1).clamp_min(1.0)
        verdict = _where(earlier, before, points, attractors, least, escape)
        if count & (count - 1) == 0:  # whenever the number of steps has doubled
            powers_earlier = pace.powers_before
            pace = pace.after((points - before).norm(dim=1))
            if count >= _FIRST_LOOK:
                outlook = Outlook(count * every, num_steps, least, attractors)
                slow = foreseen(step, slopes, before, points, pace, powers_earlier, outlook)
                verdict[(verdict == NONE) & slow] = SLOW
        settled = verdict != NONE
        labels[open_places[settled]] = verdict[settled]
        ends[open_places[settled]] = points[settled]
        points, open_places, pace = points[~settled], open_places[~settled], pace.at(~settled)
        notify(f"{starts.shape[0] - open_places.numel():,} of {starts.shape[0]:,} starts labelled")
        if open_places.numel() == 0:
            break
    ends[open_places] = points
    return labels.cpu(), ends


def _where(
    earlier: torch.Tensor,
    before: torch.Tensor,
    points: torch.Tensor,
    attractors: Sequence[Attractor],
    least: torch.Tensor,
    escape: float,
) -> torch.Tensor:
    """(m,) int16 the labels that three iterates in a row allow already; -1 for the others."""
    verdict = torch.full((points.shape[0],), NONE, dtype=torch.int16, device=points.device)
    size, length = points.norm(dim=1), (points - before).norm(dim=1)
    still = length <= least
    if bool(still.any()):
        # a step that grows leaves a saddle, unless it is rounding
        growing = length > (before - earlier).norm(dim=1)
        verdict[still & ~(growing & (length > 8 * torch.finfo(points.dtype).eps * size.clamp_min(1.0)))] = ELSEWHERE
    for number, attractor in enumerate(attractors):
        verdict[(points - attractor.point).norm(dim=1) <= attractor.radius] = number
    verdict[~(size <= escape)] = LEFT
    return verdict


def _steps(step: Map, points: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The points after count - 2, count - 1 and count steps."""
    earlier = before = points
    for _ in range(count):
        earlier, before, points = before, points, step(points)
    return earlier, before, points
