"""Certificates of networks and functions whose class is known on paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import tameopt as tame
from tameopt.evidence import Verdict
from tameopt.structure import certify


def _mlp(activation: nn.Module, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias), activation, nn.Linear(4, 2, bias))


_X, _Y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1, 1])

# activation -> class and degree in the parameters, smoothness, autodiff
_ACTIVATIONS = [
    (nn.Identity(), "polynomial", 2, "analytic", "classical"),
    (nn.ReLU(), "piecewise polynomial", 2, "locally Lipschitz", "conservative"),
    (nn.LeakyReLU(), "piecewise polynomial", 2, "locally Lipschitz", "conservative"),
    (nn.PReLU(), "piecewise polynomial", 3, "locally Lipschitz", "conservative"),
    (nn.Hardtanh(), "piecewise polynomial", 2, "locally Lipschitz", "conservative"),
    (nn.ReLU6(), "piecewise polynomial", 2, "locally Lipschitz", "conservative"),
    (nn.Hardswish(), "piecewise polynomial", 3, "locally Lipschitz", "conservative"),
    (nn.Hardsigmoid(), "piecewise polynomial", 2, "locally Lipschitz", "conservative"),
    (nn.Softshrink(), "piecewise polynomial", 2, "locally Lipschitz", "conservative"),
    (nn.Hardshrink(), "piecewise polynomial", 2, "discontinuous", "almost everywhere"),
    (nn.Threshold(1.0, 0.0), "piecewise polynomial", 2, "discontinuous", "almost everywhere"),
    (nn.Softsign(), "semialgebraic", None, "locally Lipschitz", "conservative"),
    (nn.Tanh(), "R_exp", None, "analytic", "classical"),
    (nn.Sigmoid(), "R_exp", None, "analytic", "classical"),
    (nn.SiLU(), "R_exp", None, "analytic", "classical"),
    (nn.Mish(), "R_exp", None, "analytic", "classical"),
    (nn.Softplus(), "R_exp", None, "analytic", "classical"),
    (nn.LogSigmoid(), "R_exp", None, "analytic", "classical"),
    (nn.ELU(), "R_exp", None, "C^1", "classical"),
    (nn.ELU(alpha=2.0), "R_exp", None, "locally Lipschitz", "conservative"),
    (nn.CELU(alpha=2.0), "R_exp", None, "C^1", "classical"),
    (nn.SELU(), "R_exp", None, "locally Lipschitz", "conservative"),
    (nn.GELU(approximate="tanh"), "R_exp", None, "analytic", "classical"),
    (nn.Softmax(dim=1), "R_exp", None, "analytic", "classical"),
    (nn.GELU(), "Pfaffian", None, "analytic", "classical"),
    (nn.LayerNorm(4), "semialgebraic", None, "analytic", "classical"),
]


@pytest.mark.parametrize(("activation", "definable", "degree", "smoothness", "autodiff"), _ACTIVATIONS, ids=repr)
def test_an_mlp_has_the_class_of_its_activation(activation, definable, degree, smoothness, autodiff):
    found = certify(_mlp(activation), inputs=_X)
    assert (found.definable, found.degree, found.smoothness, found.autodiff) == (
        definable,
        degree,
        smoothness,
        autodiff,
    )
    assert found.verdict is Verdict.PROVED
    assert found.total


@pytest.mark.parametrize(
    ("loss", "target", "definable", "degree", "smoothness"),
    [
        (functional.mse_loss, torch.zeros(5, 2), "piecewise polynomial", 4, "locally Lipschitz"),
        (functional.l1_loss, torch.zeros(5, 2), "piecewise polynomial", 2, "locally Lipschitz"),
        (functional.smooth_l1_loss, torch.zeros(5, 2), "piecewise polynomial", 4, "locally Lipschitz"),
        (functional.cross_entropy, _Y, "R_exp", None, "locally Lipschitz"),
        (functional.multi_margin_loss, _Y, "piecewise polynomial", 2, "locally Lipschitz"),
        (functional.binary_cross_entropy_with_logits, torch.zeros(5, 2), "R_exp", None, "locally Lipschitz"),
    ],
)
def test_a_loss_lifts_the_class_and_bounds_it_below(loss, target, definable, degree, smoothness):
    found = certify(_mlp(nn.ReLU()), loss, (_X, target))
    assert (found.definable, found.degree, found.smoothness) == (definable, degree, smoothness)
    assert found.lower_bound == 0.0
    assert found.verdict is Verdict.PROVED


def test_a_convolutional_network_in_both_modes():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    x = torch.randn(5, 1, 8, 8)
    before = {key: buffer.clone() for key, buffer in net.named_buffers()}
    evaluated, trained = certify(net.eval(), inputs=x), certify(net.train(), inputs=x)
    # the weight of the convolution, the scale of BatchNorm and the linear layer: one degree each
    assert (evaluated.definable, evaluated.degree) == ("piecewise polynomial", 3)
    assert trained.definable == "semialgebraic"
    assert all(torch.equal(before[key], buffer) for key, buffer in net.named_buffers())


def test_a_recurrent_network_and_a_transformer_layer():
    torch.manual_seed(0)
    assert certify(nn.LSTM(3, 4), inputs=torch.randn(5, 2, 3)).definable == "R_exp"
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
    found = certify(layer, inputs=torch.randn(2, 3, 8))
    assert (found.definable, found.smoothness) == ("Pfaffian", "analytic")


def test_what_varies_decides_the_class():
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) * torch.sin(x)

    assert certify(Rotary(), inputs=_X).definable == "polynomial"
    assert certify(Rotary(), inputs=_X, wrt="inputs").definable == "not definable"


def test_problems_are_certified_over_all_their_batches():
    model = _mlp(nn.ReLU()).double()
    data = (_X.double(), torch.zeros(5, 2, dtype=torch.float64))
    few = certify(tame.Problem(model, functional.mse_loss, data, batch_size=2))
    many = certify(tame.Problem(model, functional.mse_loss, data, batch_size=1))
    assert few.definable == many.definable == "piecewise polynomial"
    assert few.verdict is many.verdict is Verdict.PROVED
    assert not few.notes
    assert "any finite data" in many.notes[0]


def test_homogeneity_and_convexity_are_read_off_the_operators():
    assert certify(_mlp(nn.ReLU(), bias=False), inputs=_X).homogeneous == 2
    assert certify(_mlp(nn.ReLU()), inputs=_X).homogeneous is None
    assert certify(nn.Linear(3, 2), functional.cross_entropy, (_X, _Y)).shape == "convex"
    assert certify(_mlp(nn.ReLU()), functional.cross_entropy, (_X, _Y)).shape == ""


@pytest.mark.parametrize(
    ("function", "definable", "smoothness", "total"),
    [
        (lambda t: (t * t + 1).log().sum(), "R_exp", "analytic", True),
        (lambda t: t.log().sum(), "R_exp", "analytic", False),
        (lambda t: t.clamp(min=1e-3).log().sum(), "R_exp", "locally Lipschitz", True),
        (lambda t: (t.square().sum() + 1e-8).sqrt(), "semialgebraic", "analytic", True),
        (lambda t: t.square().sum().sqrt(), "semialgebraic", "continuous", True),
        (lambda t: t.norm(), "semialgebraic", "locally Lipschitz", True),
        (lambda t: 1 / (1 + t.square().sum()), "semialgebraic", "analytic", True),
        (lambda t: (1 / t).sum(), "semialgebraic", "analytic", False),
        (lambda t: t.sin().sum(), "not definable", "analytic", True),
        (lambda t: t.tanh().sin().sum(), "R_an,exp", "analytic", True),
        (lambda t: t.round().sum(), "not definable", "discontinuous", True),
        (lambda t: t.clamp(-1, 1).round().sum(), "piecewise polynomial", "discontinuous", True),
        (lambda t: t.square().exp().lgamma().sum(), "R_G,exp", "analytic", True),
        (lambda t: t.lgamma().sum(), "not definable", "analytic", False),
        (lambda t: (t**1.5).sum(), "semialgebraic", "C^1", False),
        (lambda t: t.sort().values[0], "piecewise polynomial", "locally Lipschitz", True),
        (lambda t: torch.where(t > 0, t, -t).sum(), "piecewise polynomial", "discontinuous", True),
    ],
)
def test_ranges_decide_domains_and_smoothness(function, definable, smoothness, total):
    found = certify(function, inputs=torch.tensor([0.5, 0.7]))
    assert (found.definable, found.smoothness, found.total) == (definable, smoothness, total)


def test_source_lines_and_module_paths_are_named():
    found = certify(_mlp(nn.ReLU()), lambda output, target: (output - target).abs().mean(), (_X, torch.zeros(5, 2)))
    relu, absolute = found.kinks
    assert (relu.operator, relu.module) == ("relu", "1")
    assert absolute.operator == "abs"
    assert "test_certify.py:" in absolute.line


def test_bad_input_says_what_was_required():
    with pytest.raises(ValueError, match="needs the inputs the model is called with"):
        certify(_mlp(nn.ReLU()))
    with pytest.raises(ValueError, match="the model must run on its inputs"):
        certify(_mlp(nn.ReLU()), inputs=torch.ones(2, 7))
    with pytest.raises(ValueError, match="wrt must be"):
        certify(_mlp(nn.ReLU()), inputs=_X, wrt="data")
    with pytest.raises(ValueError, match="inputs must be"):
        certify(_mlp(nn.ReLU()), functional.mse_loss, _X)
    with pytest.raises(TypeError, match="needs a Problem, a module or a function"):
        certify(3, inputs=_X)


def test_a_packed_sequence_is_one_input():
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(2, 3, 4), [3, 2], batch_first=True)
    found = certify(torch.nn.LSTM(4, 2, batch_first=True), inputs=packed)
    assert (found.definable, found.verdict) == ("R_exp", Verdict.PROVED)


def test_a_quantised_network_is_refused_by_name():
    class Packed(torch.nn.Module):
        def forward(self, x):
            return x

    Packed.__module__ = "torch.ao.nn.quantized.dynamic"
    with pytest.raises(ValueError, match=r"quantised layers \(Packed\) have no trainable parameters: certify"):
        certify(torch.nn.Sequential(Packed()), inputs=torch.ones(2))


def test_what_unseen_targets_must_satisfy_is_said():
    x, y = torch.ones(12, 4), torch.zeros(12, dtype=torch.long)
    loss = torch.nn.functional.cross_entropy
    many = certify(tame.Problem(torch.nn.Linear(4, 3), loss, (x, y), batch_size=2))
    assert "a batch does not ignore all of them" in many.notes[-1]
    assert certify(tame.Problem(torch.nn.Linear(4, 3), loss, (x, y), batch_size=4)).notes == ()
