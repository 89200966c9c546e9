"""Starts that slow down for ever, and which of them need not be waited for: what would come is foreseen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tameopt.dynamics.iterate import Attractor, Map

_MOST_COORDINATES = 8  # our choice: past it Jacobians at many points cost more than the wait
_SAMPLES = 12  # our choice, besides four points ahead


@dataclass(frozen=True)
class Outlook:
    """What a start would have to do to be worth the wait.

    steps: so far, of num_steps. least: (m,) the length of a step below which a point stands still.
    """

    steps: int
    num_steps: int
    least: torch.Tensor
    attractors: Sequence[Attractor]

    def out_of_reach(self, points: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        """(m,) bool: no ball of a known attractor is within `reach`: (m,) of a point."""
        far = torch.ones(points.shape[0], dtype=torch.bool, device=points.device)
        for attractor in self.attractors:
            far &= (points - attractor.point).norm(dim=1) - attractor.radius > reach
        return far


@dataclass(frozen=True)
class Pace:
    """Lengths of steps when their count had last doubled; log2 of how they had shrunk over the last two doublings."""

    lengths: torch.Tensor
    powers: torch.Tensor
    powers_before: torch.Tensor

    @staticmethod
    def of(points: torch.Tensor) -> Pace:
        """Nothing known yet of points (m, d)."""
        unknown = torch.full((points.shape[0],), math.nan, dtype=points.dtype, device=points.device)
        return Pace(unknown, unknown, unknown)

    def at(self, places: torch.Tensor) -> Pace:
        """That of some of the points."""
        return Pace(self.lengths[places], self.powers[places], self.powers_before[places])

    def after(self, lengths: torch.Tensor) -> Pace:
        """That after as many steps again, the last of them of these lengths."""
        return Pace(lengths, torch.log2(self.lengths / lengths), self.powers)


def foreseen(
    step: Map,
    slopes: Map | None,
    before: torch.Tensor,
    points: torch.Tensor,
    pace: Pace,
    powers_earlier: torch.Tensor,
    outlook: Outlook,
) -> torch.Tensor:
    """(m,) bool, which points would still be moving after num_steps, at no attractor.

    before, points: (m, d) after one step less and after outlook.steps. pace: theirs. powers_earlier: how steps shrank
    over the doubling before those of the pace. step: T. slopes: its Jacobians, None where they are too dear.
    """
    ahead = (points - before) / pace.lengths[:, None]
    slow = _by_a_power_law(step, points, ahead, pace, powers_earlier, outlook)
    if slopes is not None and points.shape[1] <= _MOST_COORDINATES:
        slow |= _by_shrinking_steps(step, slopes, points, ahead, pace, outlook)
    return slow


def _by_a_power_law(
    step: Map,
    points: torch.Tensor,
    ahead: torch.Tensor,
    pace: Pace,
    powers_earlier: torch.Tensor,
    outlook: Outlook,
) -> torch.Tensor:
    """Steps shrink like (k + c)^-p, 0 <= c <= k, 1 < p < 3, towards a place where T does not contract.

    c and p follow from the last two doublings of k, and must foretell the one before to 15%: other coordinates may
    have been settling then. A run that passes a saddle slows down otherwise. y^4 + y^2/50 is like a power of k at
    first, and contracts in the end: that shows at the limit to which the law extrapolates.
    """
    shift = torch.linspace(0.0, 1.0, 201).to(points)  # c / k
    last, middle, first = (
        torch.log2((2.0**-n + shift) / (2.0 ** -(n + 1) + shift)) for n in range(3)
    )  # of (k + c), by doublings of k
    nearest = torch.searchsorted(-middle / last, -pace.powers_before / pace.powers).clamp_max(200)
    p, c = pace.powers / last[nearest], shift[nearest]
    steady = ((p * middle[nearest] - pace.powers_before).abs() <= 0.05 * p) & (
        (p * first[nearest] - powers_earlier).abs() <= 0.15 * p
    )
    # the steps to come sum to (k + c) / (p - 1) of them; thrice that brings it to no attractor
    rest = pace.lengths * (1 + c) * outlook.steps / (p - 1).clamp_min(0.02)
    at_the_end = pace.lengths * ((1 + c) / (outlook.num_steps / outlook.steps + c)) ** p
    slow = steady & (p > 1.02) & (p < 3) & (at_the_end > outlook.least) & outlook.out_of_reach(points, 3 * rest)
    for places in _parts(slow):
        u, limit = ahead[places], points[places] + ahead[places] * rest[places, None]
        # small against the distance to the limit, and large against rounding
        size = (1e-3 * rest[places]).clamp_min(torch.finfo(points.dtype).eps ** 0.5)[:, None]
        rate = ((step(limit + size * u) - step(limit - size * u)) / (2 * size) * u).sum(dim=1)
        slow[places] = (1 - rate.abs()) * outlook.num_steps < 1
        # y^3 + 1e-5 y slows down next to 0, and goes on
        slow[places] &= (step(limit) - limit).norm(dim=1) <= at_the_end[places]
        slow[places] &= _no_faster(step, points[places], u, rest[places], pace.lengths[places])
    return slow


def _by_shrinking_steps(
    step: Map,
    slopes: Map,
    points: torch.Tensor,
    ahead: torch.Tensor,
    pace: Pace,
    outlook: Outlook,
) -> torch.Tensor:
    """T brings no two points farther apart in all that steps of the present length can reach: none will be longer.

    Whether they would fall below `least` is foreseen by the present factor a step, which does not become smaller
    where F is quadratic or its steps shrink like a power of k.
    """
    left = outlook.num_steps - outlook.steps
    at_the_end = pace.lengths * 2.0 ** (-pace.powers * 2 * left / outlook.steps)
    reach = 1.1 * pace.lengths * left
    slow = (pace.powers > 1e-6) & (at_the_end > outlook.least) & outlook.out_of_reach(points, reach)
    # growth by less than a tenth in all the steps to come
    bound = 1 + 0.1 / outlook.num_steps
    for places in _parts(slow):
        around = torch.cat([points[places][None], _ball(points[places], ahead[places], reach[places])])
        matrices = slopes(around.reshape(-1, points.shape[1])).reshape(*around.shape, points.shape[1])
        known = torch.isfinite(matrices).flatten(2).all(dim=2)
        norms = torch.linalg.matrix_norm(matrices.nan_to_num(0.0, 0.0, 0.0), 2)
        slow[places] = (known & (norms <= bound)).all(dim=0)
        slow[places] &= _no_faster(step, points[places], ahead[places], reach[places], pace.lengths[places])
    return slow


def _no_faster(
    step: Map, points: torch.Tensor, ahead: torch.Tensor, reach: torch.Tensor, now: torch.Tensor
) -> torch.Tensor:
    """(m,) bool: nowhere on the way ahead a step leads on by more than one does now, as it may past a kink."""
    way = points + torch.linspace(0.0, 1.0, 17).to(points)[1:, None, None] * reach[:, None] * ahead
    on = ((step(way.reshape(-1, points.shape[1])).reshape(way.shape) - way) * ahead).sum(dim=2)
    return (on <= 1.1 * now).all(dim=0)


def _parts(chosen: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Their places, in parts that memory holds."""
    places = chosen.nonzero()[:, 0]
    return places.split(10_000) if places.numel() else ()


def _ball(points: torch.Tensor, ahead: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """(n, m, d) points within reach: some ahead, the others anywhere."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(_SAMPLES, *points.shape, generator=generator, dtype=torch.float64).to(points)
    lengths = torch.linspace(0.25, 1.0, _SAMPLES).to(points)
    anywhere = lengths[:, None, None] * drawn / drawn.norm(dim=2, keepdim=True)
    straight = torch.linspace(0.25, 1.0, 4).to(points)[:, None, None] * ahead
    return points + reach[:, None] * torch.cat([straight, anywhere])
