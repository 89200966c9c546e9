"""The cheap-gradient principle on a person's model: a gradient costs a small multiple of a value.

In operations the multiple is at most about 5 for any program of elementary functions (Baur and Strassen 1983;
Griewank and Walther 2008); memory is what reverse mode pays with, as it keeps the intermediate values.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tameopt.noise._display import HtmlText
from tameopt.problem import Problem


@dataclass(frozen=True)
class CheapGradient(HtmlText):
    """The cost of a gradient against that of a value.

    time_ratio, time_quartiles: median and quartiles of seconds(gradient) / seconds(value), both over the whole data.
    value_seconds: median. flop_ratio: of the operations in matrix products and convolutions (None when the model has
    none). saved_bytes: what the backward pass keeps, for one batch; input_bytes: that batch and the parameters.
    """

    time_ratio: float
    time_quartiles: tuple[float, float]
    value_seconds: float
    flop_ratio: float | None
    saved_bytes: int
    input_bytes: int
    repeats: int

    @property
    def memory_ratio(self) -> float:
        """Bytes kept for the backward pass over the bytes that go in."""
        return self.saved_bytes / max(1, self.input_bytes)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "time_quartiles": list(self.time_quartiles), "memory_ratio": self.memory_ratio}

    def __repr__(self) -> str:
        low, high = self.time_quartiles
        flops = "" if self.flop_ratio is None else f", {self.flop_ratio:.2f} in operations"
        spent = f"{self.time_ratio:.2f} values [{low:.2f}, {high:.2f}] in time{flops}"
        return f"CheapGradient(a gradient costs {spent}, keeps {self.saved_bytes / 1e6:.3g} MB)"


def cheap_gradient(problem: Problem, theta: torch.Tensor | None = None, repeats: int = 9) -> CheapGradient:
    """Measure the ratio in time, operations and memory at theta: (d,); costs repeats + 2 values and gradients.

    Raises ValueError when repeats < 3.
    """
    if repeats < 3:
        raise ValueError(f"repeats must be at least 3 for quartiles, got {repeats}.")
    at = problem.theta if theta is None else theta.to(problem.device, problem.dtype)
    problem.value(at)
    problem.gradient(at)
    values, gradients = [], []
    for _ in range(repeats):
        # alternately, so that a slow moment of the machine meets both
        values.append(_seconds(lambda: problem.value(at), problem.device))
        gradients.append(_seconds(lambda: problem.gradient(at), problem.device))
    ratios = sorted(gradient / value for gradient, value in zip(gradients, values, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    forward, both = _flops(lambda: problem.value(at)), _flops(lambda: problem.gradient(at))
    saved, given = _memory(problem, at)
    return CheapGradient(
        statistics.median(ratios),
        (low, high),
        statistics.median(values),
        both / forward if forward else None,
        saved,
        given,
        repeats,
    )


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - begun, 1e-9)


def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _memory(problem: Problem, theta: torch.Tensor) -> tuple[int, int]:
    """(bytes of distinct tensors kept for the backward pass of one batch, bytes of the batch and theta)."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(iter(problem.batches)) if not problem.is_function else None
    leaves = {key: view.detach().requires_grad_() for key, view in problem.unflatten(theta).items()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = problem.batch_output(leaves, batch)
        output.sum().backward()
    given = theta.nbytes
    if batch is not None:
        from tameopt.batches import tensors_of

        given += sum(tensor.nbytes for tensor in tensors_of(batch))
    return sum(kept.values()), given
