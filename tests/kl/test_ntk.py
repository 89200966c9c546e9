"""The tangent kernel against independent Jacobians."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tameopt.kl import ntk
from tameopt.problem import Problem


def problem_of(outputs: int = 2) -> Problem:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    return Problem(model, nn.functional.mse_loss, (X, torch.zeros(7, outputs, dtype=torch.float64)))


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 1 << 28])
def test_kernel_equals_the_product_of_the_whole_jacobian(chunk_bytes):
    problem = problem_of()
    kernel = ntk(problem, chunk_bytes=chunk_bytes)
    theta = problem.theta

    def outputs(flat):
        return problem.batch_output(problem.unflatten(flat), problem.batches.whole, True).reshape(-1)

    J = torch.autograd.functional.jacobian(outputs, theta)
    torch.testing.assert_close(kernel.matrix, J @ J.T, rtol=1e-12, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(J @ J.T)
    assert kernel.lambda_min == pytest.approx(float(eigenvalues[0]), abs=1e-12)
    assert kernel.outputs == 2 and kernel.rank_bound == 14


def test_a_subset_has_a_principal_submatrix():
    problem = problem_of()
    whole, part = ntk(problem), ntk(problem, indices=torch.tensor([4, 1]))
    rows = torch.tensor([8, 9, 2, 3])
    torch.testing.assert_close(part.matrix, whole.matrix[rows][:, rows])


def test_a_plain_function_has_no_kernel():
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.ones(2))
    with pytest.raises(ValueError, match="a tangent kernel needs a problem given as model"):
        ntk(problem)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        ntk(problem_of(), indices=torch.zeros(0, dtype=torch.int64))
