"""ReLU and max-pooling with the derivative that a person chooses at their kinks; no model is changed.

Inside `with ChosenDerivative(choice):` every relu and max_pool2d that PyTorch is asked for (layers, functions and
methods alike) computes the same values, and another element where autodiff has to choose one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import fold, pad, unfold
from torch.overrides import TorchFunctionMode

RELU, MAX_POOL = ("relu", "relu_"), ("max_pool2d", "max_pool2d_with_indices")


@dataclass(frozen=True)
class Choice:
    """What autodiff does at a kink.

    relu: the number used for ReLU'(0). operator: "multiply", as the chain rule does, or "set": the gradient at an
        input 0 *becomes* that number whatever comes from above, as in the published code of Bertoin et al. (2021).
    max_pool: which of equal entries gets the gradient: "first" (PyTorch), "last", or "mean" (all, equally).
    """

    relu: float = 0.0
    operator: Literal["multiply", "set"] = "multiply"
    max_pool: Literal["first", "last", "mean"] = "first"

    def __post_init__(self) -> None:
        if not math.isfinite(self.relu):
            raise ValueError(f"relu must be a finite number, got {self.relu}: it is the value of ReLU'(0).")
        if self.operator not in ("multiply", "set"):
            raise ValueError(f"operator must be 'multiply' or 'set', got {self.operator!r}.")
        if self.max_pool not in ("first", "last", "mean"):
            raise ValueError(f"max_pool must be 'first', 'last' or 'mean', got {self.max_pool!r}.")

    @property
    def label(self) -> str:
        """The choice in words, without what is PyTorch's own."""
        words = [] if self.max_pool == "first" else [f"max-pool ties: {self.max_pool}"]
        if self.relu or self.operator == "set":
            words.insert(0, f"ReLU'(0) = {self.relu:g}" + (" (set)" if self.operator == "set" else ""))
        return ", ".join(words) or "as PyTorch"


class ChosenDerivative(TorchFunctionMode):
    """A context in which relu and max_pool2d use a `Choice`.

    entries, active: the scalars that passed through relu, and those exactly 0; windows, ties: the windows of
    max-pooling, and those with several largest entries, not all of them 0 (where relu has already decided). Counted
    over all calls inside the context.

    max_pool2d with ceil_mode, or asked for its indices, raises ValueError. ReLUs written by other operators (clamp,
    maximum, where) are left as they are.

    >>> x = torch.zeros(2, requires_grad=True)
    >>> with ChosenDerivative(Choice(relu=0.5)) as counted:
    ...     torch.relu(x).sum().backward()
    >>> x.grad, counted.active
    (tensor([0.5000, 0.5000]), 2)
    """

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self.entries = self.active = self.windows = self.ties = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in RELU:
            return self._relu(args[0], inplace=True) if name == "relu_" else self._relu(*args, **kwargs)
        # torch.nn.functional.max_pool2d is a dispatcher that carries another name
        if name in MAX_POOL or func is torch.nn.functional.max_pool2d:
            return self._max_pool(*args, **kwargs)
        return func(*args, **kwargs)

    def _relu(self, input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        at = input.detach() == 0
        self.entries += at.numel()
        self.active += int(at.sum())
        result: torch.Tensor = _Relu.apply(input, self.choice.relu, self.choice.operator == "set")
        return input.copy_(result) if inplace else result

    def _max_pool(
        self,
        input: torch.Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> torch.Tensor:
        if ceil_mode or return_indices:
            raise ValueError(
                "max_pool2d must be without ceil_mode and return_indices here, got one of them: its ties cannot be "
                "chosen. Pad the input instead."
            )
        size, pads, spread = _pair(kernel_size), _pair(padding), _pair(dilation)
        steps = _pair(stride) if stride not in (None, [], ()) else size
        if input.ndim not in (3, 4):
            raise ValueError(f"max_pool2d needs (channels, height, width) or a batch of it, got {input.ndim} axes.")
        images = input.reshape(-1, 1, *input.shape[-2:])
        padded = pad(images, (pads[1], pads[1], pads[0], pads[0]), value=-math.inf)
        windows = _Windows.apply(padded, size, steps, spread)
        values, counts = _Largest.apply(windows, self.choice.max_pool)
        self.windows += values.numel()
        self.ties += int(((counts > 1) & (values.detach() != 0)).sum())
        shape = [
            (length - reach * (width - 1) - 1) // step + 1
            for length, width, step, reach in zip(padded.shape[-2:], size, steps, spread, strict=True)
        ]
        return values.reshape(*input.shape[:-2], *shape)


def _pair(number: Any) -> tuple[int, int]:
    first, last = (number, number) if isinstance(number, int) else (number[0], number[-1])
    return int(first), int(last)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: float, sets: bool) -> torch.Tensor:
        ctx.save_for_backward(x > 0, x == 0)
        ctx.slope, ctx.sets = slope, sets
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        positive, zero = ctx.saved_tensors
        at_kink = torch.full_like(grad, ctx.slope) if ctx.sets else ctx.slope * grad
        return torch.where(positive, grad, torch.where(zero, at_kink, 0.0)), None, None


class _Windows(torch.autograd.Function):
    """(images, 1, height, width) -> (images, entries of a window, windows); its adjoint adds up."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, size: tuple[int, int], steps: tuple[int, int], spread: tuple[int, int]
    ) -> torch.Tensor:
        ctx.shape, ctx.window = x.shape[-2:], {"kernel_size": size, "stride": steps, "dilation": spread}
        return unfold(x, **ctx.window)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return fold(grad, ctx.shape, **ctx.window), None, None, None


class _Largest(torch.autograd.Function):
    """The largest entry of each window and how many entries attain it."""

    @staticmethod
    def forward(ctx: Any, windows: torch.Tensor, choice: str) -> tuple[torch.Tensor, torch.Tensor]:
        values = windows.amax(1)
        equal = windows == values.unsqueeze(1)
        counts = equal.sum(1)
        ctx.save_for_backward(equal, counts)
        ctx.choice, ctx.dtype = choice, windows.dtype
        ctx.mark_non_differentiable(counts)
        return values, counts

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        equal, counts = ctx.saved_tensors
        if ctx.choice == "mean":
            return torch.where(equal, (grad / counts.to(grad.dtype)).unsqueeze(1), 0.0), None
        ranks = equal.cumsum(1)
        wanted = 1 if ctx.choice == "first" else counts.unsqueeze(1)
        return torch.where(equal & (ranks == wanted), grad.unsqueeze(1), 0.0), None
