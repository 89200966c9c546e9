"""Two processes with unequal shards see the spectrum of all data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tameopt import Problem, audit
from tameopt.analysis import Context
from tameopt.curvature import Classification, classify, mean_over_processes, over_processes, spectrum
from tameopt.curvature.point_findings import analyse_point
from tameopt.curvature.rigorous import NoProof, prove_point
from tameopt.sharing import Sharing

SHARES = (slice(0, 5), slice(5, 17))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(17, 6, dtype=torch.float64, generator=generator),
        torch.randint(3, (17,), generator=generator),
    )


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def facts(point: Classification) -> tuple[object, ...]:
    return point.kind, point.index, point.nullity, point.index_interval, round(point.value, 12), str(point.verdict)


def worker(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    x, y = data()
    share = SHARES[rank]
    network = nn.parallel.DistributedDataParallel(model()) if world > 1 else model()
    problem = Problem(network, nn.CrossEntropyLoss(), (x[share], y[share]) if world > 1 else (x, y))
    found = spectrum(over_processes(problem.hessian(), problem.n), k=3, dense_below=0)
    gradient = mean_over_processes(problem.gradient(), problem.n)
    whole = over_processes(problem)
    points = [classify(whole, dense_below=size, gradient_tolerance=10.0) for size in (1000, 0)]
    answer = analyse_point(Context(whole, None, whole.theta))
    kept = {
        "values": found.eigenvalues,
        "gradient": gradient,
        "name": found.name,
        "points": [facts(point) for point in points],
        "eigenvalues": [point.eigenvalues for point in points],
        "claims": [(one.claim, str(one.verdict), one.statement) for one in answer.findings],
    }
    torch.save(kept, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def check(folder: Path, world: int) -> None:
    whole = Problem(model(), nn.CrossEntropyLoss(), data())
    expected = torch.linalg.eigvalsh(whole.hessian().dense())
    claims = [(one.claim, str(one.verdict)) for one in analyse_point(Context(whole, None, whole.theta)).findings]
    single = [classify(whole, dense_below=size, gradient_tolerance=10.0) for size in (1000, 0)]
    first = torch.load(folder / "0.pt")
    for rank in range(world):
        result = torch.load(folder / f"{rank}.pt")
        ends = torch.cat([expected[:3], expected[-3:]])
        # residuals are 1e-6 of the largest; an eigenvalue's error is at most its residual
        assert torch.allclose(result["values"], ends, atol=2e-6 * float(expected.abs().max()))
        assert torch.allclose(result["gradient"], whole.gradient(), atol=1e-13)
        assert result["name"].endswith(f"over {world} processes")
        assert result["points"] == [facts(point) for point in single]
        assert [one[:2] for one in result["claims"]] == claims and result["claims"] == first["claims"]
        for mine, other, alone in zip(result["eigenvalues"], first["eigenvalues"], single, strict=True):
            assert torch.equal(mine, other)
            # residuals of Lanczos pairs are up to 1e-6 of the largest eigenvalue
            assert torch.allclose(mine, alone.eigenvalues, atol=2e-6 * float(expected.abs().max()))


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


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_shares_add_up_to_the_whole(reduction: str) -> None:
    """Two shares in one process: each hears the other's sum, as an all-reduce would tell it."""
    x, y = data()
    loss = nn.CrossEntropyLoss(reduction=reduction)
    whole = Problem(model(), loss, (x, y), reduction=reduction)
    left, right = (Problem(model(), loss, (x[part], y[part]), reduction=reduction) for part in SHARES)
    theta = whole.theta
    told: list[torch.Tensor] = []
    right.shared(Sharing(2, 17, lambda mine: told.append(mine) or mine)).value_and_gradient(theta)
    sums = iter(told)
    value, gradient = left.shared(Sharing(2, 17, lambda mine: mine + next(sums))).value_and_gradient(theta)
    assert torch.allclose(value, whole.value(), rtol=1e-13)
    assert torch.allclose(gradient, whole.gradient(), atol=1e-13)


def test_what_one_share_cannot_answer_is_refused() -> None:
    x, y = data()
    whole = Problem(nn.Linear(6, 3).double(), nn.CrossEntropyLoss(), (x, y))
    shared = whole.shared(Sharing(2, 34, lambda mine: 2 * mine))
    assert "over 2 processes" in repr(shared)
    with pytest.raises(ValueError, match=r"is one over 2 processes: use \.value"):
        shared(shared.theta)
    with pytest.raises(ValueError, match="an audit needs all data on one process"):
        audit(shared)
    assert prove_point(shared) == NoProof("the data are spread over 2 processes")
