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
        self,
        options: Sequence[Options],
        present: np.ndarray[Any, Any] | None,
        given: Mapping[str, Any],
        shared_count: bool,
    ) -> tuple[list[Numbers], np.ndarray[Any, Any]]:
        """Count a step and return its coefficients.

        options: one per parameter group; present: (n,) bool, None when every unit has a gradient; given: numbers of
        this step, one for all or one a unit (n,); shared_count: whether a unit without a gradient counts the step.
        Returns (rows, row_of): row_of is (n,) int64, -1 for a unit without a gradient.
        """
        n = len(self.units)
        kept = list(self.scalars)
        columns = {"group": self.groups, "first": self.first, **{name: self.scalars[name] for name in kept}, **given}
        if present is None and all(_alike(column) for column in columns.values()):  # what nearly every step is
            key = [float(c.flat[0]) if isinstance(c, np.ndarray) else float(c) for c in columns.values()]
            s = dict(zip(columns, key, strict=True))
            s["step"] = s.get("step", 0.0) + 1.0
            row, moved = coefficients_of(
                self.signature.rule, options[int(s.pop("group"))], {**s, "stored": self._stored}
            )
            for name in kept:
                self.scalars[name].fill({**moved, "step": s["step"]}[name])
            self.first.fill(False)
            return [row], np.zeros(n, dtype=np.int64)
        table = np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), (n,)) for c in columns.values()], axis=1)
        here = np.arange(n) if present is None or shared_count else np.flatnonzero(present)
        keys, found = np.unique(table[here], axis=0, return_inverse=True)
        row_of = np.full(n, -1, dtype=np.int64)
        row_of[here] = found.reshape(-1)
        rows = []
        for number, key in enumerate(keys):
            s = dict(zip(columns, key.tolist(), strict=True))
            s["step"] = s.get("step", 0.0) + 1.0
            row, moved = coefficients_of(
                self.signature.rule, options[int(s.pop("group"))], {**s, "stored": self._stored}
            )
            chosen = row_of == number
            for name in kept:
                self.scalars[name][chosen] = {**moved, "step": s["step"]}[name]
            rows.append(row)
        if present is None:
            self.first[:] = False
        else:
            self.first[present] = False
            row_of[~present] = -1
        return rows, row_of


def _alike(column: Any) -> bool:
    return not isinstance(column, np.ndarray) or column.size == 1 or bool((column == column.flat[0]).all())


def summed_over_shards(bucket: Bucket, squares: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Squared norms of local shards added up over the ranks that hold the others."""
    if bucket.signature.plain:
        return squares
    sharded: dict[Any, list[int]] = {}
    for place, unit in enumerate(bucket.units):
        mesh = getattr(unit.parameter, "device_mesh", None)
        if mesh is not None:
            axes = tuple(axis for axis, kind in enumerate(unit.parameter.placements) if kind.is_shard())  # type: ignore[attr-defined]
            sharded.setdefault((mesh, axes), []).append(place)
    total = squares.copy()
    for (mesh, axes), places in sharded.items():
        part = torch.from_numpy(squares[places]).to(mesh.device_type)
        for axis in axes:
            torch.distributed.all_reduce(part, group=mesh.get_group(axis))
        total[places] = part.cpu().numpy()
    return total


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
