"""A small ReLU network on real handwritten digits: the built-in example of a deep network."""

from __future__ import annotations

import torch
from torch import nn

from tameopt.problem import Problem
from tameopt.problems._digits import SOURCE, digits
from tameopt.problems._entry import ProblemEntry


def build(width: int = 64, n: int | None = None, seed: int = 0) -> Problem:
    """64 pixels -> `width` ReLU units -> 10 classes, cross-entropy, torch's default initialisation.

    Raises ValueError when width < 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1 unit, got {width}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return Problem(
        model,
        nn.CrossEntropyLoss(),
        digits(n),
        name="digits-mlp",
        initial_law=f"uniform (torch's default initialisation), seed {seed}",
    )


ENTRY = ProblemEntry(
    name="digits-mlp",
    title="ReLU network 64-64-10 on 1,797 real handwritten digits, cross-entropy",
    source=SOURCE,
    build=build,
    training={"optimizer": "SGD", "lr": 0.05, "steps": 6000, "batch_size": 64, "schedule": "constant"},
)
