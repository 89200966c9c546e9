"""Named tensors as one flat vector, and back: theta and its gradients in R^d."""

from __future__ import annotations

from collections.abc import Mapping

import torch

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of named tensors, in their order."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def flattened(
    tensors: Mapping[str, torch.Tensor], shapes: Shapes, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """(d,) the named tensors one after the other in the order of `shapes`, detached."""
    return torch.cat([tensors[key].detach().reshape(-1).to(device, dtype) for key in shapes])


def split(vector: torch.Tensor, shapes: Shapes) -> dict[str, torch.Tensor]:
    """The tensors by name as views of a vector: (d,); nothing is copied."""
    parts, start = {}, 0
    for key, shape in shapes.items():
        size = torch.Size(shape).numel()
        parts[key] = vector[start : start + size].view(shape)
        start += size
    return parts


def require_vector(theta: torch.Tensor, dim: int) -> None:
    """Raises TypeError unless theta is a real tensor, ValueError unless its shape is (dim,)."""
    if not isinstance(theta, torch.Tensor) or theta.is_complex():
        came = theta.dtype if isinstance(theta, torch.Tensor) else type(theta).__name__
        raise TypeError(f"theta must be a real tensor of shape ({dim},), got {came}.")
    if theta.shape != (dim,):
        raise ValueError(f"theta must have shape ({dim},), got {tuple(theta.shape)}.")
