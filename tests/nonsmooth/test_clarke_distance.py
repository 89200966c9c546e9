"""The interval of column generation holds the exact distance, and closes where the outer set is the Clarke set."""

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.nonsmooth import clarke_distance, subdifferential


@pytest.mark.parametrize(
    "F,d",
    [
        (lambda x: x.abs().sum() + 3 * x[0], 3),
        (lambda x: x.max() + x[1] / 2, 3),
        (lambda x: torch.relu(x[1] - x[0].abs()) + x[0] / 4, 2),
        (lambda x: torch.relu(x[0]) - torch.relu(-x[0]) + x[1].abs(), 2),
        (lambda x: (x[1] - 2 * x[0].abs()).abs() + x[1], 2),
    ],
)
def test_the_interval_holds_the_exact_distance(F, d):
    found = clarke_distance(F, torch.zeros(d, dtype=torch.float64))
    exact = subdifferential(F, [0] * d).min_norm().distance
    assert found.lower <= exact + 1e-12
    assert found.upper == pytest.approx(exact, abs=1e-12)


def test_a_network_with_a_dead_layer_is_bounded_from_both_sides():
    """Weights of the first layer 0: every kink of it is active, 2^(4 n) patterns; cross-checked by a finer search."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    data = (torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64))
    problem = tame.Problem(model, nn.functional.mse_loss, data)
    parts = {key: part.clone() for key, part in problem.unflatten(problem.theta).items()}
    for key in ("0.weight", "0.bias"):
        parts[key].zero_()
    theta = problem.flatten(parts)
    found = clarke_distance(problem, theta, calls=60)
    assert 0 <= found.lower <= found.upper < float("inf")
    assert "kinks" in found.outer
    assert found.elements > 1
    assert float(found.subgradient.norm()) == pytest.approx(found.upper, rel=1e-9)
    more = clarke_distance(problem, theta, calls=200, seed=1)
    assert more.upper >= found.lower - 1e-9


def test_bad_input():
    with pytest.raises(ValueError, match="calls must be >= 1"):
        clarke_distance(lambda x: x.abs().sum(), torch.zeros(1), calls=0)
    with pytest.raises(ValueError, match="x must be finite"):
        clarke_distance(lambda x: x.abs().sum(), torch.tensor([float("nan")]))
