"""The function that training steps on, where it is not F: dropout draws masks, BatchNorm normalises by its batch.

`Problem` analyses such a network as it predicts (mode "eval"). An optimizer never sees that function: its gradients,
second moments and stability belong to the loss in training mode, averaged over batches and draws.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Iterator, Sequence

import torch

from tameopt.batches import Batch, Batches, tensors_of
from tameopt.loss_module import BatchLoss, structure_copy
from tameopt.probe import batch_coupled_modules, random_modules
from tameopt.problem import Problem


def only_in_training(problem: Problem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the modules that draw random numbers, and of those that use batch statistics, in training only.

    Both are empty where training steps on F itself.
    """
    if problem.mode != "eval" or problem.is_function:
        return (), ()
    return tuple(random_modules(problem.model)), tuple(batch_coupled_modules(problem.model))


def listed(modules: Sequence[str], most: int = 3) -> str:
    """The first names in words: "a, b, c and 2 more"; "" for none."""
    return ", ".join(modules[:most]) + (f" and {len(modules) - most} more" if len(modules) > most else "")


def other_function(problem: Problem) -> str:
    """Why a step of the training is no step on F, in words; "" where it is one."""
    names = listed([*itertools.chain(*only_in_training(problem))])
    if not names:
        return ""
    return f"F is the network as it predicts, but {names} drew random numbers or used batch statistics in the steps"


class _SeededLoss(BatchLoss):
    """A BatchLoss whose random numbers are a function of a seed and the batch: the same at every evaluation."""

    seed: int = 0

    def forward(self, batch: Batch, outputs_only: bool = False) -> torch.Tensor:
        first = tensors_of(batch)[0]
        # batches of one draw must not share their masks: an average over them would be one over a single mask
        content = first.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        with torch.random.fork_rng(devices=[first.device] if first.is_cuda else []):
            torch.manual_seed(zlib.crc32(content, self.seed))
            return super().forward(batch, outputs_only)


def as_trained(problem: Problem, batch_size: int | None, seed: int) -> Problem:
    """One draw of the loss that training averages: each module in its own mode, batches shuffled, masks drawn once.

    batch_size: of the batches that BatchNorm sees, at least (the samples are dealt out evenly); None for the full
    batch. seed: of order and masks; for one seed it is a function, with exact gradients and Hessian products. Data
    that cannot be picked by number keep their batches.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout(0.5))
    >>> data = (torch.ones(4, 2), torch.zeros(4, 1))
    >>> problem = Problem(model, torch.nn.functional.mse_loss, data, mode="eval")
    >>> trained = as_trained(problem, None, 0)
    >>> bool(trained.value() == trained.value()), bool(trained.value() == problem.value())
    (True, False)
    """
    if problem.is_function:
        return problem
    other = copy.copy(problem)
    other.mode = "as is"
    module = _SeededLoss(structure_copy(problem.model), problem.loss, problem.forward)
    module.seed = seed
    other._module = module
    other._hessian_mode = None
    if problem.batches.indexable:
        other.batches = _dealt(problem.batches, batch_size, seed)
    return other


def share_hessian_mode(draws: Sequence[Problem], theta: torch.Tensor) -> None:
    """Let all draws compute Hessian products in the way that is faster for the first one at theta."""
    mode = draws[0].hessian_mode(theta)
    for one in draws[1:]:
        one._hessian_mode = mode


def _dealt(batches: Batches, batch_size: int | None, seed: int) -> Batches:
    n = batches.n
    pieces = max(1, n // batch_size) if batch_size else 1
    if pieces == 1:
        return Batches(n, n, batches.whole)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    dealt = torch.tensor_split(order, pieces)

    def stream() -> Iterator[Batch]:
        return (batches.pick(indices) for indices in dealt)

    return Batches(n, max(len(indices) for indices in dealt), None, stream)
