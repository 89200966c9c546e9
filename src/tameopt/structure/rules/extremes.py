"""Maxima, minima, clamps and positions of the largest."""

from __future__ import annotations

from collections.abc import Sequence

from tameopt.structure.ranges import Interval
from tameopt.structure.rules._call import Call
from tameopt.structure.rules.elementwise import composed_shape, with_limit
from tameopt.structure.rules.linear import operand, reduced_count
from tameopt.structure.rules.network import kinked
from tameopt.structure.tame import (
    ALMOST_EVERYWHERE,
    CLASSICAL,
    DISCONTINUOUS,
)
from tameopt.structure.value import Value, constant, join


def largest(call: Call) -> list[Value]:
    """Maxima of several elements (amax, max_pool, max.dim values), and where they are."""
    if call.arguments.get("other") is not None:
        return pair_largest(call)
    x = call.tensors[0]
    single = "pool" not in call.name and reduced_count(call) == 1
    if single and len(call.outputs) == 1:
        return [x]
    values = kinked(x, x.range, composed_shape("convex", 1, x), x.homogeneous)
    values = values.but(extended=x.extended and not call.arguments.get("border"))
    if call.name.startswith("max_pool") and not _windows_filled(call):
        # torch returns -inf for a window that reads the padding alone
        values = values.but(extended=True)
    return [values, *[indices(x)] * (len(call.outputs) - 1)]


def _windows_filled(call: Call) -> bool:
    """Whether every window of a max pooling reads a real element; `border` is what was padded with -inf before."""
    rank = next((rank for rank in (1, 2, 3) if f"{rank}d" in call.name), 0)
    whole, windows = call.shapes["self"][-rank:], call.outputs[0][-rank:]
    before, after = call.arguments.get("border") or ([0] * rank, [0] * rank)
    sizes = [whole[d] - before[d] - after[d] for d in range(rank)]
    return windows_meet(sizes, before, windows, call, rank)


def windows_meet(sizes: Sequence[int], before: Sequence[int], windows: Sequence[int], call: Call, rank: int) -> bool:
    """Whether every window of a pooling reads an element of the box before <= j < before + sizes.

    windows: how many there are along each dimension. The window at o reads o stride - padding + k dilation for
    0 <= k < kernel, along each dimension by itself.
    """
    kernel = _each(call, "kernel_size", rank)
    stride = _each(call, "stride", rank) or kernel
    padding, dilation = _each(call, "padding", rank) or [0] * rank, _each(call, "dilation", rank) or [1] * rank
    for d in range(rank):
        for o in range(windows[d]):
            start = o * stride[d] - padding[d]
            # the first place of the window that is not before the box
            k = max(0, -(-(before[d] - start) // dilation[d]))
            if k >= kernel[d] or start + k * dilation[d] >= before[d] + sizes[d]:
                return False
    return True


def _each(call: Call, name: str, rank: int) -> list[int]:
    """An argument by dimension; empty when it was not given."""
    found = call.arguments.get(name)
    items = [int(found)] if isinstance(found, int) else [int(item) for item in found or ()]
    return items * rank if len(items) == 1 else items


def smallest(call: Call) -> list[Value]:
    """Minima of several elements, and where they are."""
    if call.arguments.get("other") is not None:
        return pair_smallest(call)
    x = call.tensors[0]
    values = kinked(x, x.range, composed_shape("concave", 1, x), x.homogeneous)
    return [values, *[indices(x)] * (len(call.outputs) - 1)]


def ordered(call: Call) -> list[Value]:
    """sort, topk, median, kthvalue: values and their positions."""
    x = call.tensors[0]
    values = kinked(x, x.range, "", x.homogeneous)
    return [values, *[indices(x)] * (len(call.outputs) - 1)]


def indices(x: Value) -> Value:
    """Positions: locally constant where there is no tie."""
    if not x.varies:
        return constant(Interval(0.0))
    return x.but(
        range=Interval(0.0),
        degree=None if x.degree is None else 0,
        piecewise=True,
        smooth=DISCONTINUOUS,
        autodiff=max(x.autodiff, ALMOST_EVERYWHERE),
        shape="",
        homogeneous=0 if x.homogeneous is not None else None,
        extended=False,
        flat=True,
    )


def index_of(call: Call) -> list[Value]:
    """argmax, argmin, argsort."""
    return [indices(join(call.tensors))]


def pair_largest(call: Call) -> list[Value]:
    """maximum(x, y)."""
    return [_extreme(operand(call, "self"), operand(call, "other"), True)]


def pair_smallest(call: Call) -> list[Value]:
    """minimum(x, y)."""
    return [_extreme(operand(call, "self"), operand(call, "other"), False)]


def _extreme(x: Value, y: Value, largest: bool) -> Value:
    base = join([x, y])
    pick = max if largest else min
    # the elements that are -inf are among those that compete
    left, right = with_limit(x), with_limit(y)
    ordered = left.lo >= right.hi, right.lo >= left.hi
    if any(ordered):
        return _winning(x if ordered[0] == largest else y, base)
    ranges = Interval(pick(left.lo, right.lo), pick(left.hi, right.hi))
    shape = composed_shape("convex" if largest else "concave", 1, base)
    extended = x.extended and y.extended if largest else base.extended
    return kinked(base, ranges, shape, base.homogeneous).but(extended=extended)


def _winning(chosen: Value, base: Value) -> Value:
    """The larger of two, known in advance; undefined where the other one is, and with its infinite derivatives."""
    if base.total and base.autodiff < ALMOST_EVERYWHERE:
        return chosen.but(autodiff=base.autodiff if chosen.varies else CLASSICAL)
    return chosen.but(
        varies=True,
        generators=base.generators,
        degree=None if base.degree is None else chosen.degree,
        piecewise=True,
        autodiff=base.autodiff,
        total=base.total,
    )


def clamp(call: Call) -> list[Value]:
    """min(max(x, lower), upper)."""
    x = call.tensors[0]
    for name, largest in (("min", True), ("min_val", True), ("max", False), ("max_val", False)):
        if call.arguments.get(name) is None:
            continue
        bound = call.arguments[name]
        if isinstance(bound, str) and bound in ("inf", "-inf"):
            continue
        x = _extreme(x, operand(call, name), largest)
    return [x]
