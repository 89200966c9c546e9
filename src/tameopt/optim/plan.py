"""What one `step()` has to touch, laid out once and reused until something moves.

A *unit* is one parameter with its gradient and states. Units that run the same kernel (same rule, same flags, same
dtypes, same device) form a *bucket*; an engine runs a bucket at a time. The scalars that torch keeps for each
parameter (`step`, NAdam's `mu_product`, ...) live in one array a bucket, and the 0-d tensors in the optimizer's
state are views of it, so counting a step costs one addition however many parameters there are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tameopt.optim.rule import Numbers, Options, Rule, coefficients_of

FlagItems = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Signature:
    """What selects a kernel. Two parameters with one signature share a launch.

    theta, g: dtypes (real ones: a complex parameter is its pair of reals); states: (name, dtype) of each;
    flags: the rule's choices; device: where they live; plain: whether gradients can be taken as they come (real,
    whole tensors); dense: whether parameters and states fill their memory in one
    order; sparse: whether the gradients are sparse; differentiable: whether autograd follows the step.
    """

    rule: Rule
    flags: FlagItems
    device: torch.device
    theta: torch.dtype
    g: torch.dtype
    states: tuple[tuple[str, torch.dtype], ...]
    plain: bool = True
    dense: bool = True
    sparse: bool = False
    differentiable: bool = False

    @property
    def compute(self) -> torch.dtype:
        """The dtype of the arithmetic: float64 for float64 parameters, else float32."""
        return torch.float64 if self.theta == torch.float64 else torch.float32


@dataclass
class Unit:
    """One parameter: where it stands in the optimizer, and its tensors as dense local real ones.

    index: position among all parameters; group: of which parameter group; theta and states share memory with the
    parameter and its state.
    """

    index: int
    group: int
    parameter: torch.Tensor
    theta: torch.Tensor
    states: tuple[torch.Tensor, ...]
    owned: tuple[torch.Tensor, ...]  # the tensors in optimizer.state, to notice when somebody replaces one
    kept: dict[str, torch.Tensor]  # optimizer.state of the parameter


@dataclass(frozen=True)
class Choice:
    """Which engine runs a bucket, and why not the others.

    engine: its name; reasons: (engine, why it does not run this bucket) of those passed over.
    """

    engine: str
    reasons: tuple[tuple[str, str], ...]


@dataclass
class Bucket:
    """Units of one signature, and the scalars of all of them.

    scalars: name -> (n,) array whose memory the optimizer's 0-d state tensors share; first: (n,) whether the unit
    has yet to take its first step.
    """

    signature: Signature
    units: list[Unit]
    scalars: dict[str, np.ndarray[Any, Any]]
    first: np.ndarray[Any, Any]
    groups: np.ndarray[Any, Any]
    choice: Choice
    cache: dict[str, Any] = field(default_factory=dict)  # what an engine lays out once (pointer tables)

    @functools.cached_property
    def indices(self) -> list[int]:
        """Position of each unit among all parameters."""
        return [unit.index for unit in self.units]

    def _stored(self, value: float) -> float:
        return float(next(iter(self.scalars.values())).dtype.type(value))

    def advance(
        self, options: Sequence[Options], present: np.ndarray[Any, Any] | None
    ) -> tuple[list[Numbers], np.ndarray[Any, Any]]:
        """Count a step and return its coefficients.

        options: one per parameter group; present: (n,) bool, None when every unit has a gradient.
        Returns (rows, row_of): row_of is (n,) int64, -1 for a unit without a gradient.
        """
        n = len(self.units)
        names = list(self.scalars)
        columns = [self.groups.astype(np.float64), self.first.astype(np.float64)]
        columns += [self.scalars[name].astype(np.float64) for name in names]
        alike = present is None and all((column == column[0]).all() for column in columns)
        if alike:
            keys, inverse = np.stack([column[:1] for column in columns], axis=1), np.zeros(n, dtype=np.int64)
        else:
            here = np.arange(n) if present is None else np.flatnonzero(present)
            keys, found = np.unique(np.stack([c[here] for c in columns], axis=1), axis=0, return_inverse=True)
            inverse = np.full(n, -1, dtype=np.int64)
            inverse[here] = found.reshape(-1)
        rows = []
        for number, key in enumerate(keys):
            scalars = {"first": key[1], "stored": self._stored, **dict(zip(names, key[2:].tolist(), strict=True))}
            scalars["step"] = scalars.get("step", 0.0) + 1.0
            row, moved = coefficients_of(self.signature.rule, options[int(key[0])], scalars)
            moved = {**moved, "step": scalars["step"]}
            chosen = slice(None) if alike else inverse == number
            for name in names:
                self.scalars[name][chosen] = moved[name]
            rows.append(row)
        if present is None:
            self.first[:] = False
        else:
            self.first[present] = False
        return rows, inverse


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as the engines see it: the local shard of a DTensor, a complex tensor as pairs of reals."""
    to_local = getattr(tensor, "to_local", None)  # DTensor's; torch.distributed need not be imported to ask
    local = to_local() if to_local is not None else tensor
    return torch.view_as_real(local) if local.is_complex() else local


def dense(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with the zeros that a sparse layout leaves out."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def options_as_numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group's hyperparameters with one-element tensors read as floats."""
    return {
        name: _number(value) if isinstance(value, torch.Tensor | tuple | list) else value
        for name, value in group.items()
        if name not in ("params", "param_names")
    }


def _number(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    return type(value)(_number(v) if isinstance(v, torch.Tensor) else v for v in value)
