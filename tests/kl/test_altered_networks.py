"""Networks that are not what their classes say, and sizes that float64 does not hold: no certificate, and why."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tameopt.evidence import Verdict
from tameopt.kl import flow_certificate, margin_certificate, trap_certificate
from tameopt.kl.shallow import Sine
from tameopt.problem import Problem
from tameopt.structure.shared_memory import shared_memory

D = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
X = functional.normalize(torch.randn(6, 8, dtype=D, generator=GENERATOR), dim=1)
Y = torch.randint(0, 2, (6, 1), generator=GENERATOR).to(D) - 0.5

KEPT: list[object] = []  # a node lives while somebody holds it


def wide(activation: type[nn.Module] = nn.Tanh, m: int = 2**13) -> nn.Sequential:
    """Certified at the start: neurons in pairs that cancel, the first layer trained."""
    model = nn.Sequential(nn.Linear(8, m, bias=False), activation(), nn.Linear(m, 1, bias=False)).double()
    with torch.no_grad():
        half = torch.randn(m // 2, 8, dtype=D, generator=torch.Generator().manual_seed(1))
        model[0].weight[:] = torch.cat([half, half])
        model[2].weight[:] = torch.cat([torch.ones(1, m // 2), -torch.ones(1, m // 2)], 1) / math.sqrt(m)
    model[2].weight.requires_grad_(False)
    return model


def certificate(model: nn.Module, x: torch.Tensor = X, y: torch.Tensor = Y):
    return trap_certificate(Problem(model, nn.MSELoss(), (x, y)))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return torch.tanh(z)

    @staticmethod
    def backward(ctx, gradient):
        return 0 * gradient


def half_as_fast(model: nn.Sequential) -> None:
    # the same outputs at these weights, half the Jacobian
    W = model[0].weight.detach().clone()
    model[0].forward = lambda x: functional.linear(x, W + 0.5 * (model[0].weight - W))


def without_a_gradient(model: nn.Sequential) -> None:
    model[1].forward = NoBackward.apply


def cut(model: nn.Sequential) -> None:
    model[1].forward = lambda z: torch.tanh(z.detach())


def rippled(model: nn.Sequential) -> None:
    model[1].forward = lambda z: torch.tanh(z) + 1e-9 * torch.sin(1e9 * z)


def backward_hook(model: nn.Sequential) -> None:
    model[1].register_full_backward_hook(lambda module, before, after: (2 * before[0],))


def parameter_hook(model: nn.Sequential) -> None:
    model[0].weight.register_hook(lambda gradient: -gradient)


def hook_on_the_node(model: nn.Sequential) -> None:
    KEPT.append(torch.autograd.graph.get_gradient_edge(model[0].weight).node)
    KEPT[-1].register_prehook(lambda gradients: (-gradients[0],))


def overflowing(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight[0, 0] = 1e200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half_as_fast, "of parameters alone"),
        (without_a_gradient, "gradient that autodiff takes is not that of the network"),
        (cut, "cut off from gradients"),
        (rippled, "sine pre-activations must be at most"),
        (backward_hook, "backward hooks"),
        (parameter_hook, "a hook on 0.weight"),
        (hook_on_the_node, "a hook on 0.weight"),
        (overflowing, "below 1e+30"),
    ],
)
def test_what_a_network_does_is_looked_at_and_not_its_class(change, message):
    model = wide(m=256)
    change(model)
    found = certificate(model)
    assert found.verdict is Verdict.UNKNOWN and message in found.reason


def test_the_same_network_unchanged_is_certified():
    assert certificate(wide()).verdict is Verdict.PROVED


def test_a_replaced_forward_of_a_relu_is_refused():
    model = wide(nn.ReLU, 64)
    model[1].forward = lambda z: 0.5 * torch.relu(z)
    found = flow_certificate(Problem(model, nn.MSELoss(), (X, Y)))
    assert found.verdict is Verdict.UNKNOWN and "the forward of one ReLU was replaced" in found.reason


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (1e160, 1.0, "the inputs must be finite and below 1e+30"),
        (1e-160, 1.0, "the inputs must be above 1e-30"),
        (1.0, 1e200, "the targets must be below 1e+30"),
        (1.0, 1e20, "must be at most 1/2"),
    ],
)
def test_sizes_that_float64_does_not_hold_are_named(inputs, targets, message):
    found = certificate(wide(m=256), inputs * X, targets * Y)
    assert found.verdict is Verdict.UNKNOWN and message in found.reason


def test_activations_outside_the_checkers_range_are_named():
    model = nn.Sequential(nn.Linear(8, 64), Sine(), nn.Linear(64, 1)).double()
    found = certificate(model, 1e7 * X)
    assert found.verdict is Verdict.UNKNOWN and found.reason


def test_a_float32_model_is_compared_in_float64():
    # the ripple is below float32's own error at these outputs, and changes the Jacobian altogether
    model = wide(m=256).float()
    model[1].forward = lambda z: torch.tanh(z) + 1e-6 * torch.sin(3e4 * z)
    found = certificate(model, X.float(), Y.float())
    assert not found.holds


def separable() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """A bias-free ReLU network that classifies six points with a large margin."""
    x = torch.cat([torch.eye(3, dtype=D), 2 * torch.eye(3, dtype=D)])
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight[:] = 4 * torch.eye(3)
        model[2].weight[:] = 4 * torch.eye(3)
    return model, x, torch.tensor([0, 1, 2, 0, 1, 2])


class NoReluBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return torch.relu(z)

    @staticmethod
    def backward(ctx, gradient):
        return 0 * gradient


def test_margin_certificates_look_at_gradient_and_loss_too():
    model, x, labels = separable()
    assert margin_certificate(Problem(model, nn.CrossEntropyLoss(), (x, labels))).verdict is Verdict.PROVED
    loss = nn.CrossEntropyLoss()
    loss.forward = lambda output, target: 0.01 * functional.cross_entropy(output, target)
    found = margin_certificate(Problem(model, loss, (x, labels)))
    assert not found.holds and "another than its class says" in found.reason
    model[1].forward = NoReluBackward.apply
    found = margin_certificate(Problem(model, nn.CrossEntropyLoss(), (x, labels)))
    assert not found.holds and "gradient that autodiff takes" in found.reason


def expanded(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.randn(1, 8, dtype=D).expand(256, 8))


def overlapping(model: nn.Sequential) -> None:
    memory = torch.randn(257 * 8, dtype=D)
    model[0].weight = nn.Parameter(memory[: 256 * 8].view(256, 8))
    model[2].weight = nn.Parameter(memory[-256:].view(1, 256))


def kept_as_a_buffer(model: nn.Sequential) -> None:
    model.register_buffer("start", model[0].weight.data)


def side_by_side(model: nn.Sequential) -> None:
    memory = torch.cat([model[0].weight.data.flatten(), model[2].weight.data.flatten()])
    model[0].weight = nn.Parameter(memory[: 256 * 8].view(256, 8))
    model[2].weight = nn.Parameter(memory[256 * 8 :].view(1, 256), requires_grad=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (expanded, "0.weight is expanded"),
        (overlapping, "0.weight and 2.weight share memory"),
        (kept_as_a_buffer, "share memory"),
        (side_by_side, ""),
    ],
)
def test_parameters_that_share_memory_are_refused(change, message):
    model = wide(m=256)
    change(model)
    assert message in shared_memory(model) and bool(message) == bool(shared_memory(model))
    found = certificate(model)
    assert found.verdict is Verdict.UNKNOWN and message in found.reason


class WithBuffer(nn.Module):
    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.first, self.idle = model[0], nn.Dropout(0.0)
        self.register_buffer("last", model[2].weight.detach().clone())

    def forward(self, x):
        return self.idle(torch.relu(self.first(x))) @ self.last.T


def test_a_buffer_as_a_weight_and_idle_dropout_are_read():
    model, x, labels = separable()
    found = margin_certificate(Problem(WithBuffer(model), nn.CrossEntropyLoss(), (x, labels)))
    assert found.verdict is Verdict.PROVED and found.degree == 1, found.reason


def test_losses_that_are_none_are_refused():
    x = torch.randn(5, 3, dtype=D)
    one = nn.Sequential(nn.Linear(3, 1, bias=False)).double()
    found = margin_certificate(Problem(one, nn.CrossEntropyLoss(), (x, torch.zeros(5, dtype=torch.long))))
    assert not found.holds and "of one output is 0" in found.reason
    model, x, labels = separable()
    loss = nn.CrossEntropyLoss(ignore_index=1, reduction="sum")
    found = margin_certificate(Problem(model, loss, (x, labels), reduction="sum"))
    assert not found.holds and "it ignores 1" in found.reason
