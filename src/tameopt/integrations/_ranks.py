"""One process, or several that hold a training together: how numbers and tensors are put together from all of them.

With whole parameters (one process, DDP) everything is at hand and only rank 0 watches. With sharded parameters
(FSDP2, DTensor) every rank enters the same collectives at the same steps: rank 0's clock decides which steps those
are, and its decision travels with the sums of the sample before. Rank 0 alone writes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tameopt.batches import size_of
from tameopt.problem import Problem

Plan = tuple[int, int]  # steps to the next sample, and whether that one is probed
GATHERED_BYTES = 2 << 30  # our choice: theta is gathered whole on every rank up to 2 GiB


class Alone:
    """Whole parameters: one process, or rank 0 of replicas."""

    world = 1
    rank = 0

    def local_norms(self, gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The norm of what this process holds of each dense gradient, so that squares add up to the whole."""
        return torch._foreach_norm([gradient.detach() for gradient in gradients])

    def join(
        self, loss: torch.Tensor, after: torch.Tensor, before: torch.Tensor, samples: int, plan: Plan
    ) -> tuple[torch.Tensor, int, Plan]:
        """(3,) loss and gradient norms of the whole step, its samples, and what rank 0 decided."""
        return torch.stack([loss, after, before]), samples, plan

    def flat(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """(d,) the whole parameters as one vector on the first one's device."""
        device = parameters[0].device
        return torch.cat([parameter.detach().reshape(-1).to(device) for parameter in parameters])

    def full_value(self, problem: Problem, theta: torch.Tensor) -> tuple[float, float]:
        """F(theta) and norm(grad F(theta)) over all samples."""
        value, gradient = problem.value_and_gradient(theta)
        return float(value), float(gradient.norm())


class Sharded(Alone):
    """Parameters spread over the ranks of the default process group."""

    def __init__(self, device: torch.device) -> None:
        self.world, self.rank, self._device = dist.get_world_size(), dist.get_rank(), device

    def local_norms(self, gradients: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Each local shard's norm over the root of the number of ranks that hold the same shard."""
        return [self._local_norm(gradient) for gradient in gradients]

    def _local_norm(self, gradient: torch.Tensor) -> torch.Tensor:
        from torch.distributed.tensor import DTensor

        holders = self.world
        if isinstance(gradient, DTensor):
            if any(placement.is_partial() for placement in gradient.placements):
                gradient = gradient.full_tensor()
            else:
                for axis, placement in enumerate(gradient.placements):
                    if placement.is_shard():
                        holders //= gradient.device_mesh.size(axis)
                gradient = gradient.to_local()
        return gradient.detach().norm() / holders**0.5

    def join(
        self, loss: torch.Tensor, after: torch.Tensor, before: torch.Tensor, samples: int, plan: Plan
    ) -> tuple[torch.Tensor, int, Plan]:
        """One all-reduce of six numbers; the plan is rank 0's, because the others add zeros."""
        decided = [samples, *(number if self.rank == 0 else 0 for number in plan)]
        sums = torch.stack([loss / self.world, after.square(), before.square()]).double().to(self._device)
        sums = torch.cat([sums, torch.tensor(decided, dtype=torch.float64, device=self._device)])
        dist.all_reduce(sums)
        samples, stride, probe = (int(number) for number in sums[3:].tolist())
        return torch.cat([sums[:1], sums[1:3].sqrt()]), samples, (stride, probe)

    def flat(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """(d,) gathered on every rank, one parameter after the other."""
        return torch.cat([whole(parameter).reshape(-1) for parameter in parameters])

    def full_value(self, problem: Problem, theta: torch.Tensor) -> tuple[float, float]:
        """Each rank evaluates its share of the batches with rank 0's buffers; two all-reduces.

        Raises what the model raised here, or RuntimeError when it raised on another rank: all ranks leave together.
        """
        with torch.no_grad():  # watching.problem stands where the training does
            parameters = dict(problem.model.named_parameters())
            for name, part in problem.unflatten(theta).items():
                parameters[name].copy_(part)
        buffers = {name: buffer.detach().clone() for name, buffer in problem.model.named_buffers()}
        for buffer in buffers.values():
            dist.broadcast(buffer, 0)
        problem = problem.load_buffers(buffers)
        total = torch.zeros(2, dtype=torch.float64, device=self._device)  # sum of the l_i, ranks that failed
        gradient = torch.zeros_like(theta)
        failure: Exception | None = None
        try:
            for number, batch in enumerate(problem.batches):
                if number % self.world == self.rank:
                    value, part = problem.batch_gradient(theta, batch)
                    weight = 1.0 if problem.reduction == "sum" else size_of(batch) / problem.n
                    total[0] += weight * value
                    gradient += weight * part
        except Exception as error:  # noqa: BLE001  the other ranks wait: they must hear of it first
            failure = error
            total[1] = 1.0
        dist.all_reduce(total)
        value_sum, failed = total.tolist()
        if failed:
            raise failure or RuntimeError("the model raised on another rank")
        dist.all_reduce(gradient)
        return value_sum, float(gradient.norm())


def sharded(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether some parameter is a DTensor."""
    return any(type(parameter.data).__name__ == "DTensor" for parameter in parameters)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be spread over ranks: a collective when it is."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def plain_copy(model: nn.Module) -> nn.Module:
    """The module without fully_shard: its own classes, whole parameters (gathered: a collective), shared buffers.

    fully_shard changes a module's class and adds hooks that gather; a functional evaluation at a gathered theta needs
    neither. Other hooks are kept.
    """
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY

    parameters = {id(one): nn.Parameter(whole(one).clone(), one.requires_grad) for one in model.parameters()}
    copies: dict[int, nn.Module] = {}

    def convert(module: nn.Module) -> nn.Module:
        if id(module) in copies:
            return copies[id(module)]
        kind = type(module)
        if any(base.__name__ == "FSDPModule" for base in kind.__mro__):
            kind = kind.__mro__[2]  # (FSDP<name>, FSDPModule, <name>, ...): how fully_shard builds it
        twin: nn.Module = kind.__new__(kind)
        copies[id(module)] = twin
        for key, entry in module.__dict__.items():
            if key in (STATE_KEY, REGISTRY_KEY, "_compiled_call_impl"):
                continue
            twin.__dict__[key] = copy.copy(entry) if isinstance(entry, dict) else entry
        for hooks in ("_state_dict_pre_hooks", "_load_state_dict_pre_hooks"):
            twin.__dict__[hooks].clear()
        for hooks in ("_forward_pre_hooks", "_forward_hooks"):
            kept = twin.__dict__[hooks]
            for key in [key for key, hook in kept.items() if _of_fsdp(hook)]:
                del kept[key]
        twin.__dict__["_parameters"] = {
            name: None if one is None else parameters[id(one)] for name, one in module._parameters.items()
        }
        twin.__dict__["_modules"] = {
            name: None if child is None else convert(child) for name, child in module._modules.items()
        }
        return twin

    return convert(model)


def _of_fsdp(hook: Any) -> bool:
    owner = getattr(getattr(hook, "__wrapped__", hook), "__self__", None)
    return "_fully_shard" in type(owner).__module__ or "_fully_shard" in getattr(hook, "__module__", "")
