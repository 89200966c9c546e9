"""The hooks of a watch: which of them stand, and what they see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tameopt as tame

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def test_between_samples_only_the_counting_hook_stands(tmp_path: Path) -> None:
    model, loss_fn = nn.Linear(6, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(X), Y).backward()
        optimizer.step()

    def hooks() -> int:
        on_tensors = sum(bool(parameter._post_accumulate_grad_hooks) for parameter in model.parameters())
        return len(optimizer._optimizer_step_pre_hooks) + len(loss_fn._forward_hooks) + on_tensors

    watching = tame.watch(model, optimizer, loss_fn, (X, Y), out=tmp_path, budget=0.001, window_steps=0)
    assert hooks() == 2
    quiet = 0
    for _ in range(60):
        step()
        quiet += not hooks()
    assert quiet > 30 and len(optimizer._optimizer_step_post_hooks) == 1
    watching.close()
    step()
    assert not hooks() and not optimizer._optimizer_step_post_hooks
    assert watching.run.meta["steps_done"] == 60


def test_two_backward_passes_of_a_step_are_both_in_its_gradient(tmp_path: Path) -> None:
    model, loss_fn = nn.Linear(6, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with tame.watch(model, optimizer, loss_fn, out=tmp_path) as watching:
        watching._plan = lambda: (1, 0)  # type: ignore[method-assign]  # each step is sampled
        for _ in range(6):
            optimizer.zero_grad()
            loss_fn(model(X), Y).backward()
            model.bias.square().sum().backward()  # not through the loss, and not into every parameter
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.01)))
            optimizer.step()
    steps, recorded = watching.run.series("gradient_norm_before_clipping")
    assert steps.size and recorded == pytest.approx([norms[step] for step in steps], rel=1e-5)


def test_a_compiled_step_calls_the_hooks_outside_its_graphs(tmp_path: Path) -> None:
    model, loss_fn = nn.Linear(6, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch._dynamo.reset()
    step = torch.compile(optimizer.step, backend="eager")
    watching = tame.watch(model, optimizer, loss_fn, (X, Y), out=tmp_path, budget=0.1, window_steps=3)
    norms = []
    for _ in range(40):
        optimizer.zero_grad()
        loss_fn(model(X), Y).backward()
        norms.append(float(torch.cat([one.grad.reshape(-1) for one in model.parameters()]).norm()))  # type: ignore[union-attr]
        step()
    watching.close()
    assert watching.run.meta["steps_done"] == 40
    steps, recorded = watching.run.series("gradient_norm")
    assert steps.size and recorded == pytest.approx([norms[one] for one in steps], rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4  # the hooks come and go, the graphs stay


class Tokens(nn.Module):
    """A score for each of 5 tokens: its loss sees a row a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x)).flatten(0, 1)


@pytest.mark.parametrize("data_given", [True, False])
def test_a_row_of_the_loss_is_not_taken_for_a_sample(tmp_path: Path, data_given: bool) -> None:
    words = torch.randint(7, (24, 5), generator=torch.Generator().manual_seed(0))
    model, loss_fn = Tokens(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = (words, words) if data_given else None

    def forward(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        value: torch.Tensor = loss_fn(model(batch[0]), batch[1].flatten())
        return value

    with tame.watch(model, optimizer, loss_fn, data, forward=forward, out=tmp_path) as watching:
        for _ in range(3):
            optimizer.zero_grad()
            for part in words[:12].split(6):  # accumulated
                (forward(model, (part, part)) / 2).backward()
            optimizer.step()
    # without data nobody knows how many rows a sample makes
    assert watching.run.meta.get("batch_size") == (12 if data_given else None)


def test_how_batches_are_drawn_may_be_told(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tame.watch(model, optimizer, out=tmp_path, sampling="reshuffled") as watching:
        pass
    assert watching.run.meta["sampling"] == "reshuffled"
    with pytest.raises(ValueError, match="sampling must be one of unknown, reshuffled"):
        tame.watch(model, optimizer, out=tmp_path, sampling="random")
