"""What the triton engine keeps on the device from step to step, and how little of it is sent again.

Everything here may run while a CUDA graph is captured: nothing waits for the device, and what the host sends is
either the argument of a launch or copied from memory that outlives the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tameopt.optim.fold import Fold, option
from tameopt.optim.plan import Bucket, Inputs
from tameopt.optim.step_layout import Gradients, laid_out_alike

# Measured on an H100 for tables of many tensors: 4096-element chunks with 8 warps reach the copy bandwidth.
BLOCK = 4096
_ANYWHERE = 16  # stands for the address of a gradient without elements, where 0 would say that there is none


def capturing(device: torch.device) -> bool:
    """Whether the current stream is being captured into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _sent(values: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """A copy on the device, without waiting for it: pinned memory is released only when the copy is done."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.clone()


@dataclass
class Chunks:
    """Where the elements lie, in pieces of at most BLOCK.

    addresses: (roles, n), the second row the gradients', 0 where there is none; tensors, starts, lengths: (chunks,);
    begins: (n + 1,) the first chunk of each unit; empty: the units without elements; sent: the gradients' addresses
    as they are on the device.
    """

    device: torch.device
    addresses: torch.Tensor
    tensors: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    begins: torch.Tensor
    count: int
    empty: list[int]
    rest_aligned: bool
    aligned: bool = False
    sent: np.ndarray[Any, Any] | None = None
    spare: torch.Tensor | None = None
    captured: list[torch.Tensor] = field(default_factory=list)

    @staticmethod
    def of(bucket: Bucket) -> Chunks:
        """The table of a bucket, its gradients yet to be sent."""
        units, device = bucket.units, bucket.signature.device
        host = np.zeros((2 + len(bucket.signature.states), len(units)), dtype=np.int64)
        host[0] = [unit.theta.data_ptr() for unit in units]
        for place in range(len(bucket.signature.states)):
            host[2 + place] = [unit.states[place].data_ptr() for unit in units]
        sizes = np.array([unit.theta.numel() for unit in units], dtype=np.int64)
        begins = np.concatenate([[0], np.cumsum(-(-sizes // BLOCK))])
        tensors = np.repeat(np.arange(len(units)), np.diff(begins))
        starts = (np.arange(len(tensors)) - begins[tensors]) * BLOCK
        lengths = np.minimum(BLOCK, sizes[tensors] - starts)
        return Chunks(
            device,
            _sent(host, device),
            _sent(tensors.astype(np.int32), device),
            _sent(starts.astype(np.int64), device),
            _sent(lengths.astype(np.int32), device),
            _sent(begins.astype(np.int32), device),
            len(tensors),
            np.flatnonzero(sizes == 0).tolist(),
            not (host % 16).any(),
        )

    def send(self, bucket: Bucket, gradients: Gradients) -> list[torch.Tensor]:
        """Put this step's gradients into the table. Returns the copies of gradients laid out otherwise."""
        addresses, copies = laid_out_alike(bucket, gradients)
        if self.empty:
            addresses = addresses.copy()
            there = True if gradients.present is None else gradients.present[self.empty]
            addresses[self.empty] = np.where(there, _ANYWHERE, 0)
        if capturing(self.device):
            self._capture(addresses)
        elif self.sent is None or not np.array_equal(addresses, self.sent):
            self.sent = addresses.copy()
            self.aligned = self.rest_aligned and not (addresses % 16).any()
            self.addresses[1].copy_(_sent(self.sent, self.device))
        if self.spare is None and self.device.type == "cuda" and not capturing(self.device):
            self.spare = torch.empty(len(addresses), dtype=torch.int64, pin_memory=True)
        return copies

    def _capture(self, addresses: np.ndarray[Any, Any]) -> None:
        """Make sending these addresses part of the graph: steps outside it may write others over them.

        The memory that the graph copies from was taken at a step before the capture, since none can be taken now, and
        is kept for as long as the optimizer keeps its layout. A second look at the same gradients (a norm, then the
        step) finds them there.
        """
        if self.captured and self.spare is None and np.array_equal(self.captured[-1].numpy(), addresses):
            return
        if self.spare is None:
            raise RuntimeError(
                "a second step in one CUDA graph needs memory that cannot be taken during the capture: capture one "
                "step a graph, and make a step outside between two captures."
            )
        self.spare.numpy()[:] = addresses
        self.aligned = self.rest_aligned and not (addresses % 16).any()
        self.addresses[1].copy_(self.spare, non_blocking=True)
        self.captured.append(self.spare)
        self.spare, self.sent = None, None


@dataclass
class Coefficients:
    """What a bucket's coefficients are folded from, and they themselves.

    groups: (n,) parameter group of each unit; options: (groups, hyperparameters); counts: (kinds, n), of which the
    0-d tensors in the optimizer's state are elements; given: (numbers, n) of this step; folded: (n, coefficients).
    """

    folding: Fold
    groups: torch.Tensor
    options: torch.Tensor
    counts: torch.Tensor
    given_names: tuple[str, ...]
    given: torch.Tensor
    folded: torch.Tensor
    no_skip: torch.Tensor
    sent_options: list[list[float | None]]
    sent_given: dict[str, float | None] = field(default_factory=dict)

    @staticmethod
    def of(bucket: Bucket, folding: Fold, groups: int) -> Coefficients:
        """The tables of a bucket; its counts move into one of them."""
        units, device, names = bucket.units, bucket.signature.device, tuple(bucket.counts)
        if names:
            counts = torch.stack(list(bucket.counts.values()))
        else:
            counts = torch.zeros((1, len(units)), device=device)
        for row, name in zip(counts, names, strict=False):
            bucket.counts[name] = row
            for unit, element in zip(units, row.unbind(), strict=True):
                unit.kept[name] = element
        given_names = tuple(name for name in folding.scalars if name not in (*names, "first"))
        double = {"dtype": torch.float64, "device": device}
        return Coefficients(
            folding,
            _sent(bucket.groups.astype(np.int32), device),
            torch.zeros((groups, max(1, len(folding.options))), **double),  # type: ignore[call-overload]
            counts,
            given_names,
            torch.zeros((max(1, len(given_names)), len(units)), **double),  # type: ignore[call-overload]
            torch.zeros(
                (len(units), max(1, len(folding.coefficients))), dtype=bucket.signature.compute, device=device
            ),
            torch.zeros(1, device=device, dtype=torch.float32),
            [[None] * len(folding.options) for _ in range(groups)],
        )

    def send(self, inputs: Inputs) -> None:
        """Write the numbers that changed; one that is a tensor on the device is copied there, unread.

        `fill_` is a launch whose argument is the number, so it may be captured.
        """
        for options, sent, row in zip(inputs.options, self.sent_options, self.options, strict=True):
            group = getattr(options, "as_given", options)
            for place, name in enumerate(self.folding.options):
                value = option(group, name)
                if isinstance(value, torch.Tensor) and value.device == row.device:
                    row[place].copy_(value.detach().reshape(()))
                    sent[place] = None
                elif (number := float(value)) != sent[place]:
                    row[place].fill_(number)
                    sent[place] = number
        for row, name in zip(self.given, self.given_names, strict=False):
            given = inputs.given[name]
            if isinstance(given, torch.Tensor):
                row.copy_(given, non_blocking=True)
                self.sent_given[name] = None
            elif given != self.sent_given.get(name):
                row.fill_(given)
                self.sent_given[name] = given
