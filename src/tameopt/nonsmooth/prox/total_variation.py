"""Total variation in one dimension, exactly and in linear time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tameopt.extras import require
from tameopt.nonsmooth.prox._entry import Prox


def value(x: torch.Tensor) -> torch.Tensor:
    """sum of abs(x_{i+1} - x_i) over the vectors."""
    return x.diff(dim=-1).abs().sum()


def denoise(v: torch.Tensor, t: float) -> torch.Tensor:
    """argmin_x t sum abs(x_{i+1} - x_i) + norm(x - v)^2 / 2, row by row, by dynamic programming.

    Differentiable: the result is the mean of v over each constant piece, plus a constant.
    """
    rows = v.detach().reshape(-1, v.shape[-1]).double().contiguous().cpu().numpy()
    out = np.empty_like(rows)
    _kernel()(rows, t, out)
    result = torch.from_numpy(out).to(v).view(v.shape)
    return _Pieces.apply(v, result) if v.requires_grad else result


class _Pieces(torch.autograd.Function):
    """The derivative: averaging over the constant pieces of the result."""

    @staticmethod
    def forward(v: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        return result.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        starts = torch.nn.functional.pad((x.diff(dim=-1) != 0).long(), (1, 0)).cumsum(-1)
        sums = torch.zeros_like(grad).scatter_add(-1, starts, grad)
        counts = torch.zeros_like(grad).scatter_add(-1, starts, torch.ones_like(grad))
        return sums.gather(-1, starts) / counts.gather(-1, starts), None


def _kernel() -> Any:
    """The compiled loop over rows; the first call compiles it, or reads numba's cache."""
    from tameopt.nonsmooth.prox._taut_string import compiled

    require("numba", "total variation")
    return compiled()


ENTRY = Prox("tv1d", "sum abs(x_{i+1} - x_i)", value, denoise, "convex", "vectors", source="Johnson 2013")
