"""What kind of function a person's loss is, found out by calling it.

`Problem` promises F(theta) = 1/n sum l_i(theta). A network in training mode with dropout or BatchNorm is no such
function, and a batch loss may be a mean, a sum, or neither. These probes say which, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tameopt.batches import Batch, doubled, rows, size_of, tensors_of

Reduction = Literal["mean", "sum", "none"]

_PROBE_SAMPLES = 16  # our choice: enough to tell a mean from a sum, cheap for any model


class NotDeterministicError(ValueError):
    """The loss of the same parameters and batch is not one number."""


def random_modules(model: nn.Module) -> list[str]:
    """Names of the modules that draw random numbers in their present mode (dropout and its relatives)."""
    found = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        rate = getattr(module, "p", getattr(module, "drop_prob", getattr(module, "dropout", None)))
        drops = any(word in kind.lower() for word in ("dropout", "droppath", "stochasticdepth"))
        recurrent = isinstance(module, nn.RNNBase)
        if module.training and (drops or recurrent) and (not isinstance(rate, (int, float)) or rate > 0):
            found.append(f"{name or '(the model itself)'} ({kind})")
    return found


def batch_coupled_modules(model: nn.Module) -> list[str]:
    """Names of the modules whose output for one sample depends on the batch: BatchNorm with batch statistics."""
    return [
        f"{name or '(the model itself)'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]


_REMEDY = (
    "pass mode='eval' to analyse the network as it predicts, or put the model in eval mode yourself; "
    "training itself may go on in training mode."
)


def check_deterministic(model: nn.Module, evaluate: Callable[[Batch], torch.Tensor], batch: Batch) -> None:
    """Evaluate the same batch twice; the global random state is left as it was.

    Raises NotDeterministicError naming the modules at fault.
    """
    coupled = batch_coupled_modules(model)
    if coupled:
        raise NotDeterministicError(
            "F must be a sum over samples, but these modules use batch statistics, so that a sample's loss "
            f"depends on its batch: {', '.join(coupled[:5])}{' …' if len(coupled) > 5 else ''}; {_REMEDY}"
        )
    with torch.random.fork_rng(), torch.no_grad():
        first, second = evaluate(batch), evaluate(batch)
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        raise ValueError(f"the loss must return a tensor, got {type(first).__name__}: return it without .item().")
    if not torch.equal(torch.nan_to_num(first), torch.nan_to_num(second)):
        drawn = random_modules(model)
        names = ", ".join(drawn[:5]) + (" …" if len(drawn) > 5 else "")
        cause = (
            f"these modules draw random numbers: {names}"
            if drawn
            else (
                "no dropout module was found, so the forward pass itself, a noisy operator or a stateful module "
                "makes it so"
            )
        )
        raise NotDeterministicError(
            "F must be one number for one theta, but two evaluations of the same batch gave "
            f"{first.double().mean().item():.6g} and {second.double().mean().item():.6g}; {cause}: {_REMEDY}"
        )


def _close(left: float, right: float, scale: float, tolerance: float) -> bool:
    return abs(left - right) <= tolerance * max(abs(scale), 1e-12)


def check_reduction(evaluate: Callable[[Batch], torch.Tensor], batch: Batch, declared: Reduction) -> Reduction:
    """What the loss returns for a batch: the mean or the sum over its samples, or one loss a sample.

    evaluate: batch -> the raw output of the loss. declared: what the person said; a loss that returns one number
    a sample is always "none".

    Raises ValueError when the output is neither a scalar nor (b,), or contradicts `declared`.
    """
    with torch.no_grad():
        value = evaluate(batch)
        b = size_of(batch)
        if value.ndim == 1 and value.shape[0] == b and b > 1:
            return "none"
        if value.ndim == 1 and value.shape[0] == 1 and b == 1:
            return declared if declared != "none" else "none"
        if value.ndim != 0:
            raise ValueError(
                "the loss must return a scalar or one number a sample, shape () or "
                f"({b},), got {tuple(value.shape)}: average over the other dimensions."
            )
        once = float(value.double())
        twice = float(evaluate(doubled(batch)).double())
        # sums over at most 32 samples err by some tens of units in the last place, 1e-6 relatively in float32
        tolerance = {torch.float64: 1e-9, torch.float32: 2e-5}.get(value.dtype, 3e-2)
        if once == 0.0 or once != once or abs(once) == float("inf"):
            return "mean" if declared == "none" else declared
        is_mean, is_sum = _close(twice, once, once, tolerance), _close(twice, 2 * once, once, tolerance)
        if is_mean and is_sum:  # a loss of nothing but rounding, at an interpolating theta
            return "mean" if declared == "none" else declared
        if not is_mean and not is_sum:
            raise ValueError(
                f"the loss of a batch must be the mean or the sum over its samples, but doubling the batch "
                f"took it from {once:.6g} to {twice:.6g}: return one loss a sample (shape ({b},)), or use "
                "Problem.from_function if samples are coupled."
            )
        found: Reduction = "mean" if is_mean else "sum"
        if declared != found:
            raise ValueError(
                f"reduction={declared!r} was declared, but doubling a batch took the loss from {once:.6g} "
                f"to {twice:.6g}, so the loss returns the {found}: pass reduction={found!r}, or change the "
                "loss."
            )
        for cut in sorted({1, b // 3, b // 2} - {0, b}):
            left = float(evaluate(rows(batch, slice(0, cut))).double())
            right = float(evaluate(rows(batch, slice(cut, b))).double())
            parts = (cut * left + (b - cut) * right) / b if found == "mean" else left + right
            if not _close(parts, once, abs(left) + abs(right), tolerance):
                raise ValueError(
                    f"the loss of a batch must be the {found} of its samples' losses, but {b} samples gave "
                    f"{once:.6g} and its two parts together {parts:.6g} (class weights or ignore_index with "
                    "reduction='mean' do that): return one loss a sample (reduction='none')."
                )
        return found


def probe(
    model: nn.Module, evaluate: Callable[[Batch], torch.Tensor], batch: Batch, declared: Reduction
) -> Reduction:
    """The reduction of a loss, after the checks that it runs and is deterministic, on a few samples of a batch.

    Raises ValueError naming the shapes when it does not run; NotDeterministicError and ValueError as the checks do.
    """
    batch = rows(batch, slice(0, min(_PROBE_SAMPLES, size_of(batch))))
    shapes = [tuple(tensor.shape) for tensor in tensors_of(batch)]
    try:
        with torch.random.fork_rng(), torch.no_grad():
            evaluate(batch)
    except Exception as error:
        raise ValueError(
            f"the model and loss must run on the data, but a batch of shapes {shapes} raised "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    check_deterministic(model, evaluate, batch)
    return check_reduction(evaluate, batch, declared)


def require_a_function(F: Callable[[torch.Tensor], torch.Tensor], theta0: torch.Tensor) -> None:
    """Raises ValueError unless F(theta0) is a scalar tensor, NotDeterministicError when not the same twice."""
    with torch.no_grad():
        value, again = F(theta0), F(theta0)
    if not isinstance(value, torch.Tensor) or value.ndim != 0:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"F must return a scalar tensor, got {shape}.")
    if not torch.equal(torch.nan_to_num(value), torch.nan_to_num(again)):
        raise NotDeterministicError(
            f"F must be one number for one theta, but two evaluations gave {float(value):g} and {float(again):g}: "
            "draw its random numbers once, outside of F."
        )
