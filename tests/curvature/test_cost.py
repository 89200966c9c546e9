"""The estimate of a product's cost follows the network, not its parameter count."""

from __future__ import annotations

import time

import torch
from torch import nn

from tameopt import Problem
from tameopt.curvature.cost import product_seconds


def test_a_convolution_costs_more_than_its_parameters_tell() -> None:
    x, y = torch.randn(64, 1, 24, 24), torch.randint(3, (64,))
    conv = nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.Flatten(), nn.LazyLinear(3))
    conv(x)
    problem = Problem(conv, nn.functional.cross_entropy, (x, y))
    expected = product_seconds(problem, problem.theta)
    operator = problem.hessian()
    operator @ problem.theta
    begun = time.perf_counter()
    operator @ problem.theta
    spent = time.perf_counter() - begun
    # a factor of 2 is meant; 10 leaves room for a busy machine
    assert spent / 10 < expected < 10 * spent


def test_a_function_and_a_loss_without_gradient() -> None:
    assert product_seconds(Problem.from_function(lambda t: t.square().sum(), torch.ones(3)), torch.ones(3)) > 0
    flat = Problem.from_function(lambda t: t.detach().square().sum(), torch.ones(3))
    assert product_seconds(flat, torch.ones(3)) != product_seconds(flat, torch.ones(3))  # nan
