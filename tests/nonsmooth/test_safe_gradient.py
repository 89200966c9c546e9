"""The safe gradient: an element of the exact Clarke set where backprop's is none, and backprop's where it is fine."""

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.nonsmooth import SafeGradient, safe_gradient, subdifferential
from tameopt.nonsmooth.safe_gradient import drop_in

FUNCTIONS = {
    "relu(x) - relu(-x)": (lambda x: (torch.relu(x) - torch.relu(-x)).sum(), [0.0]),
    "maximum twice": (lambda x: (x.maximum(0 * x) - x.maximum(0 * x).maximum(0 * x)).sum(), [0.0]),
    "abs - abs": (lambda x: x[0].abs() - x[1].abs(), [0.0, 0.0]),
    "max of three": (lambda x: x.max(), [0.0, 0.0, 0.0]),
    "minimum": (lambda x: torch.minimum(x[0], 2 * x[1]) - x.min(), [0.0, 0.0]),
    "top 2": (lambda x: x.topk(2).values.sum() - x.topk(1, largest=False).values.sum(), [1.0, 1.0, 1.0]),
    "sort": (lambda x: (x.sort(descending=True).values * torch.tensor([1.0, 2, 4])).sum(), [1.0, 1.0, 1.0]),
    "where": (lambda x: torch.where(x > 0, x, -2 * x).sum(), [0.0]),
    "clamps": (lambda x: x.clamp(0, 1).sum() - nn.functional.hardtanh(x).sum(), [0.0, 1.0, -1.0]),
    "leaky": (lambda x: nn.functional.leaky_relu(x).sum() - nn.functional.leaky_relu(-x).sum(), [0.0]),
    "reductions": (lambda x: x.view(2, 2).amax(1).sum() - x.view(2, 2).min(0).values.sum(), [1.0] * 4),
    "pool": (lambda x: nn.functional.max_pool2d(x.view(1, 1, 2, 2), 2).sum() - x[3], [1.0] * 4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_in_the_exact_clarke_set(name):
    F, x = FUNCTIONS[name]
    point = torch.tensor(x)
    exact = subdifferential(lambda t: F(t.double() if t.dtype == torch.float64 else t), point.double())
    for seed in range(4):
        assert exact.contains(safe_gradient(F, point, seed=seed), tolerance=1e-7)


def test_backprop_is_outside_where_the_safe_one_is_inside():
    F, x = FUNCTIONS["relu(x) - relu(-x)"]
    point = torch.tensor(x, requires_grad=True)
    (backprop,) = torch.autograd.grad(F(point), point)
    exact = subdifferential(F, [0])
    assert not exact.contains(backprop)
    assert exact.contains(safe_gradient(F, point.detach()))


def test_without_ties_it_is_the_gradient():
    problem = tame.problems.load("digits-mlp").to(torch.float64)
    torch.testing.assert_close(safe_gradient(problem), problem.gradient(), rtol=1e-12, atol=1e-15)


def test_a_tied_network_agrees_with_gradients_nearby():
    """All pre-activations 0: the result is the limit of gradients along its own direction."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)).double()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    x, y = torch.randn(5, 1, 6, 6, dtype=torch.float64), torch.randint(3, (5,))
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, y))
    theta = problem.theta
    h = torch.randn(problem.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    safe = SafeGradient(problem).along(theta, h)
    for t in (1e-6, 1e-8):
        torch.testing.assert_close(problem.gradient(theta + t * h), safe, rtol=0, atol=200 * t)
    # by the lemma the plain gradient is one too: the limit as the bias of the convolution falls
    plain = SafeGradient(problem)(theta)
    torch.testing.assert_close(plain, problem.gradient(theta))
    parts = {key: part.clone() for key, part in problem.unflatten(theta).items()}
    parts["0.bias"] -= 1e-8
    torch.testing.assert_close(problem.gradient(problem.flatten(parts)), plain, rtol=0, atol=1e-6)


def test_batches_are_not_mixed_between_the_lemma_and_a_direction():
    """One batch has tied pools and needs a direction; then the other takes its sides from it as well."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([0.0, 1.0]))  # channel 0 on its kinks, channel 1 in ties of ones
    x = torch.randn(6, 1, 6, 6, dtype=torch.float64)
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, torch.tensor([0, 1, 2, 0, 1, 2])), batch_size=3)
    assert len(list(problem.batches)) == 2
    theta = problem.theta
    safe = SafeGradient(problem, seed=3)(theta)
    h = torch.randn(problem.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(problem.gradient(theta + 1e-8 * h), safe, rtol=0, atol=1e-6)


def test_it_trains(tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    x, y = torch.randn(30, 4), torch.randint(2, (30,))
    problem = tame.Problem(model, nn.functional.cross_entropy, (x, y))
    gradient, optimizer = SafeGradient(problem), torch.optim.SGD(model.parameters(), lr=0.5)
    before = float(problem.value())
    for _ in range(20):
        drop_in(dict(model.named_parameters()), gradient(problem.theta))
        optimizer.step()
    assert float(problem.value()) < before - 0.05


def test_an_operator_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match="smooth or kinks it knows"):
        safe_gradient(lambda x: x.sign().sum() + x.round().sum(), torch.zeros(2))
