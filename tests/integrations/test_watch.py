"""Watching changes nothing, records what it says, and never stops a training run."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.integrations._budget import Budget, parse_share
from tameopt.integrations.watch import Watch

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def train(model: nn.Module, steps: int, watch: dict[str, object] | None, clip: float = 0.0) -> Watch | None:
    torch.manual_seed(1)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    watching = None
    if watch is not None:
        watching = tame.watch(model, optimizer, loss_fn, (X, Y), **watch)  # type: ignore[arg-type]
    for _ in range(steps):
        index = torch.randint(64, (16,))
        optimizer.zero_grad()
        loss_fn(model(X[index]), Y[index]).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    if watching is not None:
        watching.close()
    return watching


def test_training_is_bit_identical_with_and_without(tmp_path: Path) -> None:
    plain, watched = network(), network()
    train(plain, 60, None)
    state = torch.random.get_rng_state()
    train(watched, 60, {"out": tmp_path, "budget": 0.9, "window_steps": 10})
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, left), (_, right) in zip(plain.state_dict().items(), watched.state_dict().items(), strict=True):
        assert torch.equal(left, right), name
    for left, right in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad)  # type: ignore[arg-type]


def test_what_is_recorded_is_true(tmp_path: Path) -> None:
    model = network()
    watching = train(model, 40, {"out": tmp_path, "name": "a", "budget": 0.95, "window_steps": 5}, clip=0.1)
    assert watching is not None
    run = watching.run
    assert run.meta["steps_done"] == 40 and run.status == "finished"
    assert run.meta["batch_size"] == 16
    assert run.meta["optimizer"]["name"] == "AdamW" and run.meta["optimizer"]["arguments"]["lr"] == 0.01
    steps, after = run.series("gradient_norm")
    before = dict(zip(*run.series("gradient_norm_before_clipping"), strict=True))
    assert len(steps) > 5
    for step, norm in zip(steps, after, strict=True):
        # clip_grad_norm_ scales by max/(norm + 1e-6): what reaches the optimizer is the smaller of the two
        assert norm == pytest.approx(min(before[step], 0.1), rel=1e-3)
    problem = tame.Problem(model, nn.CrossEntropyLoss(), (X, Y), mode="eval")
    full_steps, full = run.series("full_loss")
    assert full_steps[-1] == 40 and full[-1] == pytest.approx(float(problem.value()), rel=1e-6)
    assert torch.equal(run.vector(40), problem.theta)
    for first, last in run.meta["windows"]:
        assert set(range(first, last + 1)) <= set(run.vector_steps().tolist())


def test_windows_hold_consecutive_iterates(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    thetas = []
    with tame.watch(model, optimizer, nn.CrossEntropyLoss(), (X, Y), out=tmp_path, budget=0.99, window_steps=8) as w:
        for _ in range(30):
            thetas.append(torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()]))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert w.run.meta["windows"]
    for first, last in w.run.meta["windows"]:
        for step in range(first, last + 1):
            assert torch.equal(w.run.vector(step), thetas[step]), step


def test_gradient_accumulation_and_a_function_loss(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with torch.no_grad():
        first_loss = float(nn.functional.cross_entropy(model(X), Y))
    with tame.watch(model, optimizer, out=tmp_path, budget=0.99) as watching:
        for _ in range(6):
            optimizer.zero_grad()
            for part in range(4):
                loss = nn.functional.cross_entropy(model(X[part::4]), Y[part::4]) / 4
                loss.backward()
                watching.step(loss * 4, (X[part::4], Y[part::4]))
            norms.append(float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm()))  # type: ignore[union-attr]
            optimizer.step()
    run = watching.run
    for name in ("gradient_norm", "gradient_norm_before_clipping"):
        steps, recorded = run.series(name)
        assert steps.size and recorded == pytest.approx([norms[step] for step in steps], rel=1e-5)
    assert run.series("loss")[1][0] == pytest.approx(first_loss, rel=1e-5)
    assert run.series("full_loss")[0].size == 0  # no data were given
    assert run.meta["batch_size"] == 64


class Fails(nn.Module):
    """Its forward raises after a while, in eval mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and bool(self.calls > 3):
            raise RuntimeError("I do not predict on Sundays")
        if self.training:
            self.calls += 1
        return self.linear(x)


def test_a_probe_that_raises_is_disabled_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Fails()
    with caplog.at_level(logging.WARNING, logger="tameopt"):
        watching = train(model, 30, {"out": tmp_path, "budget": 0.99})
    assert watching is not None and watching.run.meta["steps_done"] == 30
    assert "I do not predict on Sundays" in caplog.text and caplog.text.count("probe is off") == 1
    assert watching.run.events("probe disabled")[0]["data"]["probe"] == "full loss"


def test_a_loop_that_raises_leaves_a_readable_interrupted_run(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), tame.watch(model, optimizer, nn.CrossEntropyLoss(), (X, Y), out=tmp_path):
        nn.CrossEntropyLoss()(model(X), Y).backward()
        optimizer.step()
        raise KeyboardInterrupt
    run = tame.Run.open(next(tmp_path.iterdir()))
    assert run.status == "interrupted" and run.meta["steps_done"] == 1


def test_the_budget_is_kept(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tame.watch(model, optimizer, nn.CrossEntropyLoss(), (X, Y), out=tmp_path, budget="5%") as watching:
        end = time.perf_counter() + 2.0
        while time.perf_counter() < end:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
        used = watching.budget.used
    # one probe may overshoot at the start, and on a busy machine a sample waits its turn on our account
    assert 0 < used < 0.12
    assert watching.run.series("lr")[0].size >= 3


def test_names_are_never_overwritten_and_copies_are_independent(tmp_path: Path) -> None:
    for expected in ("linear", "linear-2"):
        model = nn.Linear(6, 3)
        with tame.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), out=tmp_path) as watching:
            pass
        assert watching.run.path.name == expected
    assert copy.deepcopy(Budget(0.1)).share == 0.1


@pytest.mark.parametrize("budget", ["0%", "100%", 1.5, -0.1, "much", "nan"])
def test_a_bad_budget_is_refused(budget: object) -> None:
    with pytest.raises(ValueError, match="budget must be a share"):
        parse_share(budget)  # type: ignore[arg-type]


def test_an_optimizer_without_parameters_to_train_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="must hold trainable parameters"):
        tame.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), out=tmp_path)


def test_skipped_steps_are_not_counted(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with tame.watch(model, optimizer, out=tmp_path, budget=0.99, scaler=scaler) as watching:
        for attempt in range(6):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            scaler.scale(loss * (float("inf") if attempt == 2 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert watching.run.meta["steps_done"] == 5
    assert watching.run.series("grad_scale")[1][-1] == 512.0


def test_gradients_that_a_closure_computes_are_the_steps_own(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        norms.append(float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm()))  # type: ignore[union-attr]
        return loss

    with tame.watch(model, optimizer, out=tmp_path, budget=0.99) as watching:
        for _ in range(5):
            optimizer.step(closure)
    steps, recorded = watching.run.series("gradient_norm")
    assert steps.size and recorded == pytest.approx([norms[step] for step in steps], rel=1e-5)
