"""Stability limits against simulation of the recursion itself, on both sides of each limit."""

import pytest
import torch

import tameopt as tame

CASES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.3, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.9},
    {"momentum": 0.6, "dampening": 0.2},
    {"momentum": 0.9, "weight_decay": 0.5},
]


def final_size(arguments, alpha, eigenvalue=3.0, steps=3000):
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=alpha, **arguments)
    for _ in range(steps):
        theta.grad = eigenvalue * theta.detach()
        optimizer.step()
        if theta.detach().abs() > 1e6:
            break
    return float(theta.detach().abs())


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_the_limit_separates_convergence_from_divergence(arguments):
    found = tame.curvature.stability_limit("SGD", arguments)
    alpha = found.limit / (3.0 + found.decay)
    assert final_size(arguments, 0.98 * alpha) < 0.1
    assert final_size(arguments, 1.02 * alpha) > 10


def test_adam_with_a_frozen_preconditioner():
    """EMA momentum on P^-1 H: the limit of Adam once its second moments stand still."""
    found = tame.curvature.stability_limit("Adam", {"betas": (0.9, 0.999)})
    assert found.limit == pytest.approx(38.0) and found.preconditioner == "exp_avg_sq"
    assert tame.curvature.stability_limit("keras.SGD", {"momentum": 0.9}).limit == pytest.approx(3.8)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("Rprop", {}, "signs"),
        ("Ftrl", {}, "no stability limit of Ftrl"),
        ("SGD", {"momentum": 1.5}, "must lie in"),
        ("Adam", {"amsgrad": True}, "maximum of the second moments"),
        ("SGD", {"maximize": True}, "ascends"),
        ("RMSprop", {"centered": True}, "centred"),
        ("Adam", {"betas": (1.2, 0.9)}, "beta1"),
    ],
)
def test_methods_that_are_not_covered_say_why(name, arguments, words):
    found = tame.curvature.stability_limit(name, arguments)
    assert found.limit is None and words in found.reason
