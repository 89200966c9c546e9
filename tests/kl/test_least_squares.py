"""Which losses are least squares: by their operators, whatever they are called, and no near miss."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from tameopt.kl.least_squares import least_squares
from tameopt.kl.loss_trace import trace_loss
from tameopt.problem import Problem

GENERATOR = torch.Generator().manual_seed(0)
Y, OUT = (torch.randn(4, 2, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
WEIGHTS = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "c"),
    [
        (functional.mse_loss, Fraction(1, 8)),
        (nn.MSELoss(reduction="sum"), Fraction(1)),
        (nn.MSELoss(reduction="none"), Fraction(1)),
        (lambda f, y: ((f - y) ** 2).mean(), Fraction(1, 8)),
        (lambda f, y: ((y - f) * (f - y)).sum() / -len(y), Fraction(1, 4)),
        (lambda f, y: 0.5 * (f - y).pow(2).sum(-1).mean(), Fraction(1, 8)),
        (lambda f, y: (2 * (f.view(-1) - y.reshape(-1))).square().mean(), Fraction(1, 2)),
        (lambda f, y: functional.mse_loss(f.squeeze(), y.squeeze()), Fraction(1, 8)),
    ],
)
def test_least_squares_by_any_name(loss, c):
    found = trace_loss(loss, OUT, Y)
    assert found == c
    # an independent channel: the values
    assert float(loss(OUT, Y).sum()) == pytest.approx(float(c) * float((OUT - Y).square().sum()), rel=1e-12)


def through_a_view(f, y):
    difference = f - y
    difference.view(-1)[:1].mul_(3.0)
    return difference.square().mean()


def doubled(output, target):
    if output.requires_grad:
        output.register_hook(lambda gradient: 2 * gradient)
    return ((output - target) ** 2).mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.HuberLoss(delta=1e6), "huber_loss"),
        (nn.SmoothL1Loss(), "smooth_l1_loss"),
        (lambda f, y: (WEIGHTS * (f - y) ** 2).mean(), "begins with a tensor other than output"),
        (lambda f, y: ((f - y) ** 2).clamp(max=1e9).mean(), "clamp"),
        (lambda f, y: ((f - y) ** 2).mean() + 1e-12 * f.square().mean(), "works on the output alone"),
        (lambda f, y: ((f - y) * (f - y).detach()).mean(), "detach"),
        (lambda f, y: ((f - 2 * y) ** 2).mean(), "works on the target alone"),
        (lambda f, y: (torch.sub(f, y, alpha=2) ** 2).mean(), "alpha is not 1"),
        (lambda f, y: (f.t().reshape(-1) - y.reshape(-1)).square().mean(), "operator t in it"),
        (lambda f, y: ((f[:, None] - y) ** 2).mean(), "operator"),
        (lambda f, y: ((f - y) ** 2)[:, :1].mean(), "slice"),
        (lambda f, y: (f - y).pow(4).mean(), "pow"),
        (lambda f, y: 2 ** (f - y).mean(), "mean"),
        (lambda f, y: (f - y).mul(1.0).mul_(2.0).square().mean(), "mul_"),
        (through_a_view, "operator"),
        (lambda f, y: torch.div((f - y) ** 2, 2.0, rounding_mode="floor").mean(), "operator div"),
        (
            lambda f, y: ((f - y) ** 2).mean() if (f - y).abs().max() < 1e3 else (f - y).mean(),
            "cannot be read from its trace",
        ),
        (lambda f, y: (f - y).square().mean() * max(f.flatten().tolist()), "cannot be read from its trace"),
        (lambda f, y: (f - y).square().mean() * f.detach().numpy()[0, 0], "cannot be read from its trace"),
        (lambda f, y: (f - y).square().mean() * torch.rand(()), "random"),
        (doubled, "hook"),
        (lambda f, y: (f - y).mean(), "mean"),
        (lambda f, y: f - y, "not a multiple of sums"),
    ],
)
def test_near_misses_are_none(loss, message):
    found = trace_loss(loss, OUT, Y)
    assert isinstance(found, str) and message in found


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad):
        output, target = ctx.saved_tensors
        return grad * (output - target), None


def test_a_gradient_of_its_own_is_noticed(monkeypatch):
    problem = Problem(nn.Linear(3, 2).double(), WrongGradient.apply, (torch.ones(4, 3, dtype=torch.float64), Y))
    found = least_squares(problem)
    assert not found.holds and "detached" in found.reason
    # and were its operators all that one sees, its gradients would tell
    monkeypatch.setattr("tameopt.kl.least_squares.trace_loss", lambda loss, output, target: Fraction(1, 8))
    found = least_squares(problem)
    assert not found.holds and "values or gradients differ" in found.reason


def test_the_scale_is_that_of_all_samples_whatever_the_batches():
    X = torch.randn(7, 3, generator=GENERATOR, dtype=torch.float64)
    y = torch.randn(7, 2, generator=GENERATOR, dtype=torch.float64)
    model = nn.Linear(3, 2).double()
    for loss, reduction, scale in (
        (nn.MSELoss(), "mean", 1 / 14),
        (nn.MSELoss(reduction="sum"), "sum", 1.0),
        (lambda f, y: (f - y).square().sum(1), "none", 1 / 7),
    ):
        problem = Problem(model, loss, (X, y), reduction=reduction, batch_size=3)
        found = least_squares(problem)
        assert found.holds, found.reason
        assert found.scale == pytest.approx(scale, rel=1e-15)
        norm = float((problem.outputs() - y).square().sum())
        assert float(problem.value()) == pytest.approx(found.scale * norm, rel=1e-12)


def test_a_factor_that_changes_with_the_size_of_the_batch_is_refused():
    def loss(f, y):
        return (f - y).square().mean() * (2.0 if len(y) == 13 else 1.0)

    X = torch.randn(33, 3, generator=GENERATOR, dtype=torch.float64)
    problem = Problem(nn.Linear(3, 2).double(), loss, (X, X[:, :2]), batch_size=20)
    assert "changes with the size of the batch" in least_squares(problem).reason


def test_targets_that_are_no_numbers_are_refused():
    problem = Problem(nn.Linear(3, 2), nn.CrossEntropyLoss(), (torch.ones(4, 3), torch.zeros(4, dtype=torch.long)))
    assert "floating" in least_squares(problem).reason
