"""Order in memory: which tensors an engine may walk through in storage order."""

from __future__ import annotations

import torch


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill a stretch of memory without gaps or overlaps, in whatever order.

    >>> is_dense(torch.zeros(2, 3).t()), is_dense(torch.zeros(4)[::2]), is_dense(torch.zeros(1).expand(3))
    (True, False, False)
    """
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def same_order(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape lie in memory in the same order (strides of length-1 axes do not count)."""
    if one.numel() <= 1:
        return True
    return all(s == t for s, t, n in zip(one.stride(), other.stride(), one.shape, strict=True) if n != 1)


def match_strides(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a copy laid out as `like` when their order in memory differs."""
    if same_order(tensor, like):
        return tensor
    return torch.empty_strided(like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device).copy_(tensor)
