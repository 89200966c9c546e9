"""From a rule to a torch.optim.Optimizer: groups, state, checkpoints, hooks, and which engine runs what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypedDict, Unpack

import numpy as np
import torch

from tameopt.optim.engines import eager
from tameopt.optim.plan import Bucket, Signature, Unit, options_as_numbers, real_view
from tameopt.optim.rule import Rule, Scalar

Parameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]
Closure = Callable[[], Any]


class Extras(TypedDict, total=False):
    """What tameopt's optimizers take beyond torch's arguments.

    engine: "auto" (default), "eager", "cpu" or "triton".
    """

    engine: str


_ENGINES = ("auto", "eager")


class RuleOptimizer(torch.optim.Optimizer):
    """An update rule as a torch.optim.Optimizer.

    Subclasses set `rule` and check their hyperparameters; everything else is here. Swapping `torch.optim.X` for
    `tame.optim.X` keeps parameter groups, state_dict (both ways), schedulers, closures, hooks and GradScaler.
    """

    rule: ClassVar[Rule]

    def __init__(self, params: Parameters, defaults: dict[str, Any], **extras: Unpack[Extras]) -> None:
        self.extras = _checked(extras)
        self._buckets: list[Bucket] | None = None
        super().__init__(params, defaults)

    # -- the step ------------------------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:
        """One step of every parameter that has a gradient.

        closure: re-evaluates the model and returns the loss, as in torch. Returns its value, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable", False))):
            self._step()
        return loss

    def _step(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        options = [options_as_numbers(group) for group in self.param_groups]
        buckets = self._lay_out(parameters, gradients, options)
        for bucket in buckets:
            here = [gradients[unit.index] for unit in bucket.units]
            present = None
            if any(g is None for g in here):
                present = np.array([g is not None for g in here])
            rows, row_of = bucket.advance(options, present)
            local = [None if g is None else real_view(g) for g in here]
            eager.run(bucket, local, rows, row_of)

    def _lay_out(
        self, parameters: list[torch.Tensor], gradients: list[torch.Tensor | None], options: list[dict[str, Any]]
    ) -> list[Bucket]:
        group_of = [number for number, group in enumerate(self.param_groups) for _ in group["params"]]
        gathered: dict[Signature, list[tuple[Unit, bool]]] = {}
        for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if gradient is None:
                continue
            if gradient.is_sparse:
                raise RuntimeError(
                    f"{self.rule.name} needs dense gradients, parameter {self._name_of(index)} has a sparse one: "
                    "use SparseAdam, Adagrad or SGD, or build the embedding with sparse=False."
                )
            unit, first = self._unit(index, group_of[index], parameter, options[group_of[index]])
            signature = Signature(
                self.rule,
                tuple(self.rule.flags(options[group_of[index]]).items()),
                unit.theta.device,
                unit.theta.dtype,
                real_view(gradient).dtype,
                tuple((s.name, t.dtype) for s, t in zip(self._states(options[unit.group]), unit.states, strict=True)),
            )
            gathered.setdefault(signature, []).append((unit, first))
        return [self._bucket(signature, found) for signature, found in gathered.items()]

    def _states(self, options: Mapping[str, Any]) -> tuple[Any, ...]:
        return self.rule.states(options)

    def _unit(self, index: int, group: int, parameter: torch.Tensor, options: Mapping[str, Any]) -> tuple[Unit, bool]:
        """The unit of a parameter, its state made on first use; and whether it has yet to step."""
        specs = self._states(options)
        if not specs and not self.rule.counts_steps:
            return Unit(index, group, parameter, real_view(parameter.detach()), (), ()), True
        state = self.state[parameter]
        first = not state
        for spec in specs:
            if state.get(spec.name) is None:
                made = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                if spec.initial != 0.0:
                    real_view(made).fill_(spec.initial)
                state[spec.name] = made
                first = True
        owned = tuple(state[spec.name] for spec in self._states(options))
        return Unit(
            index, group, parameter, real_view(parameter.detach()), tuple(real_view(t) for t in owned), owned
        ), first

    def _bucket(self, signature: Signature, found: list[tuple[Unit, bool]]) -> Bucket:
        """A bucket whose scalars gather those of its units; their state tensors become views of one array."""
        units = [unit for unit, _ in found]
        specs = list(self.rule.scalars)
        if self.rule.counts_steps:
            specs.insert(0, Scalar("step", lambda _: 0.0))
        scalars: dict[str, np.ndarray[Any, Any]] = {}
        for spec in specs:
            table = torch.empty(
                len(units), dtype=torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
            )
            for place, unit in enumerate(units):
                state = self.state[unit.parameter]
                value = state.get(spec.name)
                table[place] = float(spec.initial(self.param_groups[unit.group]) if value is None else value)
                state[spec.name] = table[place]
            scalars[spec.name] = table.numpy()
        return Bucket(
            signature,
            units,
            scalars,
            np.array([first for _, first in found]),
            np.array([unit.group for unit in units], dtype=np.int64),
        )

    def _name_of(self, index: int) -> str:
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        return repr(names[index]) if names else f"number {index}"

    # -- construction and state --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "extras": self.extras}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buckets = None


def _checked(extras: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(extras) - set(Extras.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown argument {sorted(unknown)[0]!r}: beyond torch's arguments tameopt's optimizers take "
            f"{', '.join(Extras.__annotations__)}."
        )
    engine = extras.get("engine", "auto")
    if engine not in _ENGINES:
        raise ValueError(f"engine must be one of {', '.join(_ENGINES)}, got {engine!r}: choose one of these.")
    return dict(extras)
