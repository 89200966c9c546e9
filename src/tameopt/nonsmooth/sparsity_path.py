"""The sparsity path: a network trained with a regulariser of growing strength, and what it costs in accuracy.

At each strength: stochastic inertial proximal gradient from where the last one ended, then full-batch passes of PALM
with one block for the regularised tensors and one for the rest, at which the descent inequality that the convergence
theorem asks of the step is checked (Bolte, Sabach & Teboulle 2014). Zeros, rows and ranks are those of the
parameters themselves: a proximal step makes them exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tameopt.batches import Batch
from tameopt.nonsmooth.held_out import accuracy, split
from tameopt.nonsmooth.palm import PALM, PalmReport
from tameopt.nonsmooth.prox import Prox, entry
from tameopt.nonsmooth.proximal_gradient import ProximalGradient
from tameopt.picture import Picture, Series
from tameopt.problem import Problem

_FIRST = 3  # the first strength starts from the untrained network and gets this many times the steps: our choice


@dataclass(frozen=True)
class Strength:
    """Where training with one strength ended.

    nonzero: share of the regularised entries that are not 0; rows: share of their rows (a unit's or filter's weights)
    not all 0; rank: sum of the ranks over its largest possible value. loss: F on the training samples without the
    regulariser; accuracy: on the samples held out, NaN without classes. report: what PALM verified along the full
    passes at the end.
    """

    strength: float
    nonzero: float
    rows: float
    rank: float
    loss: float
    accuracy: float
    report: PalmReport


@dataclass(frozen=True)
class SparsityPath:
    """The ends of training, by growing strength. parameters: the names of the regularised tensors."""

    prox: str
    parameters: tuple[str, ...]
    points: tuple[Strength, ...]

    def picture(self) -> Picture:
        """Shares and accuracy against the strength."""
        x = [point.strength for point in self.points]
        shares = {
            "entries not 0": [point.nonzero for point in self.points],
            "rows not 0": [point.rows for point in self.points],
            "rank": [point.rank for point in self.points],
        }
        if entry(self.prox).acts_on == "matrices":
            shares = {"rank": shares["rank"]}
        elif shares["rows not 0"] == shares["entries not 0"]:  # whole rows go at once
            shares = {"rows not 0": shares["rows not 0"]}
        else:
            del shares["rank"]
        series = [Series.of(words, x, values) for words, values in shares.items()]
        if not any(math.isnan(point.accuracy) for point in self.points):
            series.append(Series.of("accuracy, held out", x, [point.accuracy for point in self.points]))
        return Picture(
            "sparsity-path", f"Sparsity path of {self.prox}", "strength lambda", "share", tuple(series), x_log=True,
            caption=f"Trained with lambda times {self.prox} on {', '.join(self.parameters)}.",
        )  # fmt: skip

    def __repr__(self) -> str:
        first, last = self.points[0], self.points[-1]
        return (
            f"SparsityPath({self.prox}, {len(self.points)} strengths {first.strength:g}..{last.strength:g}, "
            f"nonzero {first.nonzero:.3f}..{last.nonzero:.3f}, accuracy {first.accuracy:.3f}..{last.accuracy:.3f})"
        )


def sparsity_path(
    problem: Problem,
    prox: str | Prox = "l1",
    strengths: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    *,
    parameters: Sequence[str] | None = None,
    options: dict[str, float] | None = None,
    steps: int = 300,
    lr: float = 0.1,
    momentum: float = 0.9,
    batch_size: int = 128,
    passes: int = 30,
    seed: int = 0,
    notify: Callable[[str, float, float], None] | None = None,
) -> SparsityPath:
    """Train the network at each strength (growing, warm-started) of a regulariser from the prox catalogue.

    parameters: names of the tensors it acts on; every matrix and kernel by default. options: of the prox. steps:
    stochastic ones a strength (three times as many at the first), on four fifths of the samples; passes: of
    full-batch PALM after them.

    Cost: steps mini-batch gradients and about 2 passes gradients and 3 passes values a strength. Raises ValueError
    for strengths that do not grow or are not positive, an unknown parameter, and as `ProximalGradient`.

    >>> from tameopt import problems
    >>> path = sparsity_path(problems.load("digits-linear"), strengths=(1e-3, 1e-1), steps=20, passes=5)
    >>> path.points[1].nonzero < path.points[0].nonzero
    True
    """
    lams = [float(lam) for lam in strengths]
    if not lams or min(lams) <= 0 or lams != sorted(set(lams)):
        raise ValueError(f"strengths must be positive and grow, got {lams}.")
    if steps < 1 or passes < 1:
        raise ValueError(f"steps and passes must be >= 1, got {steps} and {passes}.")
    regulariser = prox if isinstance(prox, Prox) else entry(prox)
    kept, held = split(problem)
    names = tuple(name for name, shape in problem.shapes.items() if len(shape) >= 2)
    names = names if parameters is None else tuple(parameters)
    if not names or set(names) - set(problem.shapes):
        raise ValueError(f"parameters must be among {', '.join(problem.shapes)}, got {list(names)}.")
    state = {key: torch.nn.Parameter(view.clone()) for key, view in problem.unflatten(problem.theta).items()}
    chosen = [state[name] for name in names]
    others = [p for name, p in state.items() if name not in names]
    generator, given, points = torch.Generator().manual_seed(seed), dict(options or {}), []
    for number, lam in enumerate(lams):
        if notify is not None:
            notify(f"{regulariser.name}, strength {lam:g}", float(number), float(len(lams)))
        groups = [{"params": chosen, "prox": regulariser, "strength": lam, "options": given}]
        groups += [{"params": others}] if others else []
        stochastic = ProximalGradient([dict(group) for group in groups], lr, momentum=momentum)
        for _ in range(steps * (_FIRST if number == 0 else 1)):
            indices = kept[torch.randint(len(kept), (min(batch_size, len(kept)),), generator=generator)]
            g = problem.batch_gradient(problem.flatten(state), problem.batches.pick(indices))[1]
            for key, part in problem.unflatten(g).items():
                state[key].grad = part
            stochastic.step()
        full = PALM(groups)
        batch = problem.batches.pick(kept)
        for _ in range(passes):
            full.step(functools.partial(_loss, problem, state, batch))
        theta, report = problem.flatten(state), full.report()
        loss = float(_loss(problem, state, batch).detach())
        points.append(_point(lam, chosen, loss, accuracy(problem, theta, held), report))
    return SparsityPath(regulariser.name, names, tuple(points))


def _loss(problem: Problem, state: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    return problem.batch_output(dict(state), batch).mean()


@torch.no_grad()
def _point(lam: float, chosen: Sequence[torch.Tensor], loss: float, right: float, report: PalmReport) -> Strength:
    matrices = [p.detach().reshape(p.shape[0], -1) if p.ndim > 1 else p.detach().reshape(1, -1) for p in chosen]
    total, rows = sum(m.numel() for m in matrices), sum(len(m) for m in matrices)
    ranks = sum(int(torch.linalg.matrix_rank(m)) for m in matrices)
    return Strength(
        lam,
        sum(int((m != 0).sum()) for m in matrices) / total,
        sum(int((m != 0).any(1).sum()) for m in matrices) / rows,
        ranks / sum(min(m.shape) for m in matrices),
        loss,
        right,
        report,
    )
