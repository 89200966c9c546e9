"""What a certified network gets wrong on data it was not trained on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tameopt.kl import trap_certificate
from tameopt.kl.digits_trap import digits_trap
from tameopt.kl.held_out import held_out
from tameopt.kl.honest_scale import honest_scale, network_of
from tameopt.problem import Problem

D = torch.float64
X = torch.tensor([[1.0], [2.0], [-3.0], [4.0]], dtype=D)


def line(outputs: int = 1) -> nn.Module:
    model = nn.Linear(1, outputs, bias=False).double()
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0], [-1.0], [0.0]], dtype=D)[:outputs]
    return model


@pytest.mark.parametrize(
    ("outputs", "loss", "target", "kind", "value"),
    [
        (1, nn.MSELoss(), torch.tensor([[1.0], [-1], [-1], [1]], dtype=D), "signs", 1 / 4),
        (3, nn.MSELoss(), torch.eye(3, dtype=D)[[0, 1, 1, 2]], "classes", 2 / 4),
        (3, nn.CrossEntropyLoss(), torch.tensor([0, 1, 1, 2]), "classes", 2 / 4),
        (1, nn.MSELoss(), X + torch.tensor([[1.0], [2], [0], [0]], dtype=D), "loss", 5 / 4),
    ],
)
def test_errors_by_hand(outputs, loss, target, kind, value):
    problem = Problem(line(outputs), loss, (X, target), held_out=(X, target), batch_size=3)
    found = held_out(problem)
    assert (found.kind, found.samples) == (kind, 4)
    assert found.value == pytest.approx(value, rel=1e-12)


def test_at_another_theta_and_in_another_dtype():
    target = torch.ones(4, 1, dtype=D)
    problem = Problem(line(), nn.MSELoss(), (X, target), held_out=(X, target))
    assert held_out(problem, -problem.theta).value == 3 / 4
    assert held_out(problem.to(torch.float32)).value == 1 / 4
    assert str(held_out(problem)) == "error on held-out data: 25.0% of 4 signs"


def test_targets_of_two_kinds_are_refused():
    target = torch.tensor([[1.0], [1.0], [0.3], [0.2]], dtype=D)
    problem = Problem(line(), nn.MSELoss(), (X, target), held_out=(X, target), batch_size=2)
    with pytest.raises(ValueError, match="of one kind"):
        held_out(problem)


def test_the_scale_block_says_it_or_that_nothing_was_held_out():
    problem = digits_trap(20, 2**10, gain=4.0, activation="sin")
    certificate = trap_certificate(problem, rigorous=False)
    net = network_of(certificate)
    assert net is not None, certificate.reason
    found = held_out(problem)
    assert found.samples == 1777 and 0 <= found.value <= 1
    assert "of 1,777 signs" in honest_scale(net, certificate, held_out=found).lines()[-1]
    assert "not measured: no held-out data" in honest_scale(net, certificate).lines()[-1]
    assert math.isfinite(honest_scale(net, certificate, held_out=found).to_json()["held_out"]["value"])
    own = Problem(problem.model, problem.loss, problem.batches.whole)
    assert own.held_out is None and held_out(own) is None
