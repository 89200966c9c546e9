"""The tangent kernel against independent Jacobians."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tameopt.kl import ntk
from tameopt.kl.jacobian_rows import jacobian_rows, kernel_products
from tameopt.kl.ntk import kernel_drift, kernel_path
from tameopt.problem import Problem

sys.path.insert(0, str(Path(__file__).parent))
from training import record_descent


def problem_of(outputs: int = 2) -> Problem:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    return Problem(model, nn.functional.mse_loss, (X, torch.zeros(7, outputs, dtype=torch.float64)))


@pytest.mark.parametrize("method", ["structured", "contraction"])
@pytest.mark.parametrize("chunk_bytes", [1, 5000, 1 << 28])
def test_kernel_equals_the_product_of_the_whole_jacobian(chunk_bytes, method):
    problem = problem_of()
    kernel = ntk(problem, chunk_bytes=chunk_bytes, method=method)
    assert kernel.method == f"{method}: as asked"
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


def of(model: nn.Module, shape: tuple[int, ...], n: int = 6) -> Problem:
    torch.manual_seed(0)
    X = torch.randn(n, *shape, dtype=torch.float64)
    model = model.double().eval()
    return Problem(model, nn.functional.mse_loss, (X, torch.zeros_like(model(X).detach())))


class Shared(nn.Module):
    """One layer used twice, and a weight used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.inner(torch.tanh(self.inner(x))))
        return self.outer(y) + (y @ self.outer.weight.T) ** 2


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    return model


MODELS = {
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, (2, 1), dilation=(1, 2)),
            nn.Flatten(),
            nn.Linear(16, 2),
        ),
        (2, 6, 8),
    ),
    "one-dimensional convolution": lambda: (
        nn.Sequential(nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 1)),
        (2, 7),
    ),
    "norms and sequences": lambda: (
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2), nn.Flatten(), nn.Linear(10, 3)),
        (5, 3),
    ),
    "batch norm": lambda: (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), (3,)),
    "grouped convolution": lambda: (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Tanh(), nn.Flatten()), (4, 4, 4)),
    "frozen weight": lambda: (frozen(), (3,)),
    "tied weights": lambda: (Tied(), (4,)),
    "a layer used twice, and by hand": lambda: (Shared(), (4,)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_bytes", [2000, 1 << 28])
def test_structure_gives_what_contraction_gives(name, chunk_bytes):
    problem = of(*MODELS[name]())
    structured, contracted = (ntk(problem, chunk_bytes=chunk_bytes, method=m) for m in ("structured", "contraction"))
    torch.testing.assert_close(structured.matrix, contracted.matrix, rtol=1e-10, atol=1e-12)
    if name == "grouped convolution":
        assert structured.method == "contraction: no linear or convolution layer has its structure"
    elif "by hand" in name:
        assert structured.method.startswith("contraction: the layers' structure does not hold")
    else:
        assert structured.method == "structured: as asked"


def test_products_find_the_ends_of_the_kernel():
    problem = problem_of()
    exact, found = ntk(problem), ntk(problem, method="products")
    assert found.matrix is None
    assert found.lambda_max == pytest.approx(exact.lambda_max, rel=1e-6)
    assert found.lambda_min == pytest.approx(exact.lambda_min, abs=max(1e-8, 2 * found.rounding))
    with pytest.raises(ValueError, match="needs both kernels as matrices"):
        kernel_drift(found, found)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of auto"):
        ntk(problem_of(), method="fast")


def test_a_wide_network_is_lazy_and_a_narrow_one_is_not(tmp_path):
    drifts = []
    for width in (4, 2048):
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(6, 3, dtype=torch.float64, generator=generator)
        model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1, bias=False)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / p.shape[-1] ** 0.5)
        problem = Problem(model, nn.functional.mse_loss, (X, torch.sign(X[:, :1])))
        run = record_descent(tmp_path / str(width), problem, 1.0 / ntk(problem).lambda_max, 200)
        path = kernel_path(problem, run, torch.arange(6))
        assert path.drift[0] == 0.0 and path.movement[0] == 0.0
        drifts.append(path.drift[-1])
        assert path.lazy == (width == 2048)
    assert drifts[1] < drifts[0] / 5


def test_the_kernel_of_an_attention_network_by_products_and_by_rows_agree():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 1)).double()
    problem = Problem(model, nn.MSELoss(), (torch.randn(3, 3, 4).double(), torch.randn(3, 1).double()))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "There is a performance drop")  # vmap's slow fallback for fused attention
        rows = jacobian_rows(problem, problem.theta, torch.arange(3)).reshape(3, -1)
        kernel = kernel_products(problem, problem.theta, torch.arange(3), torch.eye(3).double())
    assert torch.allclose(rows @ rows.T, kernel, rtol=1e-10)
