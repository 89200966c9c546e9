"""Parameters that share memory: a step on one moves another, which no gradient tells."""

from __future__ import annotations

import torch
from torch import nn


def shared_memory(model: nn.Module) -> str:
    """Why a step on the parameters may move others than it says, or "".

    A trained parameter that is expanded (one number in memory for several entries), or whose memory overlaps another
    parameter's or a buffer's. Tied parameters, one tensor under several names, are one parameter.

    >>> layer = nn.Linear(2, 2)
    >>> layer.register_buffer("copy", layer.weight.data)
    >>> shared_memory(layer)
    'weight and copy share memory, so that a step on one moves the other'
    """
    spans: list[tuple[object, int, int, str, bool]] = []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta or tensor.numel() == 0 or tensor.layout is not torch.strided:
            continue
        sizes = list(zip(tensor.shape, tensor.stride(), strict=True))
        if tensor.requires_grad and any(size > 1 and stride == 0 for size, stride in sizes):
            return f"{name} is expanded: one number in memory stands for several of its entries"
        first = tensor.data_ptr()
        last = first + (sum((size - 1) * stride for size, stride in sizes) + 1) * tensor.element_size()
        spans.append((tensor.device, first, last, name, tensor.requires_grad))
    spans.sort(key=lambda span: (str(span[0]), span[1]))
    furthest: dict[bool, tuple[object, int, str]] = {}
    for device, first, last, name, trained in spans:
        for other in (True, False):
            if (trained or other) and other in furthest:
                where, end, who = furthest[other]
                if where == device and first < end:
                    return f"{who} and {name} share memory, so that a step on one moves the other"
        if trained not in furthest or furthest[trained][0] != device or last > furthest[trained][1]:
            furthest[trained] = (device, last, name)
    return ""
