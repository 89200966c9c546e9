"""Curvature of data that are spread over processes: each holds its samples, sums go over all of them.

Every process makes the same calls with the same seeds; the sums are the only exchange, (d, m) numbers a product.
DistributedDataParallel models are looked through by `Problem`, so that this is all that a run under DDP needs.
"""

from __future__ import annotations

from typing import overload

import torch
import torch.distributed as dist

from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem
from tameopt.sharing import Sharing


def mean_over_processes(tensor: torch.Tensor, samples: int, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """sum_p n_p t_p / sum_p n_p over the processes p of a group, each with its tensor t_p and n_p samples.

    A mean over all data from means over each process's own: of values, gradients, Hessian products. Shards of
    different sizes are weighted right, as DDP's average of gradients does not. Raises RuntimeError without a
    process group, ValueError for samples < 0. Cost: one all-reduce.
    """
    _require_group()
    if samples < 0:
        raise ValueError(f"samples must be >= 0, got {samples}: it is the number of samples that this process holds.")
    weighted = torch.cat([tensor.detach().reshape(-1) * samples, tensor.new_tensor([float(samples)])])
    dist.all_reduce(weighted, group=group)
    return (weighted[:-1] / weighted[-1]).reshape(tensor.shape)


@overload
def over_processes(
    subject: Problem, samples: int | None = None, group: dist.ProcessGroup | None = None
) -> Problem: ...


@overload
def over_processes(
    subject: SymmetricOperator, samples: int, group: dist.ProcessGroup | None = None
) -> SymmetricOperator: ...


def over_processes(
    subject: Problem | SymmetricOperator, samples: int | None = None, group: dist.ProcessGroup | None = None
) -> Problem | SymmetricOperator:
    """The problem of all processes' samples, or the operator of their mean, from each process's own.

    subject: this process's Problem (any reduction): its values, gradients and Hessian products become those of all
    data, so that `spectrum`, `classify`, `density`, ... need no further word. Or an operator of this process's share,
    a mean over its `samples`. theta is to be the same everywhere. group: the default one for None.

    All processes must ask in step, with one seed: `classify(over_processes(problem), theta)` does, and returns the
    same on each. Proofs, and what looks at single samples, see one process only: the former refuse, the latter
    concern the own share.

    Raises as `mean_over_processes`, and ValueError for an operator without `samples`.
    """
    _require_group()
    processes = dist.get_world_size(group)
    if isinstance(subject, Problem):
        count = torch.tensor([subject.n], dtype=torch.int64, device=subject.device)
        dist.all_reduce(count, group=group)

        def total(tensor: torch.Tensor) -> torch.Tensor:
            summed = tensor.detach().clone()
            dist.all_reduce(summed, group=group)
            return summed

        return subject.shared(Sharing(processes, int(count), total))
    if samples is None:
        raise ValueError("samples must be given with an operator: it is the number that this process holds.")
    share = samples

    def product(block: torch.Tensor) -> torch.Tensor:
        return mean_over_processes(subject.product(block), share, group)

    return SymmetricOperator(
        subject.dim,
        product,
        subject.dtype,
        subject.device,
        f"{subject.name} over {processes} processes",
        subject.products_per_column,
    )


def _require_group() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "sums over processes need a process group, got none: call torch.distributed.init_process_group first."
        )
