"""The traps: operators and patterns at which torch returns NaN, infinity, or a wrong gradient.

A trap says which argument values are bad, when the known ranges exclude them (then nothing is said), what torch
returns there and what is right. `tameopt.structure.lint` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from tameopt.structure.ranges import Interval
from tameopt.structure.rules._call import Call

Arguments = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Trap:
    """code: stable. operators: where it may sit. safe: whether the ranges exclude it; bad: whether argument values
    are in it. what, torch_returns, right, fix: for the person."""

    code: str
    operators: tuple[str, ...]
    safe: Callable[[Call], bool]
    bad: Callable[[Arguments], bool]
    what: str
    torch_returns: str
    right: str
    fix: str


def _self_positive(call: Call) -> bool:
    x = call.tensors[0]
    return x.range.positive or not x.varies


def _any(tensor: torch.Tensor, condition: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    return bool(condition(tensor).any()) if tensor.numel() else False


def _power_is_safe(call: Call) -> bool:
    x, exponent = call.maybe("self"), call.maybe("exponent")
    if exponent is not None and (exponent.varies or exponent.range.lo != exponent.range.hi):
        return x.range.positive if x is not None else call.number("self") > 0
    if x is None or not x.varies:
        return True
    p = exponent.range.lo if exponent is not None else call.number("exponent")
    return x.range.positive or (float(p).is_integer() and p >= 0) or (p >= 1 and x.range.nonnegative)


def _divisor_is_safe(call: Call) -> bool:
    y = call.maybe("other")
    return y is None or y.range.nonzero or (not y.varies and y.range.nonzero)


def _repeated(arguments: Arguments) -> bool:
    """Whether a symmetric matrix has a (nearly) repeated eigenvalue, or a matrix a repeated singular value."""
    matrix = next(iter(arguments.values())).double()
    values = torch.linalg.svdvals(matrix).sort(-1).values
    return values.shape[-1] > 1 and bool((values.diff(dim=-1).abs() < 1e-9 * (1 + values[..., -1:])).any())


TRAPS: tuple[Trap, ...] = (
    Trap(
        "TAME101", ("sqrt", "sqrt_"), _self_positive, lambda a: _any(a["self"], lambda x: x <= 0),
        "sqrt of a value that can be 0 or less",
        "gradient inf at 0 (NaN when it meets a factor 0), NaN below",
        "0 times inf is 0 only on paper; the square root has no derivative at 0",
        "sqrt(x + eps) with eps inside, abs(x) for sqrt(x * x), torch.linalg.vector_norm for a norm",
    ),
    Trap(
        "TAME102", ("div", "div_", "reciprocal", "reciprocal_", "rsqrt", "rsqrt_"),
        lambda call: _divisor_is_safe(call) if call.name.startswith("div") else _self_positive(call)
        or call.tensors[0].range.nonzero,
        lambda a: _any(a.get("other", a["self"]) if "other" in a else a["self"], lambda x: x == 0),
        "division by a value that can be 0", "inf, and NaN for 0 / 0 and in the gradient",
        "the function is not defined there",
        "keep the divisor away from 0: x / (y + eps) with y >= 0, or clamp(min=eps)",
    ),
    Trap(
        "TAME103", ("log", "log_", "log2", "log10", "log1p"),
        lambda call: _self_positive(call) or (call.name == "log1p" and call.tensors[0].range.lo > -1),
        lambda a: _any(a["self"], lambda x: x <= 0),
        "log of a value that can be 0 or less", "-inf at 0 and NaN below; gradient inf, NaN when it meets a 0",
        "the logarithm is not defined there",
        "log(x.clamp(min=eps)), or the fused log_softmax, logsigmoid, logsumexp, log1p",
    ),
    Trap(
        "TAME104", ("pow", "pow_"), _power_is_safe,
        lambda a: _any(a["self"] if "self" in a else a["exponent"], lambda x: x <= 0),
        "a power with exponent below 1 (or varying) of a value that can be 0 or less",
        "gradient inf at 0, NaN for a negative base", "x^p has no derivative at 0 for p < 1",
        "(x + eps) ** p, or abs and a guard",
    ),
    Trap(
        "TAME105", ("acos", "acos_", "asin", "asin_", "atanh", "acosh"),
        lambda call: not call.tensors[0].varies
        or (call.tensors[0].range.inside(Interval(-1.0, 1.0, True, True)) if call.name != "acosh"
            else call.tensors[0].range.lo > 1),
        lambda a: _any(a["self"], lambda x: x.abs() >= 1),
        "an inverse function at or past the end of its domain", "gradient inf at +-1, NaN outside",
        "the derivative is infinite at the end", "clamp into (-1 + eps, 1 - eps), or atan2 for an angle",
    ),
    Trap(
        "TAME106", ("hypot",), lambda call: any(value.range.nonzero for value in call.tensors),
        lambda a: _any(a["self"], lambda x: x == 0) and _any(a["other"], lambda x: x == 0),
        "hypot at (0, 0)", "gradient NaN", "0 is a subgradient",
        "torch.linalg.vector_norm(torch.stack((x, y)), dim=0)",
    ),
    Trap(
        "TAME107", ("xlogy",), lambda call: call.tensors[-1].range.positive or not call.tensors[-1].varies,
        lambda a: _any(a.get("other", torch.ones(1)), lambda x: x <= 0),
        "xlogy with a second argument that can be 0", "value 0 but gradient NaN or -inf",
        "the slope is -infinite at 0",
        "torch.special.entr for the entropy, or clamp the second argument",
    ),
    Trap(
        "TAME110", ("linalg_vector_norm", "norm"),
        lambda call: call.number("ord", call.number("p", 2.0)) >= 1 or call.tensors[0].range.nonzero,
        lambda a: _any(a["self"], lambda x: x == 0),
        "a norm of order below 1 where an entry can be 0", "gradient inf or NaN", "it has no derivative there",
        "add eps to the absolute values, or use order 1",
    ),
    Trap(
        "TAME111", ("_linalg_eigh", "_linalg_svd"), lambda call: not call.tensors[0].varies, _repeated,
        "eigenvectors or singular vectors where values can coincide", "gradient NaN or huge at repeated values",
        "the vectors are not continuous there",
        "use the values alone (eigvalsh, svdvals), or a function of the matrix",
    ),
    Trap(
        "TAME112", ("_linalg_det",), lambda call: not call.tensors[0].varies,
        lambda a: bool((torch.linalg.det(next(iter(a.values())).double()).abs() < 1e-12).any()),
        "det where the matrix can be singular", "gradient 0", "the cofactor matrix, which is not 0 at rank n - 1",
        "slogdet away from singular matrices; there, the cofactors by hand",
    ),
    Trap(
        "TAME113", ("_softmax", "_log_softmax", "logsumexp"), lambda call: not call.tensors[0].extended,
        lambda a: bool(torch.isneginf(a["self"]).all(dim=tuple(a["dim"].reshape(-1).tolist())).any()),
        "softmax over a row whose entries are all masked", "NaN", "the distribution over nothing is not defined",
        "keep one entry unmasked, or mask with a large finite number and drop the row afterwards",
    ),
    Trap(
        "TAME114", ("std", "var", "std_mean", "var_mean"),
        lambda call: call.size("self") // max(call.output_size, 1) > 1
        or call.arguments.get("correction") == 0 or call.arguments.get("unbiased") is False,
        lambda a: True,
        "the sample variance of one element", "NaN", "n - 1 = 0: it is not defined", "correction=0, or more elements",
    ),
    Trap(
        "TAME115", ("exp", "exp_", "exp2", "expm1"), lambda call: call.tensors[0].range.hi <= 88,
        lambda a: _any(a["self"], lambda x: x > (709 if x.dtype == torch.float64 else 88)),
        "exp that can overflow inside a branch of where", "inf in the branch not taken, and inf * 0 = NaN backwards",
        "the other branch's derivative", "clamp the argument of exp before it, inside the branch",
    ),
    Trap(
        "TAME116", ("nll_loss_forward", "nll_loss2d_forward"), lambda call: False,
        lambda a: bool((a["target"] < 0).all()),
        "cross-entropy with every target ignored", "loss NaN, gradient 0", "a mean over nothing is not defined",
        "skip such batches, or reduction='sum' divided by max(count, 1)",
    ),
    Trap(
        "TAME117", ("mean",), lambda call: call.size("self") > 0, lambda a: a["self"].numel() == 0,
        "the mean of an empty selection", "NaN", "a mean over nothing is not defined",
        "x[mask].sum() / mask.sum().clamp(min=1)",
    ),
)  # fmt: skip

BY_OPERATOR: dict[str, tuple[Trap, ...]] = {
    operator: tuple(trap for trap in TRAPS if operator in trap.operators)
    for operator in {operator for trap in TRAPS for operator in trap.operators}
}
# said only where it happens at the values given (masks and targets do not move with theta), or in the place that the
# text names
ONLY_WHEN_HIT = frozenset({"TAME113", "TAME116"})
ONLY_INSIDE_WHERE = frozenset({"TAME115"})
