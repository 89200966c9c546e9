"""A small convolutional network with ReLU and max-pooling on real handwritten digits."""

from __future__ import annotations

import torch
from torch import nn

from tameopt.problem import Problem
from tameopt.problems._digits import SOURCE, digits
from tameopt.problems._entry import ProblemEntry


def build(channels: int = 8, n: int | None = None, seed: int = 0) -> Problem:
    """8x8 pixels -> `channels` filters, ReLU, pool -> twice as many, ReLU, pool -> 10 classes, cross-entropy.

    Filters are 3x3 with padding, pools 2x2; torch's default initialisation. Raises ValueError when channels < 1.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1 filter, got {channels}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * channels, 10),
        )  # fmt: skip
    return Problem(
        model,
        nn.CrossEntropyLoss(),
        digits(n),
        name="digits-cnn",
        initial_law=f"uniform (torch's default initialisation), seed {seed}",
    )


ENTRY = ProblemEntry(
    name="digits-cnn",
    title="ReLU network of two convolutions with max-pooling on 1,797 real handwritten digits, cross-entropy",
    source=SOURCE,
    build=build,
    training={"optimizer": "SGD", "lr": 0.1, "steps": 2000, "batch_size": 64, "schedule": "constant"},
)
