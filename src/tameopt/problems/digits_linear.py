"""Multinomial logistic regression on real handwritten digits: convex and real analytic."""

from __future__ import annotations

import torch
from torch import nn

from tameopt.problem import Problem
from tameopt.problems._digits import SOURCE, digits
from tameopt.problems._entry import ProblemEntry


def build(n: int | None = None, seed: int = 0) -> Problem:
    """64 pixels -> 10 classes, cross-entropy, torch's default initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Linear(64, 10)
    return Problem(
        model,
        nn.CrossEntropyLoss(),
        digits(n),
        name="digits-linear",
        initial_law=f"uniform (torch's default initialisation), seed {seed}",
    )


ENTRY = ProblemEntry(
    name="digits-linear",
    title="multinomial logistic regression on 1,797 real handwritten digits (convex)",
    source=SOURCE,
    build=build,
    training={"optimizer": "SGD", "lr": 0.5, "steps": 2000, "batch_size": None, "schedule": "constant"},
)
