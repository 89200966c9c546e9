"""The tangent kernel of linear and convolution layers without their Jacobians.

A layer z_t = W a_t + b (t: positions; one for a linear layer on vectors, the pixels for a convolution whose a_t are
unfolded patches) has the Jacobian sum_t B_t a_t^T, where B_t = d outputs / d z_t. So its part of the kernel is

    K[(i, o), (j, p)] = sum_{t, t'} (B_iot . B_jpt') (a_it . a_jt'),

a Hadamard product of two Gram matrices when there is one position: n^2 (k^2 out + in) multiplications where the
contraction of Jacobians takes n^2 k^2 in out. With many positions the layer's own Jacobian, summed over them, is
cheaper.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tameopt.problem import Problem

_SUB_BLOCK = 1 << 24  # our choice: numbers in the largest intermediate of a contraction


@dataclass(frozen=True)
class Layer:
    """A layer whose kernel has a structure. name: in the model; weight, bias: names of its trainable parameters."""

    name: str
    module: nn.Module
    weight: str | None
    bias: str | None


@dataclass(frozen=True)
class Factors:
    """What a layer gives for m samples: inputs (m, T, in) and backprops (m, k, T, out)."""

    layer: Layer
    inputs: torch.Tensor
    backprops: torch.Tensor


def structured_layers(problem: Problem) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers whose structure is used, and the names of all other trainable parameters.

    A parameter that several modules share, or a convolution in groups or with other padding than zeros, is left to
    the others.
    """
    module: Any = problem._module
    owners = Counter(id(p) for part in module.modules() for p in part._parameters.values() if p is not None)
    prefix, layers, used = problem._prefix, [], set()
    for name, part in module.named_modules():
        if type(part) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
            continue
        if isinstance(part, (nn.Conv1d, nn.Conv2d)) and (
            part.groups != 1 or part.padding_mode != "zeros" or isinstance(part.padding, str)
        ):
            continue
        names: dict[str, str | None] = {}
        for which in ("weight", "bias"):
            parameter = part._parameters.get(which)
            own = f"{name}.{which}".removeprefix(prefix) if name else which
            names[which] = (
                own if parameter is not None and own in problem.shapes and owners[id(parameter)] == 1 else None
            )
        if names["weight"] or names["bias"]:
            layers.append(Layer(name, part, names["weight"], names["bias"]))
            used |= {own for own in names.values() if own}
    return tuple(layers), tuple(key for key in problem.shapes if key not in used)


def _patches(layer: Layer, a: torch.Tensor) -> torch.Tensor:
    """(m, T, in) inputs of a layer as vectors."""
    part: Any = layer.module
    if type(part) is nn.Linear:
        return a.reshape(a.shape[0], -1, a.shape[-1])
    if type(part) is nn.Conv1d:
        sizes: list[Any] = [
            (1, part.kernel_size[0]),
            (1, part.dilation[0]),
            (0, part.padding[0]),
            (1, part.stride[0]),
        ]
        unfolded = functional.unfold(a[:, :, None], *sizes)
    else:
        unfolded = functional.unfold(a, part.kernel_size, part.dilation, part.padding, part.stride)
    return unfolded.transpose(1, 2)


def _positions(layer: Layer, b: torch.Tensor) -> torch.Tensor:
    """(m, T, out) gradients at a layer's output as vectors."""
    if isinstance(layer.module, nn.Linear):
        return b.reshape(b.shape[0], -1, b.shape[-1])
    return b.flatten(2).transpose(1, 2)


def factors(
    problem: Problem, theta: torch.Tensor, indices: torch.Tensor, layers: tuple[Layer, ...]
) -> tuple[list[Factors], int]:
    """The factors of each layer that ran, for the samples `indices`, and the number k of outputs a sample.

    One forward pass over the samples together and k backward passes; a layer that runs several times has the
    positions of all its calls. Networks that mix samples give wrong factors: the caller checks.
    """
    calls: list[tuple[Layer, torch.Tensor, torch.Tensor]] = []

    def recorder(layer: Layer) -> Any:
        def hook(part: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            calls.append((layer, inputs[0].detach(), output))
            return output.clone()  # what follows may write in place

        return hook

    handles = [layer.module.register_forward_hook(recorder(layer)) for layer in layers]
    try:
        with torch.enable_grad():
            leaf = theta.detach().clone().requires_grad_()
            outputs = problem.batch_output(problem.unflatten(leaf), problem.batches.pick(indices), True)
            outputs = outputs.reshape(len(indices), -1)
            totals = outputs.sum(dim=0)
            heads = [output for _, _, output in calls]
            k = outputs.shape[1]
            gradients = [
                torch.autograd.grad(totals[o], heads, retain_graph=o < k - 1, allow_unused=True) for o in range(k)
            ]
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for c, (layer, a, z) in enumerate(calls):
        b = torch.stack(
            [_positions(layer, g[c] if g[c] is not None else torch.zeros_like(z)).detach() for g in gradients], dim=1
        )
        found.setdefault(layer.name, []).append((_patches(layer, a), b))
    by_name = {layer.name: layer for layer in layers}
    result = [
        Factors(by_name[name], torch.cat([a for a, _ in pairs], dim=1), torch.cat([b for _, b in pairs], dim=2))
        for name, pairs in found.items()
    ]
    return result, k


def bytes_a_sample(parts: list[Factors]) -> int:
    """Memory that the factors of one sample take, with the largest layer's Jacobian where that is formed."""
    total, largest = 0, 0
    for part in parts:
        a, b = part.inputs, part.backprops
        total += (a[0].numel() + b[0].numel()) * a.element_size()
        if a.shape[1] > 1:
            largest = max(largest, b.shape[1] * b.shape[3] * a.shape[2] * a.element_size())
    return total + largest


def add_block(K: torch.Tensor, left: Factors, right: Factors) -> None:
    """Add a layer's part to the block K (m k, m' k) in place, by the cheaper of the two contractions."""
    a, b, c, d = left.inputs, left.backprops, right.inputs, right.backprops
    m, T, width = a.shape
    k, out = b.shape[1], b.shape[3]
    if left.layer.bias:
        K += b.sum(dim=2).reshape(m * k, out) @ d.sum(dim=2).reshape(-1, out).T
    if not left.layer.weight:
        return
    if T == 1:
        _hadamard(K, a[:, 0], b[:, :, 0], c[:, 0], d[:, :, 0])
        return
    own, other = torch.einsum("mkto,mti->mkoi", b, a), torch.einsum("mkto,mti->mkoi", d, c)
    K.addmm_(own.reshape(m * k, -1), other.reshape(-1, out * width).T)


def _hadamard(K: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> None:
    """K += (b d^T) * (a c^T), rows of samples at a time."""
    m, k, out = b.shape
    others = d.reshape(-1, out)
    step = max(1, _SUB_BLOCK // max(1, k * others.shape[0]))
    for begin in range(0, m, step):
        rows = slice(begin, min(begin + step, m))
        gram = (b[rows].reshape(-1, out) @ others.T).view(-1, k, c.shape[0], k)
        gram *= (a[rows] @ c.T)[:, None, :, None]
        K[rows.start * k : rows.stop * k] += gram.view(-1, others.shape[0])
