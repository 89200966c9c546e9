"""What does a certified gradient cost?

Question: on a small residual CNN (BatchNorm, max-pool; 16 images of 32 x 32), the processor time of SafeGradient, of
the ordinary gradient and of its backward pass alone: where no kink is active, where a whole layer sits on its kinks
(settled by the bias lemma), and where that layer has no bias, so that a direction has to choose the sides.

    OMP_NUM_THREADS=1 python benchmarks/nonsmooth_safe_gradient.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import tameopt as tame
from tameopt.nonsmooth import SafeGradient, census

REPEATS = 7


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))


def milliseconds(call: Callable[[], Any]) -> np.ndarray:
    """Quartiles after two warm-up calls."""
    call(), call()
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - begun))
    return np.quantile(times, [0.25, 0.5, 0.75])


def main() -> None:
    """Print medians, quartiles and ratios."""
    print("torch", torch.__version__, "threads", torch.get_num_threads(), "float32, seed 0")
    for words, bias, zero in (
        ("as initialised", True, False),
        ("first layer 0", True, True),
        ("first layer 0, without bias", False, True),
    ):
        torch.manual_seed(0)
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
        stem = [nn.Conv2d(3, 32, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2)]
        body = [Block(32), Block(32), nn.AvgPool2d(2), nn.Conv2d(32, 64, 1), Block(64), Block(64)]
        model = nn.Sequential(*stem, *body, *head).eval()
        for parameter in model[0].parameters() if zero else ():
            nn.init.zeros_(parameter)
        data = (torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
        problem = tame.Problem(model, nn.functional.cross_entropy, data)
        theta = problem.theta
        plain = milliseconds(partial(problem.gradient, theta))
        backward = plain[1] - milliseconds(partial(problem.value, theta))[1]
        ours = milliseconds(partial(SafeGradient(problem), theta))
        print(
            f"{words}: {census(problem, theta)}\n  gradient {plain[1]:.1f} ms [{plain[0]:.1f}, {plain[2]:.1f}], "
            f"backward alone {backward:.1f} ms, safe {ours[1]:.1f} ms [{ours[0]:.1f}, {ours[2]:.1f}]: "
            f"{ours[1] / plain[1]:.2f} gradients, {ours[1] / backward:.2f} backward passes"
        )


if __name__ == "__main__":
    main()
