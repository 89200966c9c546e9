"""Watching under DDP and FSDP2: gloo processes, rank 0 records, numbers equal the single-process ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tameopt as tame

DDP = """
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
watching = tame.watch(model, optimizer, loss_fn, (X, Y), out=sys.argv[1], name="run", budget=0.9, window_steps=0)
for step in range(20):
    if sys.argv[2] == "killed" and rank == 1 and step == 10:
        os._exit(9)
    optimizer.zero_grad()
    loss_fn(model(X[rank::world]), Y[rank::world]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
    optimizer.step()
watching.close()
dist.destroy_process_group()
"""


FSDP = """
import os, sys, torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
import tameopt as tame

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
fully_shard(model[0], mesh=mesh)
fully_shard(model, mesh=mesh)
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 6, generator=generator), torch.randint(3, (64,), generator=generator)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
loss_fn = nn.CrossEntropyLoss()
watching = tame.watch(model, optimizer, loss_fn, (X, Y), out=sys.argv[1], name="run", budget=0.9, window_steps=4)
for step in range(20):
    if sys.argv[2] == "killed" and rank == 1 and step == 10:
        os._exit(9)
    optimizer.zero_grad()
    loss_fn(model(X[rank::world]), Y[rank::world]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
    optimizer.step()
watching.close()
if rank:
    try:
        watching.run
    except RuntimeError as error:
        assert "rank 0 does" in str(error)
else:
    assert tame.audit(watching.run, problem=watching.problem, budget_seconds=1).verdict.sentence
sys.stdout.write(f"problem at the end {float(watching.problem.value())}\\n")
dist.destroy_process_group()
"""


def run(tmp_path: Path, script: str, mode: str, processes: int) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(script)
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
    result = run(tmp_path, DDP, "whole", processes)
    assert result.returncode == 0, result.stderr
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["run"]
    record = tame.Run.open(tmp_path / "runs" / "run")
    assert record.meta["steps_done"] == 20

    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    generator = torch.Generator().manual_seed(0)
    X, Y = torch.randn(64, 6, generator=generator), torch.randint(3, (64,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    full, norms = {}, {}
    for step in range(20):
        optimizer.zero_grad()
        parts = [nn.functional.cross_entropy(model(X[r::processes]), Y[r::processes]) for r in range(processes)]
        full[step] = float(nn.functional.cross_entropy(model(X), Y).detach())
        (sum(parts) / processes).backward()
        norms[step] = float(nn.utils.clip_grad_norm_(model.parameters(), 0.2))
        optimizer.step()
    steps, recorded = record.series("gradient_norm_before_clipping")
    # DDP's average, not what rank 0's own samples gave
    assert steps.size >= 5 and recorded == pytest.approx([norms[int(step)] for step in steps], rel=1e-4)
    assert max(norms.values()) > 0.3
    steps, recorded = record.series("full_loss")
    assert recorded[:-1] == pytest.approx([full[int(step)] for step in steps[:-1]], rel=1e-5)
    theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    # gloo sums the gradients in another order: some units in the last place a step
    assert torch.allclose(record.vector(20), theta, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["DDP", "FSDP"])
def test_a_killed_rank_leaves_a_readable_record(tmp_path: Path, parallel: str) -> None:
    assert run(tmp_path, {"DDP": DDP, "FSDP": FSDP}[parallel], "killed", 2).returncode != 0
    record = tame.Run.open(tmp_path / "runs" / "run")
    assert record.vector_steps()[0] == 0 and record.meta["problem"] in ("Linear", "Sequential")


def one_process(steps: int, processes: int) -> tuple[list[dict[str, float]], torch.Tensor]:
    """What the FSDP script computes, in one process: the numbers of each step, and theta at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    generator = torch.Generator().manual_seed(0)
    X, Y = torch.randn(64, 6, generator=generator), torch.randint(3, (64,), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    problem = tame.Problem(model, nn.CrossEntropyLoss(), (X, Y))
    numbers = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        parts = [nn.functional.cross_entropy(model(X[r::processes]), Y[r::processes]) for r in range(processes)]
        loss = torch.stack(parts).mean()
        loss.backward()
        value, gradient = problem.value_and_gradient()
        before = float(nn.utils.clip_grad_norm_(model.parameters(), 0.2))
        now = {"loss": float(loss.detach()), "full_loss": float(value), "full_gradient_norm": float(gradient.norm())}
        numbers.append(now | {"gradient_norm_before_clipping": before, "gradient_norm": min(before, 0.2)})
        if len(numbers) <= steps:
            optimizer.step()
    return numbers, problem.theta


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_fsdp_is_recorded_like_one_process(tmp_path: Path, processes: int) -> None:
    result = run(tmp_path, FSDP, "whole", processes)
    assert result.returncode == 0, result.stderr
    record = tame.Run.open(tmp_path / "runs" / "run")
    assert record.status == "finished" and record.meta["steps_done"] == 20 and record.meta["batch_size"] == 64
    assert record.meta["d"] == 73 and record.meta["problem"] == "Sequential"
    numbers, theta = one_process(20, processes)
    for name in numbers[0]:
        steps, recorded = record.series(name)
        assert steps.size >= 5
        # float32 sums in another order, twenty steps of AdamW
        assert recorded == pytest.approx([numbers[step][name] for step in steps], rel=1e-4), name
    assert torch.allclose(record.vector(20), theta, rtol=1e-4, atol=1e-5)
    assert record.meta["windows"]
    # watching.problem follows the training on every rank
    ends = [float(line.split()[-1]) for line in result.stdout.splitlines() if line.startswith("problem at the end")]
    assert ends == pytest.approx([numbers[20]["full_loss"]] * processes, rel=1e-4)
