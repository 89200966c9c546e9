"""The derivative chosen at a kink: values unchanged, the chosen element exactly, and its influence where known."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import tameopt as tame
from tameopt.cli import main
from tameopt.nonsmooth.chosen_derivative import Choice, ChosenDerivative
from tameopt.nonsmooth.kink_influence import CONTROL, kink_influence

PLAIN = Choice()


def _relu_gradient(choice, call, above=3.0):
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    with ChosenDerivative(choice) as counted:
        (above * call(x)).sum().backward()
    assert (counted.entries, counted.active) == (3, 1)
    return x.grad.tolist()


SPELLINGS = [
    torch.relu, functional.relu, nn.ReLU(), torch.Tensor.relu,
    lambda x: functional.relu(x + 0, inplace=True), lambda x: (x + 0).relu_(),
]  # fmt: skip


@pytest.mark.parametrize("call", SPELLINGS)
def test_relu_in_every_spelling(call):
    assert _relu_gradient(PLAIN, call) == [0.0, 0.0, 3.0]
    assert _relu_gradient(Choice(relu=0.5), call) == [0.0, 1.5, 3.0]
    assert _relu_gradient(Choice(relu=0.5, operator="set"), call) == [0.0, 0.5, 3.0]


def test_ties_of_max_pooling_by_hand():
    x = torch.tensor([[[2.0, 2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 3.0]]], requires_grad=True)
    wanted = {
        "first": [[[1, 0, 0, 0], [0, 0, 1, 0]]],
        "last": [[[0, 0, 0, 0], [0, 1, 0, 1]]],
        "mean": [[[1 / 3, 1 / 3, 0, 0], [0, 1 / 3, 0.5, 0.5]]],
    }
    for name, gradient in wanted.items():
        x.grad = None
        with ChosenDerivative(Choice(max_pool=name)) as counted:
            functional.max_pool2d(x, 2).sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor(gradient, dtype=torch.float32))
        assert (counted.windows, counted.ties) == (2, 2)


@pytest.mark.parametrize("given", [{}, {"stride": 1}, {"padding": 1}, {"dilation": 2, "stride": (1, 2)}])
def test_first_is_pytorch_itself(given):
    """Against PyTorch on integers, full of ties, with windows that overlap."""
    x = torch.randint(-2, 3, (2, 3, 9, 8), generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    own = functional.max_pool2d(x, 3, **given)
    weights = torch.randn(own.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad((own * weights).sum(), x)
    with ChosenDerivative(PLAIN):
        ours = functional.max_pool2d(x, 3, **given)
        (got,) = torch.autograd.grad((ours * weights).sum(), x)
    assert torch.equal(own, ours)
    torch.testing.assert_close(got, wanted)


def test_pytorchs_choice_gives_pytorchs_gradient_of_a_network():
    problem = tame.problems.load("digits-cnn", n=32)
    g = problem.gradient()
    with ChosenDerivative(PLAIN):
        torch.testing.assert_close(problem.gradient(), g)


def _on_the_kink(n=40):
    """A network whose first layer is 0: every hidden unit is on its kink, for every sample."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(model[0].weight), nn.init.zeros_(model[0].bias)
    generator = torch.Generator().manual_seed(1)
    data = (torch.randn(n, 3, generator=generator), torch.randint(2, (n,), generator=generator))
    return tame.Problem(model, nn.CrossEntropyLoss(), data)


def test_a_layer_on_its_kinks():
    problem = _on_the_kink()
    found = kink_influence(problem, steps=1, dtypes=[torch.float64, torch.bfloat16], batch_size=8)
    assert found.active["float64"] == (32.0, 32)
    half, one, ten = (found.row(torch.float64, Choice(relu=alpha)) for alpha in (0.5, 1.0, 10.0))
    assert (half.differing, half.beyond_rounding) == (1, 1)
    # the missing part of the gradient is alpha times one vector
    assert one.largest == pytest.approx(2 * half.largest, rel=1e-12)
    assert ten.largest == pytest.approx(10 * one.largest, rel=1e-12)
    assert found.row("float64", Choice(relu=1.0, operator="set")).largest > one.largest
    assert one.drifts[0] == pytest.approx(one.largest, rel=1e-9)  # one step of gradient descent
    assert {row.choice for row in found.rows} == {
        "as PyTorch", "ReLU'(0) = 0.5", "ReLU'(0) = 1", "ReLU'(0) = 10", "ReLU'(0) = 1 (set)", CONTROL,
    }  # fmt: skip
    assert found.row("float64", "as PyTorch").drifts == (0.0,)
    assert 0 < found.row("float64", CONTROL).drifts[0] < 1e-12
    assert len(found.row("bfloat16", "as PyTorch").accuracies) == 1


def test_off_the_kinks_nothing_depends_on_the_choice():
    """In float64 generic weights hit no kink: bit-equal gradients, the same training."""
    problem = tame.problems.load("digits-mlp", width=8, n=100)
    found = kink_influence(problem, steps=5, dtypes=[torch.float64], repeats=2)
    for row in found.rows:
        assert row.differing == 0
        if row.choice != CONTROL:
            assert row.drifts == (0.0, 0.0)
            assert row.losses == found.rows[0].losses
    mean, spread = found.rows[0].accuracy
    assert 0 <= mean <= 1 and spread >= 0


def test_the_background_of_digits_ties_in_every_precision():
    """Equal patches give equal maxima; which is taken changes rounding only in float64, more in bfloat16."""
    problem = tame.problems.load("digits-cnn", channels=2, n=100)
    found = kink_influence(
        problem, steps=2, dtypes=[torch.float64, torch.bfloat16], choices=[Choice(max_pool="last")]
    )
    assert all(count > 0 for count, _ in found.ties.values())
    exact, coarse = (found.row(dtype, "max-pool ties: last") for dtype in ("float64", "bfloat16"))
    assert exact.largest < 1e-14 and exact.beyond_rounding == 0
    assert coarse.largest > 1e-4
    assert found.picture().y_log
    assert "bfloat16" in repr(found)


def test_the_command(capsys, tmp_path):
    words = ["clarke", "digits-mlp", "--influence", "--steps", "1"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["influence"]
    assert {row["dtype"] for row in document["rows"]} == {"bfloat16", "float16", "float32"}
    assert main([*words, "--plot", str(tmp_path / "influence.png")]) == 0
    assert "ReLU inputs exactly at 0" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "influence.png").stat().st_size > 1000
    assert main(["clarke", "abs(x)", "--influence"]) == 2
    assert "--influence needs a network" in capsys.readouterr().err


def test_bad_input():
    with pytest.raises(ValueError, match="relu must be a finite number"):
        Choice(relu=math.nan)
    with pytest.raises(ValueError, match="operator must be"):
        Choice(operator="add")
    with pytest.raises(ValueError, match="max_pool must be"):
        Choice(max_pool="middle")
    with pytest.raises(ValueError, match="calls neither"):
        kink_influence(tame.problems.load("digits-linear", n=20))
    with pytest.raises(ValueError, match="no samples to pick"):
        kink_influence(tame.problems.load("saddle"))
    with pytest.raises(ValueError, match="must be positive"):
        kink_influence(_on_the_kink(), steps=0)
    with pytest.raises(ValueError, match="without ceil_mode"), ChosenDerivative(PLAIN):
        functional.max_pool2d(torch.ones(1, 3, 3), 2, ceil_mode=True)
    with pytest.raises(ValueError, match="batch of it, got 2 axes"), ChosenDerivative(PLAIN):
        functional.max_pool2d(torch.ones(3, 3), 2)
    with pytest.raises(ValueError, match="no row for"):
        kink_influence(_on_the_kink(), steps=1, dtypes=[torch.float64]).row("float64", "none")
