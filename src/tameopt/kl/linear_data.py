"""What the data say of a deep linear network: do its inputs span their space, and what is its least loss?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tameopt.problem import Problem
from tameopt.structure.linear_chain import LinearChain, in_rows

# our choice: rank is called full above 1e-6 of the largest singular value and deficient below 1e-12; open between
_FULL, _DEFICIENT = 1e-6, 1e-12


@dataclass(frozen=True)
class LinearData:
    """The inputs' rank and the least value of norm(W X - Y)^2 over matrices W that the network can be.

    singular_values: of the inputs, descending. least: of norm(W X - Y)^2.
    """

    dimension: int
    singular_values: tuple[float, ...]
    least: float

    @property
    def ratio(self) -> float:
        """The smallest singular value over the largest, 0 when there are fewer samples than inputs."""
        if len(self.singular_values) < self.dimension or not self.singular_values[0] > 0:
            return 0.0
        return self.singular_values[-1] / self.singular_values[0]

    @property
    def full_rank(self) -> bool | None:
        """Whether the inputs span their space; None when rounding leaves it open."""
        return True if self.ratio > _FULL else False if self.ratio < _DEFICIENT else None


def linear_data(problem: Problem, chain: LinearChain) -> LinearData:
    """Rank of the inputs and the least value of norm(W X - Y)^2, by two singular value decompositions."""
    X = torch.cat([in_rows(batch[0], chain.widths[0]) for batch in problem.batches]).double()
    Y = torch.cat([in_rows(batch[1], chain.widths[-1]) for batch in problem.batches]).double()
    U, s, _ = torch.linalg.svd(X, full_matrices=False)
    seen = U[:, s > _FULL * s.max()] if s.numel() else U[:, :0]
    inside = seen.T @ Y  # W X ranges over all matrices of that row space, of rank at most the bottleneck
    rest = torch.linalg.svdvals(inside)[chain.bottleneck :]
    least = float((Y - seen @ inside).square().sum() + rest.square().sum())
    return LinearData(X.shape[1], tuple(s.tolist()), least)


def size_in_words(chain: LinearChain) -> str:
    """Layers, widths, and where it is narrow."""
    hidden = chain.widths[1:-1]
    narrow = f"; its narrowest hidden layer has {min(hidden):,}" if hidden else ""
    widths = " -> ".join(f"{width:,}" for width in chain.widths)
    return f"{len(chain.layers)} weight matri{'ces' if hidden else 'x'} ({widths}){narrow}"
