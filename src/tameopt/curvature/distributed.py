"""Curvature of data that are spread over processes: each holds its samples, sums go over all of them.

Every process makes the same calls with the same seeds; the sums are the only exchange, (d, m) numbers a product.
DistributedDataParallel models are looked through by `Problem`, so that this is all that a run under DDP needs.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from tameopt.linear_operator import SymmetricOperator


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


def over_processes(
    operator: SymmetricOperator, samples: int, group: dist.ProcessGroup | None = None
) -> SymmetricOperator:
    """The operator of the mean over all processes' samples, from each process's own.

    operator: of this process's share, say `problem.hessian(theta)` with reduction "mean" and the same theta
    everywhere. samples: `problem.n` of this process. group: the default one for None.

    All processes must apply it in step: `spectrum(over_processes(problem.hessian(), problem.n))` with one seed does,
    and returns the same on each. Raises as `mean_over_processes`.
    """
    _require_group()

    def product(block: torch.Tensor) -> torch.Tensor:
        return mean_over_processes(operator.product(block), samples, group)

    return SymmetricOperator(
        operator.dim,
        product,
        operator.dtype,
        operator.device,
        f"{operator.name} over {dist.get_world_size(group)} processes",
        operator.products_per_column,
    )


def _require_group() -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "sums over processes need a process group, got none: call torch.distributed.init_process_group first."
        )
