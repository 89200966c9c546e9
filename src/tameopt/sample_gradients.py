"""Gradients of single samples, all at once where the operators can be batched."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import grad, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from tameopt.batches import Batch, rows, size_of
from tameopt.hessian_modes import BatchSum, Parameters, exact_attention


def gradients_of_samples(batch_sum: BatchSum, parameters: Parameters, batch: Batch) -> torch.Tensor:
    """(b, d) grad l_i for the samples of a batch, by vmap; one sample at a time where an operator forbids it."""
    leaves, form = tree_flatten(batch)
    axes = [0 if isinstance(leaf, torch.Tensor) and leaf.ndim else None for leaf in leaves]

    def sample_loss(at: Parameters, sample: list[Any]) -> torch.Tensor:
        one = [leaf if axis is None else leaf[None] for leaf, axis in zip(sample, axes, strict=True)]
        return batch_sum(at, tree_unflatten(one, form))

    try:
        with exact_attention():
            parts = vmap(grad(sample_loss), in_dims=(None, axes))(parameters, leaves)
    except (RuntimeError, NotImplementedError):
        # an operator without a batching rule, or data-dependent control flow
        return torch.stack(
            [_gradient(batch_sum, parameters, rows(batch, slice(i, i + 1))) for i in range(size_of(batch))]
        )
    return torch.cat([parts[key].reshape(size_of(batch), -1) for key in parameters], dim=1)


def _gradient(batch_sum: BatchSum, parameters: Parameters, batch: Batch) -> torch.Tensor:
    at = {key: view.detach().requires_grad_() for key, view in parameters.items()}
    with torch.enable_grad():
        parts = torch.autograd.grad(batch_sum(at, batch), list(at.values()), materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts])
