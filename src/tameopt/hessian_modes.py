"""Hessian-vector products of a batch, two ways, and which is faster on this problem."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tameopt.batches import Batch

Parameters = dict[str, torch.Tensor]
BatchSum = Callable[[Parameters, Batch], torch.Tensor]  # the sum of l_i over a batch, differentiable

MODES = ("forward over reverse", "reverse over reverse")


def exact_attention() -> AbstractContextManager[None]:
    """Attention on the math backend within this context: the only one with second derivatives."""
    return sdpa_kernel(SDPBackend.MATH)


def _split(vector: torch.Tensor, parameters: Parameters) -> Parameters:
    """A flat vector as views in the parameters' shapes."""
    parts, start = {}, 0
    for key, parameter in parameters.items():
        parts[key] = vector[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return parts


def hessian_product(
    batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor, mode: str
) -> torch.Tensor:
    """(d, m) the Hessian of the sum over a batch, at `parameters`, times a block: (d, m)."""
    if mode == "forward over reverse":
        return _forward_over_reverse(batch_sum, parameters, batch, block)
    return _reverse_over_reverse(batch_sum, parameters, batch, block)


def _forward_over_reverse(
    batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor
) -> torch.Tensor:
    def gradient(at: Parameters) -> Parameters:
        return grad(lambda inner: batch_sum(inner, batch))(at)

    def product(vector: torch.Tensor) -> torch.Tensor:
        tangent = jvp(gradient, (parameters,), (_split(vector, parameters),))[1]
        return torch.cat([tangent[key].reshape(-1) for key in parameters])

    if block.shape[1] == 1:
        return product(block[:, 0].contiguous())[:, None]
    return vmap(product, in_dims=1, out_dims=1)(block.contiguous())


def _reverse_over_reverse(
    batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor
) -> torch.Tensor:
    leaves = {key: view.detach().requires_grad_() for key, view in parameters.items()}
    inputs = list(leaves.values())
    with torch.enable_grad():
        parts = torch.autograd.grad(batch_sum(leaves, batch), inputs, create_graph=True, materialize_grads=True)
        if not any(part.requires_grad for part in parts):
            return torch.zeros_like(block)  # F is linear on this batch
        columns = []
        for j in range(block.shape[1]):
            vectors = _split(block[:, j].contiguous(), parameters).values()
            products = torch.autograd.grad(
                [part for part in parts if part.requires_grad],
                inputs,
                [v for part, v in zip(parts, vectors, strict=True) if part.requires_grad],
                retain_graph=j + 1 < block.shape[1],
                materialize_grads=True,
            )
            columns.append(torch.cat([one.detach().reshape(-1) for one in products]))
    return torch.stack(columns, dim=1)


def faster_mode(batch_sum: BatchSum, parameters: Parameters, batch: Batch) -> str:
    """The faster of the two modes on this batch; one that an operator lacks is passed over.

    Each is warmed up once and timed once: a factor of two is what is at stake, not percents.

    Raises RuntimeError with both causes when neither runs.
    """
    first = next(iter(parameters.values()))
    d = sum(parameter.numel() for parameter in parameters.values())
    block = torch.ones(d, 1, dtype=first.dtype, device=first.device)
    seconds: dict[str, float] = {}
    failures: list[str] = []
    for mode in MODES:
        try:
            with exact_attention():
                for _ in range(2):
                    start = time.perf_counter()
                    hessian_product(batch_sum, parameters, batch, block, mode)
                    if first.device.type == "cuda":
                        torch.cuda.synchronize(first.device)
                    seconds[mode] = time.perf_counter() - start
        except (RuntimeError, NotImplementedError) as error:
            seconds.pop(mode, None)
            failures.append(f"{mode}: {str(error).splitlines()[0]}")
    if not seconds:
        raise RuntimeError(f"no Hessian product of this loss runs: {'; '.join(failures)}")
    return min(seconds, key=lambda mode: seconds[mode])
