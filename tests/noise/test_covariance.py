"""tr Sigma against the definition, sub-sampling against its standard error, the factor of a batch by enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch

from tameopt.noise.covariance import batch_factor, noise_at
from tameopt.problem import Problem


def _least_squares(n: int = 30, dtype: torch.dtype = torch.float64) -> Problem:
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(3, 1).to(dtype)
    with torch.no_grad():  # not the global generator: the tests' order must not matter
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    inputs = torch.randn(n, 3, generator=generator, dtype=dtype)
    return Problem(model, torch.nn.functional.mse_loss, (inputs, torch.randn(n, 1, generator=generator, dtype=dtype)))


def test_trace_is_the_definition() -> None:
    problem = _least_squares()
    gradients = torch.stack([problem.sample_gradients(None, torch.tensor([i]))[0] for i in range(30)])
    covariance = torch.cov(gradients.T, correction=0)
    found = noise_at(problem, problem.theta)
    assert found.trace == pytest.approx(float(covariance.trace()), rel=1e-12)
    assert found.standard_error == 0.0 and found.samples == 30
    assert "exact from 30 samples" in repr(found) and "<pre>NoiseAt(tr Sigma" in found._repr_html_()
    assert found.scale == pytest.approx(found.trace / float(gradients.mean(0).norm()) ** 2, rel=1e-12)


def test_drawn_samples_cover_the_truth() -> None:
    problem = _least_squares(600)
    truth = noise_at(problem, problem.theta).trace
    inside = 0
    for seed in range(200):
        found = noise_at(problem, problem.theta, max_samples=100, generator=torch.Generator().manual_seed(seed))
        inside += abs(found.trace - truth) <= 1.96 * found.standard_error
    # 95% nominal; the squares are skewed (about chi-square), which costs some points at 100 samples
    assert 170 <= inside <= 199


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_batch_factor_by_enumeration(batch_size: int) -> None:
    numbers = torch.tensor([0.3, -1.0, 2.0, 5.0], dtype=torch.float64)
    variance = float(numbers.var(correction=0))
    drawn = torch.tensor([float(numbers[list(c)].mean()) for c in itertools.product(range(4), repeat=batch_size)])
    assert float(drawn.double().var(correction=0)) == pytest.approx(
        batch_factor(4, batch_size, replacement=True) * variance, rel=1e-6
    )
    subsets = torch.tensor([float(numbers[list(c)].mean()) for c in itertools.combinations(range(4), batch_size)])
    assert float(subsets.double().var(correction=0)) == pytest.approx(
        batch_factor(4, batch_size, replacement=False) * variance, rel=1e-6, abs=1e-12
    )


def test_refusals() -> None:
    plain = Problem.from_function(lambda x: x.sum(), torch.ones(2))
    with pytest.raises(ValueError, match="a plain function has no samples"):
        noise_at(plain, plain.theta)
    problem = _least_squares()
    with pytest.raises(ValueError, match="a generator is required to draw 5 of 30 samples"):
        noise_at(problem, problem.theta, max_samples=5)
    model = torch.nn.Linear(3, 1)
    total = Problem(model, torch.nn.MSELoss(reduction="sum"), (torch.ones(4, 3), torch.ones(4, 1)), reduction="sum")
    with pytest.raises(ValueError, match="defined for a mean loss"):
        noise_at(total, total.theta)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        batch_factor(10, 0, replacement=True)
