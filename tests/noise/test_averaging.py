"""Constant steps and averages: K23, the discrete Lyapunov equation, coverage of the intervals; cheap gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tameopt import problems
from tameopt.noise.averaging import (
    AverageConfidence,
    average_confidence,
    batch_means_error,
    lyapunov_residual,
    stationary_covariance,
    stationary_variance,
)
from tameopt.noise.gradient_cost import cheap_gradient
from tameopt.problem import Problem


def test_stationary_variance_in_simulation() -> None:
    """K23; 4,000 chains after 400 steps of contraction 0.6: standard error of the variance 2.2%."""
    rng = np.random.default_rng(0)
    x = np.zeros(4_000)
    for _ in range(400):
        x = x - 0.2 * (2.0 * x + 1.5 * rng.normal(size=x.size))
    assert x.var() == pytest.approx(stationary_variance(0.2, 2.0, 1.5**2), rel=4 * 0.022)


def test_stationary_covariance_solves_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    hessian, noise = root @ root.T + torch.eye(5, dtype=torch.float64), torch.diag(torch.arange(1.0, 6.0)).double()
    alpha = 1.0 / float(torch.linalg.eigvalsh(hessian)[-1])
    V = stationary_covariance(alpha, hessian, noise)
    assert lyapunov_residual(alpha, hessian, noise, V) < 1e-12
    one = stationary_covariance(0.1, torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    assert float(one) == pytest.approx(stationary_variance(0.1, 2.0, 3.0))


@pytest.mark.slow
def test_intervals_of_the_average_cover() -> None:
    """Least squares, alpha_k = 0.3 k^-0.6, K = 4,000, 200 runs at once; 95% nominal, standard error 1.5 points."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 3))
    targets = inputs @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=80)
    star = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    theta, average, burn, K = np.tile(star, (200, 1)), np.zeros((200, 3)), 500, 4_000
    for k in range(burn + K):
        i = rng.integers(0, 80, 200)
        residual = (inputs[i] * theta).sum(1) - targets[i]
        theta = theta - 0.3 * (k + 1 + burn) ** -0.6 * 2 * residual[:, None] * inputs[i]
        average += theta / K if k >= burn else 0.0
    model = torch.nn.Linear(3, 1, bias=False).double()
    data = (torch.as_tensor(inputs), torch.as_tensor(targets)[:, None])
    problem = Problem(model, torch.nn.functional.mse_loss, data)
    found = average_confidence(
        problem, torch.as_tensor(star), torch.eye(3, dtype=torch.float64), num_steps=K, batch_size=1
    )
    assert float(found.residuals.max()) < 1e-7
    half = (found.intervals[:, 1] - found.intervals[:, 0]).numpy() / 2
    coverage = (np.abs(average - star) <= half).mean(0)
    assert (coverage > 0.88).all() and (coverage < 1.0).all(), coverage
    # the intervals are not wide for nothing: the standard error is that of the simulation
    np.testing.assert_allclose(average.std(0), found.standard_errors.numpy(), rtol=0.25)


def test_batch_means() -> None:
    assert repr(AverageConfidence(torch.zeros(5), torch.ones(5), 0.95, torch.zeros(5))) == (
        "AverageConfidence(95% of 5 directions: [-1.96, 1.96], [-1.96, 1.96], [-1.96, 1.96], …)"
    )
    rng = np.random.default_rng(0)
    x, numbers = 0.0, []
    for _ in range(40_000):
        x = 0.9 * x + rng.normal()
        numbers.append(x)
    error = batch_means_error(torch.tensor(numbers))
    assert error == pytest.approx(10 / math.sqrt(40_000), rel=0.4)  # sd of the mean is 1/(1-0.9)/sqrt(m)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"alpha \* curvature must be < 2, got 2"):
        stationary_variance(1.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="alpha and curvature must be > 0"):
        stationary_variance(-1.0, 2.0, 1.0)
    with pytest.raises(ValueError, match=r"must be in \(0, 2\) for every eigenvalue"):
        stationary_covariance(0.1, torch.diag(torch.tensor([1.0, 0.0])), torch.eye(2))
    saddle = problems.load("saddle")
    with pytest.raises(ValueError, match="must be positive definite, got a direction of curvature"):
        average_confidence(saddle, torch.zeros(2), torch.tensor([[0.0], [1.0]]), num_steps=10, batch_size=1)
    with pytest.raises(ValueError, match=r"directions must be \(2, m\), got"):
        average_confidence(saddle, torch.zeros(2), torch.zeros(3, 1), num_steps=10, batch_size=1)
    with pytest.raises(ValueError, match="at least 40 numbers are needed for 20 blocks, got 5"):
        batch_means_error(torch.zeros(5))
    with pytest.raises(ValueError, match="repeats must be at least 3 for quartiles, got 1"):
        cheap_gradient(saddle, repeats=1)


def test_gradients_are_cheap() -> None:
    found = cheap_gradient(problems.load("digits-mlp", n=200, width=16), repeats=3)
    # forward W1, W2; backward both weight gradients and one input gradient: between 2 and 3
    assert found.flop_ratio is not None and 2.0 < found.flop_ratio < 3.0
    assert found.saved_bytes > 0 and found.time_ratio > 0
    low, high = found.time_quartiles
    assert low <= high and "a gradient costs" in repr(found)
    plain = cheap_gradient(problems.load("quadratic"), repeats=3)
    assert plain.flop_ratio is None
