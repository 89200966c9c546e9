"""The pieces of a small piecewise polynomial loss on a plane through theta, exactly.

At each place of a grid F's operators are run on rational numbers, and every sign that relu, abs or max asked for is
kept: places with the same answers lie in the same piece. Running the operators on polynomials with these answers
gives the formula of the piece.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from tameopt.picture import Image, Picture
from tameopt.problem import Problem
from tameopt.structure.semialgebraic.arrays import Signs, SignsAtPoint
from tameopt.structure.semialgebraic.network import coordinates, exact_loss
from tameopt.structure.semialgebraic.polynomial import Polynomial

COLOURS = 6  # what the report's palette holds
_NAMES = ("s", "t")
_SIXTEENTHS = 16  # our choice: random directions are rounded to 1/16, so that the fractions stay short


@dataclass(frozen=True)
class PlanePieces:
    """F(theta + s u + t v) for |s|, |t| <= radius, at places of a grid.

    axis: the grid's rational coordinates. labels: labels[row][column], the number of the piece at
    t = axis[row], s = axis[column]. values: F there, exact. polynomials: F on each piece, in s and t; kinks: how many
    signs were asked for; directions: u and v, (2, d).
    """

    axis: tuple[Fraction, ...]
    labels: tuple[tuple[int, ...], ...]
    values: tuple[tuple[Fraction, ...], ...]
    polynomials: tuple[Polynomial, ...]
    kinks: int
    directions: torch.Tensor

    @property
    def count(self) -> int:
        """Pieces met by the grid; smaller ones may lie between its places."""
        return len(self.polynomials)

    def picture(self, title: str = "Pieces of F on a plane through theta") -> Picture:
        """Each piece in a colour that its neighbours do not have."""
        ends = tuple(float(x) for x in self.axis)
        if self.count <= COLOURS:
            colours: dict[int, int] = {k: k for k in range(self.count)}
            words = [str(polynomial) for polynomial in self.polynomials]
            names = tuple(text if len(text) < 40 else f"piece {k + 1}" for k, text in enumerate(words))
        else:
            colours = _coloured(self.labels, self.count)
            names = (f"{self.count} pieces, neighbours in different colours", *("",) * (COLOURS - 1))
        return Picture(
            "pieces", title, "s", "t", (),
            Image(ends, ends, tuple(tuple(float(colours[k]) for k in row) for row in self.labels), "piece",
                  categorical=names),
            caption=f"F is one polynomial in s and t on each of the {self.count} pieces met at {len(self.axis)} x "
            f"{len(self.axis)} places, decided by exact arithmetic.",
        )  # fmt: skip


def _coloured(labels: tuple[tuple[int, ...], ...], count: int) -> dict[int, int]:
    """A colour a piece: greedily, pieces with the most neighbours first."""
    near: dict[int, set[int]] = {k: set() for k in range(count)}
    for row, below in zip(labels, (*labels[1:], labels[-1]), strict=True):
        for pairs in (itertools.pairwise(row), zip(row, below, strict=True)):
            for a, b in pairs:
                if a != b:
                    near[a].add(b)
                    near[b].add(a)
    colours: dict[int, int] = {}
    for k in sorted(near, key=lambda k: (-len(near[k]), k)):
        taken = {colours[other] for other in near[k] if other in colours}
        colours[k] = next((colour for colour in range(COLOURS) if colour not in taken), k % COLOURS)
    return colours


class _Replayed(Signs):
    """The answers that were given at a place."""

    def __init__(self, pattern: Sequence[bool]) -> None:
        self._answers = iter(pattern)

    def positive(self, x: Polynomial) -> bool:
        return next(self._answers)


def plane_pieces(
    problem: Problem,
    *,
    theta: torch.Tensor | None = None,
    directions: torch.Tensor | None = None,
    radius: int | Fraction = 1,
    points: int = 41,
    seed: int = 0,
    seconds: float = 60.0,
) -> PlanePieces:
    """The pieces of F on a plane, decided exactly at points x points places.

    theta: (d,), the problem's by default. directions: (2, d), two random ones of unit length and the given seed by
    default. radius: > 0, in units of the directions. seconds: a limit on processor time after F is recorded.

    Exact for the rational numbers that the floats are. Raises ValueError at an operator that is not piecewise
    polynomial or not covered, and past the limit. Cost: one pass in rational arithmetic a place, a few hundred times
    a value of F in floats.

    >>> import tameopt as tame
    >>> problem = tame.Problem.from_function(lambda theta: theta.abs().sum(), torch.zeros(2))
    >>> plane_pieces(problem, directions=torch.eye(2), points=8).count
    4
    """
    if points < 2 or radius <= 0:
        raise ValueError(f"points must be >= 2 and radius > 0, got {points} and {radius}.")
    d = problem.theta.numel()
    if directions is None:
        drawn = torch.randn(2, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        directions = (drawn / drawn.norm(dim=1, keepdim=True) * _SIXTEENTHS).round() / _SIXTEENTHS
    if tuple(directions.shape) != (2, d):
        raise ValueError(f"directions must have shape (2, {d}), got {tuple(directions.shape)}.")
    loss = exact_loss(problem)
    start = time.process_time()
    along = {name: direction.double().tolist() for name, direction in zip(_NAMES, directions, strict=True)}
    _, moved = coordinates(problem, along, theta)
    axis = tuple(Fraction(radius) * Fraction(2 * k - points + 1, points - 1) for k in range(points))
    numbers: dict[Polynomial, int] = {}
    known: dict[tuple[bool, ...], int] = {}
    labels, values, kinks = [], [], 0
    for t in axis:
        row, heights = [], []
        for s in axis:
            if time.process_time() - start > seconds:
                raise ValueError(f"the pieces took more than {seconds:g} s: use fewer points, or a smaller network.")
            signs = SignsAtPoint()
            heights.append(loss([x.at({"s": s, "t": t}) for x in moved], signs, Fraction))
            pattern = tuple(signs.pattern)
            if pattern not in known:
                polynomial = loss(moved, _Replayed(pattern), Polynomial.constant)
                known[pattern] = numbers.setdefault(polynomial, len(numbers))
            kinks = max(kinks, len(pattern))
            row.append(known[pattern])
        labels.append(tuple(row))
        values.append(tuple(heights))
    return PlanePieces(axis, tuple(labels), tuple(values), tuple(numbers), kinks, directions)
