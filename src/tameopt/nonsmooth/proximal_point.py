"""The proximal point method, regularised Gauss-Seidel, and the stochastic subgradient method of the lecture.

The first two are the abstract descent methods of Attouch & Bolte (2009) and Attouch, Bolte & Svaiter (2013): for F
tame, bounded iterates have finite length and converge to a critical point, at the rate of the KL exponent. The
third is the lecture's (SG): under a bounded trajectory, sum alpha = inf and sum alpha^2 < inf, its limit points are
Clarke critical for tame F (Davis, Drusvyatskiy, Kakade & Lee 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Map = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Trajectory:
    """The iterates of a method.

    points: (k, d). length: sum of norm(x_{k+1} - x_k). finite: the step at which the method stopped moving, or None.
    """

    points: torch.Tensor

    @property
    def moves(self) -> torch.Tensor:
        """(k - 1,) norm(x_{k+1} - x_k)."""
        return self.points.diff(dim=0).norm(dim=1)

    @property
    def length(self) -> float:
        return float(self.moves.sum())

    @property
    def finite(self) -> int | None:
        """The first step after which the iterate did not move at all; None when it never stopped."""
        still = (self.moves == 0).nonzero().flatten()
        return int(still[0]) if len(still) else None

    @property
    def ratio(self) -> float:
        """The last ratio of successive moves: the linear rate as far as seen; NaN when it stopped."""
        moves = self.moves
        return float(moves[-1] / moves[-2]) if len(moves) > 1 and float(moves[-2]) > 0 else float("nan")

    def __repr__(self) -> str:
        end = f"stopped at step {self.finite}" if self.finite is not None else f"ratio {self.ratio:.3g}"
        return f"Trajectory({len(self.points) - 1} steps, length {self.length:.4g}, {end})"


def proximal_point(prox: Map, x0: torch.Tensor, lam: float, steps: int) -> Trajectory:
    """x_{k+1} = argmin F(x) + norm(x - x_k)^2 / (2 lam), by the proximal map of F.

    prox: (x, lam) -> prox_{lam F}(x), an entry of the prox catalogue for one. Raises ValueError for lam <= 0.

    >>> from tameopt.nonsmooth import prox
    >>> proximal_point(prox.l1, torch.tensor([1.0]), 0.25, 6).finite
    4
    """
    if not lam > 0:
        raise ValueError(f"lam must be > 0, got {lam}.")
    points = [x0.detach().clone()]
    for _ in range(steps):
        points.append(prox(points[-1], lam))
    return Trajectory(torch.stack(points))


def gauss_seidel(
    blocks: Sequence[Callable[[list[torch.Tensor], torch.Tensor, float], torch.Tensor]],
    start: Sequence[torch.Tensor],
    lam: float,
    steps: int,
) -> tuple[list[torch.Tensor], Trajectory]:
    """Regularised Gauss-Seidel: x_i <- argmin F(.., x_i, ..) + norm(x_i - x_i^k)^2 / (2 lam), block by block.

    blocks[i]: (all blocks now, x_i^k, lam) -> that minimiser. Returns the blocks and the trajectory of all of them
    as one vector. Raises ValueError for lam <= 0 or unequal numbers of blocks and starts.
    """
    if not lam > 0:
        raise ValueError(f"lam must be > 0, got {lam}.")
    if len(blocks) != len(start):
        raise ValueError(f"each block needs a start, got {len(blocks)} blocks and {len(start)} starts.")
    now = [x.detach().clone() for x in start]
    points = [torch.cat([x.reshape(-1) for x in now])]
    for _ in range(steps):
        for number, minimise in enumerate(blocks):
            now[number] = minimise(list(now), now[number], lam)
        points.append(torch.cat([x.reshape(-1) for x in now]))
    return now, Trajectory(torch.stack(points))


def stochastic_subgradient(
    subgradient: Callable[[torch.Tensor], torch.Tensor],
    x0: torch.Tensor,
    schedule: Callable[[int], float],
    steps: int,
    *,
    noise: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> Trajectory:
    """x_{k+1} = x_k - alpha_k (v_k + M_{k+1}), v_k = subgradient(x_k) and M_{k+1} = noise(k, x_k).

    Raises ValueError when a step size is not > 0.
    """
    points = [x0.detach().clone()]
    for k in range(steps):
        alpha = schedule(k)
        if not alpha > 0:
            raise ValueError(f"every step must be > 0, got {alpha} at step {k}.")
        v = subgradient(points[-1])
        points.append(points[-1] - alpha * (v if noise is None else v + noise(k, points[-1])))
    return Trajectory(torch.stack(points))
