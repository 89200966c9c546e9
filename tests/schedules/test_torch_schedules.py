"""Every PyTorch scheduler that is converted, against PyTorch stepping it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lr

from tameopt.optim.torch_schedules import from_torch

Optimizer = torch.optim.Optimizer


def _stepped(make: Callable[[Optimizer], lr.LRScheduler], num_steps: int) -> tuple[lr.LRScheduler, np.ndarray]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(optimizer)
    taken = []
    for _ in range(num_steps):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return scheduler, np.array(taken)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr.ConstantLR(o, factor=0.25, total_iters=7),
        lambda o: lr.LinearLR(o, start_factor=0.1, end_factor=0.8, total_iters=15),
        lambda o: lr.StepLR(o, step_size=9, gamma=0.5),
        lambda o: lr.MultiStepLR(o, milestones=[5, 5, 20], gamma=0.3),
        lambda o: lr.ExponentialLR(o, gamma=0.9),
        lambda o: lr.PolynomialLR(o, total_iters=25, power=2.0),
        lambda o: lr.CosineAnnealingLR(o, T_max=40, eta_min=0.01),
        lambda o: lr.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2, eta_min=0.001),
        lambda o: lr.CosineAnnealingWarmRestarts(o, T_0=7),
        lambda o: lr.OneCycleLR(o, max_lr=0.5, total_steps=41, pct_start=0.3),
        lambda o: lr.OneCycleLR(o, max_lr=0.5, total_steps=41, pct_start=0.25, div_factor=10, final_div_factor=100),
        lambda o: lr.SequentialLR(
            o, [lr.LinearLR(o, start_factor=0.2, total_iters=6), lr.ExponentialLR(o, gamma=0.9)], milestones=[6]
        ),
        lambda o: lr.ChainedScheduler(
            [lr.LinearLR(o, start_factor=0.2, total_iters=6), lr.StepLR(o, step_size=10, gamma=0.5)]
        ),
    ],
)
def test_agrees_with_pytorch(make: Callable[[Optimizer], lr.LRScheduler]) -> None:
    scheduler, taken = _stepped(make, 40)
    # PyTorch multiplies step by step: 40 roundings
    np.testing.assert_allclose(from_torch(scheduler).alphas(40), taken, rtol=1e-12, atol=1e-15)


def test_refusals() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    with pytest.raises(ValueError, match="must be a formula in k, got LambdaLR"):
        from_torch(lr.LambdaLR(optimizer, lambda k: 0.5**k))
    with pytest.raises(ValueError, match="must anneal by a cosine in two phases, got anneal_strategy='linear'"):
        from_torch(lr.OneCycleLR(optimizer, max_lr=0.5, total_steps=41, anneal_strategy="linear"))
    with pytest.raises(ValueError, match="of schedulers that multiply, got CosineAnnealingLR"):
        from_torch(lr.ChainedScheduler([lr.CosineAnnealingLR(optimizer, 5), lr.ExponentialLR(optimizer, 0.9)]))
