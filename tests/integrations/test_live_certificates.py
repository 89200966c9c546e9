"""Certificates along a watched run: they fire, can be replayed, keep to the budget and disturb nothing."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.commands.certify import certify
from tameopt.evidence import Verdict
from tameopt.integrations._budget import Budget
from tameopt.integrations._certificates import EVENT, LiveCertificates
from tameopt.integrations._record import Record
from tameopt.integrations.watch import Watch
from tameopt.kl.live import FILE, kind_of
from tameopt.problem import Problem
from tameopt.report import live

D = torch.float64
X = nn.functional.normalize(torch.randn(6, 10, dtype=D, generator=torch.Generator().manual_seed(0)), dim=1)
Y = torch.tensor([[1.0], [-1.0], [1.0], [1.0], [-1.0], [-1.0]], dtype=D)


def network(kink: bool = False, outputs: int = 1, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.ReLU() if kink else nn.Tanh()
    return nn.Sequential(nn.Linear(10, 12, bias=bias), middle, nn.Linear(12, outputs, bias=bias)).double()


def rich() -> Budget:
    """A budget that allows whatever it is asked for."""
    return Budget(0.9, started=time.perf_counter() - 1e6)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()


def descent(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2)


def watch(model: nn.Module, optimizer: torch.optim.Optimizer, out: Path) -> Watch:
    watching = tame.watch(model, optimizer, nn.MSELoss(), (X, Y), out=out, budget=0.9, window_steps=0)
    watching.budget = rich()
    return watching


def test_it_fires_along_a_watched_run_and_is_replayed_from_its_file(tmp_path: Path) -> None:
    model = network()
    optimizer = descent(model)
    watching = watch(model, optimizer, tmp_path)
    train(model, optimizer, 120)
    watching.close()
    finding = watching.certified
    assert finding is not None and finding.verdict is Verdict.PROVED
    (event,) = watching.run.events(EVENT)
    assert event["data"]["statement"] == finding.statement and f"From step {event['step']:,} on" in finding.statement
    assert "PROVED  From step" in live.event_line(event)
    file = watching.run.path / FILE
    assert tame.kl.check(file)
    assert certify(check=file, quiet=True) is None  # exit code 0
    # the statement is about the recorded theta: the same certificate from there
    theta = watching.run.vector(event["step"])
    again = tame.kl.trap_certificate(Problem(network(), nn.functional.mse_loss, (X, Y)), theta)
    assert again.finding(event["step"]).statement == finding.statement


def test_training_is_bit_identical_with_and_without(tmp_path: Path) -> None:
    plain, model = network(), network()
    torch.manual_seed(3)
    train(plain, descent(plain), 100)
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    optimizer = descent(model)
    watching = watch(model, optimizer, tmp_path)
    train(model, optimizer, 100)
    assert watching.certified is not None
    watching.close()
    assert torch.equal(torch.random.get_rng_state(), state)
    for left, right in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right) and torch.equal(left.grad, right.grad)  # type: ignore[arg-type]


def test_nothing_is_tried_that_the_budget_does_not_allow() -> None:
    problem = Problem(network(), nn.functional.mse_loss, (X, Y))
    tries = LiveCertificates(problem)
    poor = Budget(0.02)
    for step in range(50):
        tries.attempt(Record(None), step, problem.theta, 1.0, poor)
    assert tries.tries == 0 and tries.wanted
    # the probes leave it a third of what the clock may count at most, and no more than the next try needs
    assert tries.reserve(Budget(0.02, started=time.perf_counter() - 6.0)) == pytest.approx(0.03, rel=0.01)
    assert tries.reserve(rich()) == 0.5


def test_a_theta_far_from_interpolation_is_not_tried_at_every_probe() -> None:
    problem = Problem(network(), nn.functional.mse_loss, (X, Y))
    value = float(problem.value(problem.theta))
    tries = LiveCertificates(problem)
    for step in range(1, 65):
        tries.attempt(Record(None), step, problem.theta, value, rich())
    # the first look finds the kind, then at steps 2, 4, 8, ..., 64
    assert tries.tries == 6 and tries.found is None and tries.wanted


@pytest.mark.parametrize(
    ("model", "loss", "target", "name"),
    [
        (network(), nn.MSELoss(), Y, "trap"),
        (network(kink=True), nn.MSELoss(), Y, "flow"),
        (network(kink=True, outputs=2, bias=False), nn.CrossEntropyLoss(), (Y[:, 0] > 0).long(), "margin"),
        (network(outputs=2), nn.CrossEntropyLoss(), (Y[:, 0] > 0).long(), "homogeneous"),
        (network(), nn.L1Loss(), Y, "least squares"),
    ],
)
def test_the_kind_follows_the_loss_and_the_network(
    model: nn.Module, loss: nn.Module, target: torch.Tensor, name: str
) -> None:
    found = kind_of(Problem(model, loss, (X, target)))
    assert found is not None and name in (found if isinstance(found, str) else found.name)


def test_a_margin_is_tried_only_below_its_threshold() -> None:
    model = network(kink=True, outputs=2, bias=False)
    problem = Problem(model, nn.CrossEntropyLoss(), (X, (Y[:, 0] > 0).long()))
    tries = LiveCertificates(problem)
    for step in range(5):
        tries.attempt(Record(None), step, problem.theta, 0.69, rich())
    assert tries.tries == 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), (Y[:, 0] > 0).long()).backward()
        optimizer.step()
    theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    for _ in range(3):  # a look, a look with a trace, a try
        tries.attempt(Record(None), 60, theta, float(problem.value(theta)), rich())
    assert tries.found is not None and tries.found.verdict is Verdict.PROVED


def test_what_raises_ends_the_tries_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(problem: Problem, trace: bool = True) -> str:
        raise ArithmeticError("no more")

    monkeypatch.setattr("tameopt.kl.live.kind_of", broken)
    problem = Problem(network(), nn.functional.mse_loss, (X, Y))
    tries = LiveCertificates(problem)
    with caplog.at_level(logging.WARNING, "tameopt"):
        tries.attempt(Record(None), 1, problem.theta, 1.0, rich())
    assert not tries.wanted and "ArithmeticError" in tries.never
    assert "no certificates are tried from step 1 on" in caplog.text


def test_tracing_waits_for_a_budget_of_its_own() -> None:
    problem = Problem(network(kink=True, outputs=2, bias=False), nn.CrossEntropyLoss(), (X, (Y[:, 0] > 0).long()))
    assert kind_of(problem, trace=False) is None
    deep = Problem(nn.Sequential(network(), nn.Tanh(), nn.Linear(1, 1).double()), nn.MSELoss(), (X, Y))
    assert kind_of(deep, trace=False) is None
    shallow = kind_of(Problem(network(), nn.MSELoss(), (X, Y)), trace=False)
    assert not isinstance(shallow, str) and shallow is not None and shallow.name == "trap"


def test_hidden_outputs_are_never_tried() -> None:
    def forward(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    assert "hidden" in LiveCertificates(Problem(network(), None, (X, Y), forward=forward)).never
    assert not LiveCertificates(None).wanted
