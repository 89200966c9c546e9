"""Watching changes nothing, records what it says, and never stops a training run."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path

import numpy as np
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


@pytest.fixture
def each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is sampled and probed, whatever it costs: what is recorded must not depend on the machine's load."""
    monkeypatch.setattr(Watch, "_plan", lambda watching: (1, 1))


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


@pytest.mark.usefixtures("each_step")
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


@pytest.mark.usefixtures("each_step")
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


@pytest.mark.usefixtures("each_step")
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


@pytest.mark.usefixtures("each_step")
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


@pytest.mark.usefixtures("each_step")
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
    shares = []
    for attempt in range(3):
        model = nn.Linear(6, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        out = tmp_path / str(attempt)
        with tame.watch(model, optimizer, nn.CrossEntropyLoss(), (X, Y), out=out, budget="5%") as watching:
            end = time.perf_counter() + 2.0
            while time.perf_counter() < end:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(X), Y).backward()
                optimizer.step()
            shares.append(watching.budget.used)
        if shares[-1] < 0.08:
            break
    # One probe may overshoot at the start. On a busy machine a sample that waits for its turn counts as ours, so the
    # calmest of three attempts is judged: a budget that is not kept fails them all.
    assert 0 < min(shares) < 0.08
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


@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_are_counted_and_norms_are_unscaled(tmp_path: Path, fused: bool) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    # growth after two good steps, so that a skip that follows it leaves the scale where it was
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    broken, norms = {2, 3, 7, 9}, []
    with tame.watch(model, optimizer, out=tmp_path, scaler=scaler) as watching:
        for attempt in range(10):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            norms.append(float(torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()))
            scaler.scale(loss * (float("inf") if attempt in broken else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    run = watching.run
    assert run.series("skipped_steps")[1][-1] == len(broken)
    assert run.events("steps skipped by GradScaler")[-1]["data"]["in_all"] == len(broken)
    # a fused optimizer is called on skipped steps too, and skips inside
    assert run.meta["steps_done"] == (10 if fused else 6)
    made = norms if fused else [norm for attempt, norm in enumerate(norms) if attempt not in broken]
    for name in ("gradient_norm", "gradient_norm_before_clipping"):
        steps, recorded = run.series(name)
        finite = [(made[step], norm) for step, norm in zip(steps, recorded, strict=True) if np.isfinite(norm)]
        assert len(finite) >= 4
        assert [norm for _, norm in finite] == pytest.approx([true for true, _ in finite], rel=1e-4), name


@pytest.mark.usefixtures("each_step")
def test_the_steps_of_every_group_are_recorded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.02}]
    optimizer = torch.optim.SGD(groups)
    with tame.watch(model, optimizer, out=tmp_path, budget=0.99) as watching:
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert set(watching.run.series("lr")[1]) == {0.1} and set(watching.run.series("lr of group 1")[1]) == {0.02}
    assert [group["lr"] for group in watching.run.meta["optimizer"]["groups"]] == [0.1, 0.02]


class Random(nn.Module):
    """Draws random numbers in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x + 0.1 * torch.randn_like(x))


def test_a_random_loss_turns_the_probe_off_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tameopt"):
        watching = train(Random(), 10, {"out": tmp_path, "budget": 0.99})  # type: ignore[arg-type]
    assert watching is not None and watching.problem is None
    assert "F must be one number for one theta" in caplog.text
    assert watching.run.events("probe disabled") and watching.run.series("loss")[1].size


@pytest.mark.usefixtures("each_step")
def test_a_disk_that_fills_stops_the_record_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = tame.Run.record_many, []

    def full(run: tame.Run, steps: list[int], columns: dict[str, list[float]]) -> None:
        if len(written) >= 3:
            raise OSError("the disk is full: nothing recorded before is lost; free some space and go on.")
        written.append(len(steps))
        write(run, steps, columns)

    monkeypatch.setattr(tame.Run, "record_many", full)
    plain, watched = network(), network()
    train(plain, 30, None)
    with caplog.at_level(logging.WARNING, logger="tameopt"):
        watching = train(watched, 30, {"out": tmp_path, "budget": 0.99})
    for left, right in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(left, right)
    assert caplog.text.count("recording has stopped, training goes on: the disk is full") == 1
    assert watching is not None and watching.run.series("full_loss")[1].size == 3


def test_clocks_that_jump_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tameopt.report import live

    real, calls = time.time, []

    def jumping() -> float:
        calls.append(0)
        return real() + (-86_400.0 if len(calls) % 2 else 86_400.0)

    monkeypatch.setattr(time, "time", jumping)
    watching = train(network(), 20, {"out": tmp_path, "budget": 0.9})
    assert watching is not None and calls
    run = watching.run
    assert run.meta["steps_done"] == 20 and 0 < run.meta["watching"]["share_of_time"] < 50
    steps, _ = run.series("full_loss")
    assert list(steps) == sorted(steps)
    first = live.snapshot(run)
    assert "finished" in live.line(live.snapshot(run, first))


@pytest.mark.usefixtures("each_step")
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


class Tied(nn.Module):
    """Attention, an embedding whose weights are the head's, a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.frozen(self.embed(tokens))
        x = x + nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.head(x + self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0])


def token_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(batch["tokens"], batch["mask"])
    return nn.functional.cross_entropy(logits.transpose(1, 2), batch["tokens"])


@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("compiled", [False, True])
def test_dict_batches_tied_and_frozen_weights_attention_and_compile(tmp_path: Path, compiled: bool) -> None:
    torch.manual_seed(0)
    data = {"tokens": torch.randint(11, (24, 5)), "mask": torch.zeros(24, 5, dtype=torch.bool)}
    model = Tied()
    trained = torch.compile(model, backend="eager") if compiled else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    with tame.watch(trained, optimizer, data=data, forward=token_loss, out=tmp_path, budget=0.95) as watching:
        for _ in range(6):
            optimizer.zero_grad()
            loss = token_loss(trained, data)
            loss.backward()
            watching.step(loss, data)
            optimizer.step()
    run = watching.run
    # the tied matrix counts once, the frozen layer not at all
    assert run.meta["d"] == 11 * 8 + 4 * 8 * 8 + 4 * 8 and run.meta["batch_size"] == 24
    assert run.meta["problem"] == "Tied"
    full = dict(zip(*run.series("full_loss"), strict=True))
    losses = dict(zip(*run.series("loss"), strict=True))
    both = full.keys() & losses.keys()
    assert both and all(full[step] == pytest.approx(losses[step], rel=1e-4) for step in both)
    watching.problem.hessian_product(None, torch.ones(run.meta["d"], 1))  # type: ignore[union-attr]
