"""Does the derivative that autodiff chooses at a kink matter? ReLU'(0) and the ties of max-pooling, by precision.

Along one training, at each mini-batch, backprop is evaluated with PyTorch's choice and with others at the same theta.
The share of mini-batches where they differ is the measure of the *bifurcation zone* of Bertoin, Bolte, Gerchinovitz
& Pauwels (2021, "Numerical influence of ReLU'(0) on backpropagation"): 0 in exact arithmetic for almost every theta,
not in floating point. Then the network is trained with each choice, from the same start on the same batches, beside a
control whose start differs by rounding alone: what the control does too is not the kinks' doing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tameopt.nonsmooth.chosen_derivative import Choice, ChosenDerivative
from tameopt.nonsmooth.held_out import accuracy, split
from tameopt.picture import Picture, Series
from tameopt.problem import Problem

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CHOICES = (
    Choice(relu=0.5), Choice(relu=1.0), Choice(relu=10.0), Choice(relu=1.0, operator="set"),
    Choice(max_pool="last"), Choice(max_pool="mean"),
)  # fmt: skip
CONTROL = "control: start rounded otherwise"
_ROUNDING = 4  # relative differences up to 4 eps may be rounding of the sums, larger ones are counted: our choice


@dataclass(frozen=True)
class Influence:
    """One choice in one precision.

    choice: its label, "as PyTorch", or the control's. batches: mini-batches at which both gradients were evaluated.
    differing: those where they are not bit for bit equal; beyond_rounding: with norm(g - g_ref) > 4 eps norm(g_ref).
    relative: (batches,) norm(g - g_ref) / norm(g_ref), in float64. losses, accuracies: after training with it,
    one a repeat (accuracy on samples held out; empty without classes). drifts: norm(theta - theta_ref) over
    norm(theta_ref - theta_0) at the end. diverged: repeats that ended in numbers that are not finite.
    """

    dtype: str
    choice: str
    batches: int
    differing: int
    beyond_rounding: int
    relative: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    drifts: tuple[float, ...]
    diverged: int

    @property
    def largest(self) -> float:
        """The largest relative difference of a mini-batch; 0 when none was compared."""
        return max(self.relative, default=0.0)

    @property
    def typical(self) -> float:
        """The median relative difference over the mini-batches where the two differ; 0 when none does."""
        return statistics.median([r for r in self.relative if r > 0] or [0.0])

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and standard deviation over the repeats; NaN where unknown."""
        mean = statistics.fmean(self.accuracies) if self.accuracies else math.nan
        return mean, statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else math.nan


@dataclass(frozen=True)
class KinkInfluence:
    """What `kink_influence` measured.

    rows: one a precision and choice. active: by precision, the mean number of ReLU inputs that are exactly 0 in a
    mini-batch, and ties: of max-pooling windows with several largest entries (other than 0), each beside the number
    of entries or windows there are.
    """

    rows: tuple[Influence, ...]
    active: dict[str, tuple[float, int]]
    ties: dict[str, tuple[float, int]]
    steps: int
    repeats: int
    lr: float
    batch_size: int
    seed: int

    def row(self, dtype: torch.dtype | str, choice: Choice | str) -> Influence:
        """The row of that precision and choice; ValueError when there is none."""
        name = str(dtype).removeprefix("torch.")
        label = choice.label if isinstance(choice, Choice) else choice
        for row in self.rows:
            if (row.dtype, row.choice) == (name, label):
                return row
        raise ValueError(f"no row for {label!r} in {name}; there are: {sorted({row.choice for row in self.rows})}.")

    def picture(self) -> Picture:
        """The relative difference at each mini-batch for the choice that differs most, in each precision."""
        series = []
        for name in self.active:
            rows = [row for row in self.rows if row.dtype == name and row.differing]
            if rows:
                row = max(rows, key=lambda row: row.typical)
                at = [(k, r) for k, r in enumerate(row.relative) if r > 0]
                series.append(Series.of(f"{name}: {row.choice}", [k for k, _ in at], [r for _, r in at], "points"))
        caption = (
            "For each precision the choice with the largest median. Mini-batches on which both gradients agree bit "
            "for bit have no point."
        )
        return Picture(
            "kink-influence", "Influence of the value chosen at kinks", "mini-batch",
            "relative difference of the gradient", tuple(series), y_log=bool(series), caption=caption,
        )  # fmt: skip

    def __repr__(self) -> str:
        worst = max(self.rows, key=lambda row: row.largest)
        return (
            f"KinkInfluence({len(self.rows)} rows; gradients differ by up to {worst.largest:.2g} of their norm, in "
            f"{worst.dtype} with {worst.choice})"
        )


def kink_influence(
    problem: Problem,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    choices: Sequence[Choice] = CHOICES,
    steps: int = 100,
    lr: float = 0.1,
    batch_size: int = 64,
    repeats: int = 1,
    seed: int = 0,
    notify: Callable[[str, float, float], None] | None = None,
) -> KinkInfluence:
    """The influence of ReLU'(0) and of the ties of max-pooling on gradients and on training.

    problem: a network with samples that can be picked by number. dtypes: weights, data and all arithmetic in each.
    choices: those to compare with PyTorch's; one about an operator that the network does not have is left out.
    steps, lr, batch_size: of plain stochastic gradient descent, from the problem's theta, on every sample but each
    fifth (which measures accuracy where the targets are classes). repeats: other orders of the batches; their spread
    is the noise to compare an influence with.

    Cost: 1 + choices gradients a step for the comparison, as many again and one for the training, all times dtypes
    and repeats (comparisons in the first repeat only). Raises ValueError for a function without samples, settings
    that are not positive, or a network without relu and max_pool2d.
    """
    split(problem)  # refuses what has no samples, before anything is computed
    if steps < 1 or repeats < 1 or batch_size < 1 or not lr > 0:
        raise ValueError(
            f"steps, repeats, batch_size and lr must be positive, got {steps}, {repeats}, {batch_size} and {lr}."
        )
    chosen = _relevant(problem, choices)
    rows: list[Influence] = []
    active: dict[str, tuple[float, int]] = {}
    ties: dict[str, tuple[float, int]] = {}
    done = 0
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        trainer = _Trainer(problem.to(dtype), steps, lr, batch_size)
        ends: dict[str, list[_End]] = {}
        for repeat in range(repeats):
            order = trainer.order(seed + repeat)
            for label, choice in [(one.label, one) for one in (Choice(), *chosen)] + [(CONTROL, Choice())]:
                if notify is not None:
                    notify(f"{name}, {label}", float(done), float(len(dtypes) * repeats * (len(chosen) + 2)))
                done += 1
                start = _nudged(trainer.problem.theta) if label == CONTROL else trainer.problem.theta
                watched = chosen if repeat == 0 and choice == Choice() and label != CONTROL else ()
                ends.setdefault(label, []).append(trainer.train(start, order, choice, watched))
        first = ends[Choice().label][0]
        rows += [_row(name, label, ends, first.relative.get(label, []), trainer) for label in ends]
        active[name], ties[name] = first.active, first.ties
    return KinkInfluence(tuple(rows), active, ties, steps, repeats, lr, batch_size, seed)


def _relevant(problem: Problem, choices: Sequence[Choice]) -> tuple[Choice, ...]:
    batch = problem.batches.pick(torch.arange(1))
    with ChosenDerivative(Choice()) as seen, torch.no_grad():
        problem.batch_output(problem.unflatten(problem.theta), batch)
    if not seen.entries and not seen.windows:
        raise ValueError(
            f"the network must call relu or max_pool2d, {problem.name} calls neither: nothing is chosen at its kinks."
        )
    plain = Choice()
    return tuple(
        choice
        for choice in dict.fromkeys(choices)
        if (seen.entries and (choice.relu, choice.operator) != (plain.relu, plain.operator))
        or (seen.windows and choice.max_pool != plain.max_pool)
    )


def _nudged(theta: torch.Tensor) -> torch.Tensor:
    """theta with each entry moved to a neighbouring number."""
    return (
        torch.where(torch.arange(len(theta)) % 2 == 0, 1.0, -1.0).to(theta)
        * theta.abs()
        * torch.finfo(theta.dtype).eps
        + theta
    )


@dataclass(frozen=True)
class _End:
    """How one training ended, and what was compared along it."""

    theta: torch.Tensor
    loss: float
    accuracy: float
    relative: dict[str, list[float]]
    active: tuple[float, int]
    ties: tuple[float, int]


class _Trainer:
    """Plain SGD in one precision on the samples that are not held out."""

    def __init__(self, problem: Problem, steps: int, lr: float, batch_size: int) -> None:
        self.problem, self.steps, self.lr, self.batch_size = problem, steps, lr, batch_size
        self.kept, self.held = split(problem)

    def order(self, seed: int) -> list[torch.Tensor]:
        """The samples of each step, with replacement."""
        generator = torch.Generator().manual_seed(seed)
        size = (self.steps, min(self.batch_size, len(self.kept)))
        return list(self.kept[torch.randint(len(self.kept), size, generator=generator)])

    def train(
        self, theta: torch.Tensor, order: list[torch.Tensor], choice: Choice, watched: Sequence[Choice]
    ) -> _End:
        problem = self.problem
        relative: dict[str, list[float]] = {other.label: [] for other in watched}
        counted = ChosenDerivative(choice)
        for indices in order:
            batch = problem.batches.pick(indices)
            with counted:
                g = problem.batch_gradient(theta, batch)[1]
            for other in watched:
                with ChosenDerivative(other):
                    theirs = problem.batch_gradient(theta, batch)[1]
                relative[other.label].append(_relative(theirs, g))
            theta = theta - self.lr * g
        steps = len(order)
        loss = float(problem.value(theta))
        return _End(
            theta, loss, accuracy(problem, theta, self.held), relative,
            (counted.active / steps, counted.entries // steps), (counted.ties / steps, counted.windows // steps),
        )  # fmt: skip


def _relative(theirs: torch.Tensor, g: torch.Tensor) -> float:
    """norm(theirs - g) / norm(g) in float64; inf where g is 0 and the other not, or one is not finite."""
    if torch.equal(theirs, g):
        return 0.0
    difference, size = float((theirs.double() - g.double()).norm()), float(g.double().norm())
    return difference / size if size and math.isfinite(difference) else math.inf


def _row(
    name: str, label: str, ends: dict[str, list[_End]], relative: Sequence[float], trainer: _Trainer
) -> Influence:
    reference, start = ends[Choice().label], trainer.problem.theta.double()
    eps = torch.finfo(trainer.problem.dtype).eps
    drifts = tuple(
        float((end.theta.double() - ref.theta.double()).norm() / (ref.theta.double() - start).norm())
        for end, ref in zip(ends[label], reference, strict=True)
    )
    return Influence(
        name, label, len(relative), sum(r > 0 for r in relative), sum(r > _ROUNDING * eps for r in relative),
        tuple(relative), tuple(end.loss for end in ends[label]),
        tuple(end.accuracy for end in ends[label] if not math.isnan(end.accuracy)), drifts,
        sum(not math.isfinite(end.loss) for end in ends[label]),
    )  # fmt: skip
