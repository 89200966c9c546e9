"""Where each nonsmooth operator of PyTorch has its kinks: the distance of its input to the nearest one.

A row maps an aten operator to a function of its arguments that returns, entry by entry, how far the input is
from the nearest kink (0: exactly on it). A row of kind "jump" is an operator that is not even continuous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import pad

Gaps = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Kink:
    """A nonsmooth operator.

    gaps: (*args, **kwargs) of the operator -> distances >= 0 to its kinks, one per entry or window.
    kind: "kink" (continuous), "tie" (a choice among equals), "jump" (discontinuous).
    """

    gaps: Gaps
    kind: Literal["kink", "tie", "jump"] = "kink"


def _at(*points: float) -> Gaps:
    def gaps(x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
        return torch.stack([(x - point).abs() for point in points]).amin(dim=0)

    return gaps


def _never(x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
    return torch.full_like(x, torch.inf)


def _leaky_relu(x: torch.Tensor, slope: float = 0.01) -> torch.Tensor:
    return _never(x) if slope == 1 else x.abs()


def _bounds(x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    edges = [(x - edge).abs() for edge in (low, high) if edge is not None]
    return torch.stack(torch.broadcast_tensors(*edges)).amin(dim=0) if edges else _never(x)


def _hardtanh(x: torch.Tensor, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return _bounds(x, low, high)


def _elu(x: torch.Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> torch.Tensor:
    # C^1 when the left slope alpha * input_scale is the right slope 1
    return _never(x) if alpha * input_scale == 1 else x.abs()


def _threshold(x: torch.Tensor, threshold: float, value: float) -> torch.Tensor:
    return (x - threshold).abs()


def _softshrink(x: torch.Tensor, level: float = 0.5) -> torch.Tensor:
    return (x.abs() - level).abs()


def _difference(a: torch.Tensor, b: Any, **kwargs: Any) -> torch.Tensor:
    return torch.as_tensor(a - b).abs()


def _top_two(x: torch.Tensor, dim: int) -> torch.Tensor:
    if x.shape[dim] < 2:
        return torch.full_like(x.select(dim, 0), torch.inf)
    best = x.topk(2, dim=dim).values
    return best.select(dim, 0) - best.select(dim, 1)


def _dims(x: torch.Tensor, dims: Any) -> torch.Tensor:
    """The entries reduced together, on the last dimension."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return x.reshape(1, -1)
    chosen = [dims] if isinstance(dims, int) else list(dims)
    chosen = [dim % max(x.ndim, 1) for dim in chosen]
    kept = [dim for dim in range(x.ndim) if dim not in chosen]
    return x.permute(*kept, *chosen).reshape(*(x.shape[dim] for dim in kept), -1)


def _reduced(sign: int) -> Gaps:
    def gaps(x: torch.Tensor, dims: Any = None, *rest: Any, **kwargs: Any) -> torch.Tensor:
        return _top_two(sign * _dims(x, dims), -1)

    return gaps


def _sorted_gaps(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    integers = [arg for arg in args if isinstance(arg, int) and not isinstance(arg, bool)]
    dim = kwargs.get("dim", integers[0] if integers else -1)
    ordered = x.sort(dim=dim).values
    return ordered.diff(dim=dim)


def _topk(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> torch.Tensor:
    """Only the boundary of the chosen k, and the order within them, are choices."""
    ordered = (x if largest else -x).sort(dim=dim, descending=True).values
    return -ordered.narrow(dim, 0, min(k + 1, x.shape[dim])).diff(dim=dim)


def _pair(value: Any) -> tuple[int, int]:
    entries = [value] if isinstance(value, int) else list(value)
    return (entries[0], entries[-1])


def max_pool_windows(
    x: torch.Tensor, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> torch.Tensor:
    """(..., windows, entries) the entries of each 2-d pooling window, -inf where it is padded.

    Raises ValueError for a dilated or ceil-mode pooling, which nothing here reads.
    """
    if _pair(dilation) != (1, 1) or ceil_mode:
        raise ValueError("max-pool windows need dilation 1 and ceil_mode False.")
    height, width = _pair(size)
    down, across = _pair(stride) if stride else (height, width)
    top, left = _pair(padding)
    wide = pad(x, (left, left, top, top), value=-torch.inf)
    return wide.unfold(-2, height, down).unfold(-2, width, across).flatten(-2)


def _max_pool(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _top_two(max_pool_windows(x, *args, **kwargs), -1)


def tied_windows(x: torch.Tensor, best: torch.Tensor, *args: Any) -> torch.Tensor:
    """Where a max-pool had a choice among equals: two entries of the window are the largest, `best`.

    One comparison for each place in the window, on strided views, instead of sorting the windows. args: size, stride,
    padding. Raises ValueError as `max_pool_windows`.
    """
    size, stride, padding = _pair(args[0]), _pair(args[1] if len(args) > 1 and args[1] else args[0]), (0, 0)
    if len(args) > 2:
        padding = _pair(args[2])
    if len(args) > 3 and (_pair(args[3]) != (1, 1) or (len(args) > 4 and args[4])):
        raise ValueError("max-pool windows need dilation 1 and ceil_mode False.")
    rows, columns = best.shape[-2:]
    wide = pad(x, (padding[1], padding[1], padding[0], padding[0]), value=-torch.inf) if any(padding) else x
    count = torch.zeros(best.shape, dtype=torch.int8 if size[0] * size[1] < 128 else torch.int32, device=x.device)
    for i in range(size[0]):
        for j in range(size[1]):
            place = wide[..., i : i + stride[0] * rows : stride[0], j : j + stride[1] * columns : stride[1]]
            count += place == best
    return count > 1


_COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")

KINKS: dict[str, Kink] = {
    "aten.relu.default": Kink(_at(0.0)),
    "aten.abs.default": Kink(_at(0.0)),
    "aten.leaky_relu.default": Kink(_leaky_relu),
    "aten._prelu_kernel.default": Kink(lambda x, weight: x.abs()),
    "aten.rrelu_with_noise.default": Kink(_at(0.0)),
    "aten.elu.default": Kink(_elu),
    "aten.hardtanh.default": Kink(_hardtanh),
    "aten.hardswish.default": Kink(_at(-3.0, 3.0)),
    "aten.hardsigmoid.default": Kink(_at(-3.0, 3.0)),
    "aten.softshrink.default": Kink(_softshrink),
    "aten.clamp.default": Kink(_bounds),
    "aten.clamp.Tensor": Kink(_bounds),
    "aten.clamp_min.default": Kink(_bounds),
    "aten.clamp_min.Tensor": Kink(_bounds),
    "aten.clamp_max.default": Kink(_bounds),
    "aten.clamp_max.Tensor": Kink(_bounds),
    "aten.maximum.default": Kink(_difference, "tie"),
    "aten.minimum.default": Kink(_difference, "tie"),
    "aten.fmax.default": Kink(_difference, "tie"),
    "aten.fmin.default": Kink(_difference, "tie"),
    "aten.max.default": Kink(_reduced(1), "tie"),
    "aten.min.default": Kink(_reduced(-1), "tie"),
    "aten.max.dim": Kink(_reduced(1), "tie"),
    "aten.min.dim": Kink(_reduced(-1), "tie"),
    "aten.amax.default": Kink(_reduced(1), "tie"),
    "aten.amin.default": Kink(_reduced(-1), "tie"),
    "aten.sort.default": Kink(_sorted_gaps, "tie"),
    "aten.sort.stable": Kink(_sorted_gaps, "tie"),
    "aten.topk.default": Kink(_topk, "tie"),
    "aten.median.default": Kink(lambda x: _sorted_gaps(x.reshape(-1)), "tie"),
    "aten.max_pool2d_with_indices.default": Kink(_max_pool, "tie"),
    "aten.threshold.default": Kink(_threshold, "jump"),
    "aten.hardshrink.default": Kink(_softshrink, "jump"),
    "aten.sign.default": Kink(_at(0.0), "jump"),
    "aten.sgn.default": Kink(_at(0.0), "jump"),
    "aten.round.default": Kink(lambda x: ((x - 0.5) - (x - 0.5).round()).abs(), "jump"),
    "aten.floor.default": Kink(lambda x: (x - x.round()).abs(), "jump"),
    "aten.ceil.default": Kink(lambda x: (x - x.round()).abs(), "jump"),
    "aten.trunc.default": Kink(lambda x: (x - x.round()).abs(), "jump"),
    **{f"aten.{name}.{form}": Kink(_difference, "jump") for name in _COMPARISONS for form in ("Tensor", "Scalar")},
}
