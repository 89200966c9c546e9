"""The arguments of a recorded call: constants as ranges, plain data as JSON, refusals, and cuts of autodiff."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from tameopt.structure.program import Constant
from tameopt.structure.ranges import Interval, point


def named_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the schema, defaults filled in."""
    named: dict[str, Any] = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            named[argument.name] = args[position]
        elif argument.name in kwargs:
            named[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def plain(x: Any) -> Any:
    """An argument that is no tensor, as JSON."""
    if isinstance(x, bool) or x is None or isinstance(x, (int, str)):
        return x
    if isinstance(x, float):
        return x if math.isfinite(x) else str(x)
    if isinstance(x, (list, tuple)):
        return [plain(item) for item in x]
    if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        raise ValueError("symbolic shapes are not covered")
    return str(x)


def constant_of(tensor: torch.Tensor, from_data: bool) -> Constant:
    """A tensor that does not depend on theta: where its elements lie.

    Raises ValueError when it holds NaN or inf; -inf alone is a mask.
    """
    if tensor.dtype == torch.bool:
        return Constant(Interval(0.0, 1.0), from_data=from_data)
    if tensor.is_meta or tensor.is_complex() or tensor.layout != torch.strided:
        return Constant(Interval(), from_data=from_data)
    if tensor.numel() == 0:
        return Constant(point(0.0), from_data=from_data)
    with torch.no_grad():
        low, high = (float(end) for end in torch.aminmax(tensor.detach()))
        if low != low or high != high or high == math.inf:
            raise ValueError("a constant tensor holds NaN or inf")
        if low == -math.inf:
            finite = tensor[torch.isfinite(tensor)]
            if finite.numel() == 0:
                return Constant(Interval(), True, from_data)
            return Constant(Interval(float(finite.min()), high), True, from_data)
    return Constant(Interval(low, high), from_data=from_data)


def refusal(tensors: list[torch.Tensor]) -> str:
    for tensor in tensors:
        if tensor.is_quantized:
            return "quantised tensors are not covered: certify the network before quantisation"
        if tensor.is_complex():
            return "complex tensors are not covered: view them as real pairs"
        if tensor.layout != torch.strided:
            return f"tensors of layout {tensor.layout} are not covered: use dense ones"
    return ""


def reinterpreted(func: Any) -> str:
    """Why a view of the bits of a tensor as numbers of another kind is refused, or ""."""
    if func._schema.name == "aten::view" and func._overloadname == "dtype":
        return "the bits of numbers are read as other numbers: convert them instead"
    return ""


def severed(tensor: torch.Tensor) -> str:
    """Why autodiff does not follow theta through a tensor that depends on it, or ""."""
    if not tensor.requires_grad:
        return "detached: autodiff sees a constant (detach, no_grad, .data, or the inside of a custom Function)"
    node = tensor.grad_fn
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return f"custom autograd.Function {type(node).__name__.removesuffix('Backward')}: its backward is anyone's"
    if tensor._backward_hooks:
        return "a hook may change the gradient here"
    return ""


def on_meta(name: str, named: Mapping[str, Any]) -> tuple[torch.Tensor, ...] | None:
    """The results of batch_norm on the meta device, or None.

    torch would run ten operators for it, each on the meta device, and spend half the time of a whole certificate.
    """
    x = named.get("input")
    if name not in ("native_batch_norm", "cudnn_batch_norm") or not isinstance(x, torch.Tensor) or not x.is_meta:
        return None
    statistics = x.new_empty((x.shape[1],)) if named["training"] else x.new_empty((0,))
    found = (torch.empty_like(x), statistics, torch.empty_like(statistics))
    return (*found, x.new_empty((0,), dtype=torch.uint8)) if name.startswith("cudnn") else found
