"""Two processes with unequal shards see the spectrum of all data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tameopt import Problem
from tameopt.curvature import mean_over_processes, over_processes, spectrum


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(17, 6, dtype=torch.float64, generator=generator),
        torch.randint(3, (17,), generator=generator),
    )


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def worker(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    x, y = data()
    share = slice(0, 5) if rank == 0 else slice(5, 17)
    network = nn.parallel.DistributedDataParallel(model()) if world > 1 else model()
    problem = Problem(network, nn.CrossEntropyLoss(), (x[share], y[share]) if world > 1 else (x, y))
    found = spectrum(over_processes(problem.hessian(), problem.n), k=3, dense_below=0)
    gradient = mean_over_processes(problem.gradient(), problem.n)
    torch.save({"values": found.eigenvalues, "gradient": gradient, "name": found.name}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def check(folder: Path, world: int) -> None:
    whole = Problem(model(), nn.CrossEntropyLoss(), data())
    expected = torch.linalg.eigvalsh(whole.hessian().dense())
    for rank in range(world):
        result = torch.load(folder / f"{rank}.pt")
        ends = torch.cat([expected[:3], expected[-3:]])
        # residuals are 1e-6 of the largest; an eigenvalue's error is at most its residual
        assert torch.allclose(result["values"], ends, atol=2e-6 * float(expected.abs().max()))
        assert torch.allclose(result["gradient"], whole.gradient(), atol=1e-13)
        assert result["name"].endswith(f"over {world} processes")


def test_one_process_is_the_plain_operator(tmp_path: Path) -> None:
    worker(0, 1, str(tmp_path))
    check(tmp_path, 1)


@pytest.mark.slow
def test_two_processes_with_unequal_shards(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, args=(2, str(tmp_path)), nprocs=2)
    check(tmp_path, 2)


def test_without_a_process_group() -> None:
    problem = Problem(model(), nn.CrossEntropyLoss(), data())
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group first"):
        over_processes(problem.hessian(), problem.n)
