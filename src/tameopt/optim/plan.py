"""What one `step()` has to touch, laid out once and reused until something moves.

A *unit* is one parameter with its gradient and states. Units that run the same kernel (same rule, same flags, same
dtypes, same device) form a *bucket*; an engine runs a bucket at a time. The scalars that torch keeps for each
parameter (`step`, NAdam's `mu_product`, ...) live in one array a bucket, and the 0-d tensors in the optimizer's
state are views of it, so counting a step costs one addition however many parameters there are. The array lies where
the bucket's engine folds coefficients: on the host, or beside the parameters.
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


@dataclass(frozen=True)
class Inputs:
    """What one step brings besides gradients.

    options: one a parameter group; given: numbers of this step, each one for all or one a unit (n,), floats or
    tensors; shared_count: whether a unit without a gradient counts the step; found_inf: 0-d or one-element tensor on
    the parameters' device, the step is not to be made where it is not 0; None: make it.
    """

    options: Sequence[Options]
    given: Mapping[str, float | torch.Tensor]
    shared_count: bool = False
    found_inf: torch.Tensor | None = None


@dataclass
class Bucket:
    """Units of one signature, and the scalars of all of them.

    counts: name -> (n,) tensor, whose elements the optimizer's 0-d state tensors are; first: (n,) 1.0 while the unit
    has yet to take its first step, else 0.0.
    """

    signature: Signature
    units: list[Unit]
    counts: dict[str, torch.Tensor]
    first: torch.Tensor
    groups: np.ndarray[Any, Any]
    choice: Choice
    cache: dict[str, Any] = field(default_factory=dict)  # what an engine lays out once (pointer tables)

    @functools.cached_property
    def indices(self) -> np.ndarray[Any, Any]:
        """Position of each unit among all parameters."""
        return np.array([unit.index for unit in self.units], dtype=np.int64)

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """The counts and `first` as arrays that share their memory (on the host only)."""
        return {"first": self.first.numpy(), **{name: each.numpy() for name, each in self.counts.items()}}

    def _stored(self, value: float) -> float:
        return float(next(iter(self.counts.values())).numpy().dtype.type(value))

    def advance(
        self, present: np.ndarray[Any, Any] | None, inputs: Inputs, in_step: bool = False
    ) -> tuple[list[Numbers], np.ndarray[Any, Any]]:
        """Count a step on the host and return its coefficients.

        present: (n,) bool, None when every unit has a gradient; in_step: whether the counts are known to be the same
        for all units. Returns (rows, row_of): row_of is (n,) int64, -1 for a unit without a gradient, and `together`
        itself where all take the one row.
        """
        n = len(self.units)
        given = {name: _on_host(value) for name, value in inputs.given.items()}
        columns = {"group": self.groups, **self.columns, **given}
        asked = given if in_step and self.one_group else columns
        if present is None and all(map(_alike, asked.values())):  # what nearly every step is
            key = [float(c.flat[0]) if isinstance(c, np.ndarray) else c for c in columns.values()]
            row, kept = self._coefficients(dict(zip(columns, key, strict=True)), inputs.options)
            for name, array in self.columns.items():
                array.fill(kept[name])
            return [row], self.together
        table = np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), (n,)) for c in columns.values()], axis=1)
        here = np.arange(n) if present is None or inputs.shared_count else np.flatnonzero(present)
        keys, found = np.unique(table[here], axis=0, return_inverse=True)
        row_of = np.full(n, -1, dtype=np.int64)
        row_of[here] = found.reshape(-1)
        rows = []
        for number, key in enumerate(keys):
            row, kept = self._coefficients(dict(zip(columns, key.tolist(), strict=True)), inputs.options)
            for name, array in self.columns.items():
                chosen = row_of == number
                array[chosen if name != "first" or present is None else chosen & present] = kept[name]
            rows.append(row)
        if present is not None:
            row_of[~present] = -1
        return rows, row_of

    @functools.cached_property
    def one_group(self) -> bool:
        """Whether all units belong to one parameter group."""
        return _alike(self.groups)

    @functools.cached_property
    def together(self) -> np.ndarray[Any, Any]:
        """(n,) zeros: every unit takes the first row of coefficients."""
        return np.zeros(len(self.units), dtype=np.int64)

    @functools.cached_property
    def places(self) -> torch.Tensor:
        """`indices` as numbers for a rule, where the counts are."""
        return torch.from_numpy(self.indices).to(dtype=torch.float64, device=self.first.device)

    def _coefficients(self, s: dict[str, Any], options: Sequence[Options]) -> tuple[Numbers, Numbers]:
        """The coefficients where the columns are as in s, and the columns after the step."""
        group = options[int(s.pop("group"))]
        s["step"] = s.get("step", 0.0) + 1.0
        row, moved = coefficients_of(self.signature.rule, group, {**s, "stored": self._stored})
        return row, {**moved, "step": s["step"], "first": 0.0}


def _on_host(value: float | torch.Tensor) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.item() if value.dim() == 0 else value.cpu().numpy()


def _alike(column: Any) -> bool:
    return not isinstance(column, np.ndarray) or column.size == 1 or bool((column == column.flat[0]).all())


def summed_over_shards(bucket: Bucket, squares: torch.Tensor) -> torch.Tensor:
    """Squared norms (n,) of local shards added up over the ranks that hold the others."""
    if bucket.signature.plain:
        return squares
    sharded: dict[Any, list[int]] = {}
    for place, unit in enumerate(bucket.units):
        mesh = getattr(unit.parameter, "device_mesh", None)
        if mesh is not None:
            axes = tuple(axis for axis, kind in enumerate(unit.parameter.placements) if kind.is_shard())  # type: ignore[attr-defined]
            sharded.setdefault((mesh, axes), []).append(place)
    total = squares.clone()
    for (mesh, axes), places in sharded.items():
        part = squares[places].to(mesh.device_type)
        for axis in axes:
            torch.distributed.all_reduce(part, group=mesh.get_group(axis))
        total[places] = part.to(total.device)
    return total


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as the engines see it: the local shard of a DTensor, a complex tensor as pairs of reals."""
    to_local = getattr(tensor, "to_local", None)  # DTensor's; torch.distributed need not be imported to ask
    local = to_local() if to_local is not None else tensor
    return torch.view_as_real(local) if local.is_complex() else local


def dense(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with the zeros that a sparse layout leaves out."""
    return gradient.to_dense() if gradient.is_sparse else gradient


class Numbered(dict[str, Any]):
    """A parameter group's hyperparameters; one that is a tensor is read when it is asked for.

    A learning rate on a GPU stays there as long as nobody asks: `.item()` would wait for the device. `as_given` keeps
    what the group holds.
    """

    def __init__(self, group: Mapping[str, Any]) -> None:
        self.as_given = group
        tensors = (torch.Tensor, tuple, list)
        super().__init__(
            (name, value)
            for name, value in group.items()
            if name not in ("params", "param_names") and not isinstance(value, tensors)
        )

    def __missing__(self, name: str) -> Any:
        return _number(self.as_given[name])


def _number(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    return type(value)(_number(v) if isinstance(v, torch.Tensor) else v for v in value)


def numbers_of(values: Sequence[Any]) -> list[float]:
    """Numbers and 0-d tensors as floats, with one transfer from each device."""
    found = [value if isinstance(value, torch.Tensor) else float(value) for value in values]
    devices = {v.device for v in found if isinstance(v, torch.Tensor)}
    for device in devices:
        places = [place for place, v in enumerate(found) if isinstance(v, torch.Tensor) and v.device == device]
        numbers = torch.stack([found[place].to(torch.float64).reshape(()) for place in places]).tolist()  # type: ignore[union-attr]
        for place, number in zip(places, numbers, strict=True):
            found[place] = number
    return found  # type: ignore[return-value]
