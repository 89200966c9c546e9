"""Two-layer linear network: 1/2 norm(W2 W1 - Y)_F^2, whose critical points are all known."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tameopt.problem import Problem
from tameopt.problems._entry import ProblemEntry


def build(
    singular_values: Sequence[float] = (4.0, 3.0, 2.0, 1.0), hidden: int = 3, scale: float = 0.1, seed: int = 0
) -> Problem:
    """Y = diag(singular_values), d x d; W1 is (hidden, d), W2 is (d, hidden), entries normal with this scale.

    The critical points with the subset S of singular values kept, r = |S|, have loss
    sum_{j not in S} s_j^2 / 2 and index (hidden - r)(d - r) + |{(s, j): s in S, j not in S, s_j > s_s}|.

    Raises ValueError for hidden < 1 or scale <= 0.
    """
    if hidden < 1 or scale <= 0:
        raise ValueError(f"hidden must be >= 1 and scale > 0, got hidden={hidden}, scale={scale}.")
    target = torch.diag(torch.tensor(list(singular_values), dtype=torch.float64))
    d = target.shape[0]
    generator = torch.Generator().manual_seed(seed)
    theta0 = scale * torch.randn(2 * d * hidden, dtype=torch.float64, generator=generator)

    def F(theta: torch.Tensor) -> torch.Tensor:
        W1 = theta[: hidden * d].view(hidden, d)
        W2 = theta[hidden * d :].view(d, hidden)
        return 0.5 * (W2 @ W1 - target.to(theta)).square().sum()

    return Problem.from_function(F, theta0, name="deep-linear", initial_law=f"normal, scale {scale:g}, seed {seed}")


ENTRY = ProblemEntry(
    name="deep-linear",
    title="two-layer linear network fitting a diagonal matrix: saddles of every index",
    source="P. Baldi, K. Hornik (1989), Neural Networks 2(1); K. Kawaguchi (2016), NeurIPS",
    build=build,
    training={"optimizer": "SGD", "lr": 0.05, "steps": 1000, "batch_size": None, "schedule": "constant"},
)
