"""Watching under DDP: two gloo processes, rank 0 records, numbers equal the single-process ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tameopt as tame

SCRIPT = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import tameopt as tame

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(6, 3))
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 6, generator=generator), torch.randint(3, (64,), generator=generator)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_fn = nn.CrossEntropyLoss()
watching = tame.watch(model, optimizer, loss_fn, (X, Y), out=sys.argv[1], name="ddp", budget=0.9, window_steps=0)
for step in range(20):
    if sys.argv[2] == "killed" and rank == 1 and step == 10:
        os._exit(9)
    optimizer.zero_grad()
    loss_fn(model(X[rank::world]), Y[rank::world]).backward()
    optimizer.step()
watching.close()
dist.destroy_process_group()
"""


def run(tmp_path: Path, mode: str, processes: int) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path / "runs"), mode],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_ddp_is_recorded_once_and_like_one_process(tmp_path: Path, processes: int) -> None:
    result = run(tmp_path, "whole", processes)
    assert result.returncode == 0, result.stderr
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["ddp"]
    record = tame.Run.open(tmp_path / "runs" / "ddp")
    assert record.meta["steps_done"] == 20

    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    generator = torch.Generator().manual_seed(0)
    X, Y = torch.randn(64, 6, generator=generator), torch.randint(3, (64,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    full = {}
    for step in range(20):
        optimizer.zero_grad()
        parts = [nn.functional.cross_entropy(model(X[r::processes]), Y[r::processes]) for r in range(processes)]
        full[step] = float(nn.functional.cross_entropy(model(X), Y).detach())
        (sum(parts) / processes).backward()
        optimizer.step()
    steps, recorded = record.series("full_loss")
    assert recorded[:-1] == pytest.approx([full[int(step)] for step in steps[:-1]], rel=1e-5)
    theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    # gloo sums the gradients in another order: some units in the last place a step
    assert torch.allclose(record.vector(20), theta, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_killed_rank_leaves_a_readable_record(tmp_path: Path) -> None:
    assert run(tmp_path, "killed", 2).returncode != 0
    record = tame.Run.open(tmp_path / "runs" / "ddp")
    assert record.vector_steps()[0] == 0 and record.meta["problem"] == "Linear"
