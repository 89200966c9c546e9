"""From a rule to a torch.optim.Optimizer: groups, state, checkpoints, hooks, and which engine runs what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import numpy as np
import torch

from tameopt.optim import engines
from tameopt.optim.arguments import Closure, Extras, Parameters, checked_extras
from tameopt.optim.checkpoint import check_state, restore_dtypes
from tameopt.optim.explanation import Explanation, explain
from tameopt.optim.layout import is_dense, match_strides
from tameopt.optim.modifiers import Modifiers, modify
from tameopt.optim.plan import (
    Bucket,
    FlagItems,
    Signature,
    Unit,
    options_as_numbers,
    real_view,
    summed_over_shards,
)
from tameopt.optim.rule import Rule, Scalar, State
from tameopt.optim.step_layout import StepLayout, addresses_of, gradients_of, is_plain, still_holds

_Work = tuple[Bucket, list[torch.Tensor | None], np.ndarray[Any, Any] | None]


class RuleOptimizer(torch.optim.Optimizer):
    """An update rule as a torch.optim.Optimizer.

    Subclasses set `rule` and check their hyperparameters; everything else is here. Swapping `torch.optim.X` for
    `tame.optim.X` keeps parameter groups, state_dict (both ways), schedulers, closures, hooks and GradScaler.
    """

    rule: ClassVar[Rule]
    shared_count: ClassVar[bool] = False  # whether steps are counted for all parameters together

    def __init__(self, params: Parameters, defaults: dict[str, Any], **extras: Unpack[Extras]) -> None:
        self.extras = checked_extras(extras)
        self._layout: StepLayout | None = None
        if defaults.get("fused") and (defaults.get("foreach") or defaults.get("differentiable")):
            raise RuntimeError(
                "fused=True excludes foreach and differentiable: tameopt fuses by itself, leave all out."
            )
        if defaults.get("fused"):
            self._step_supports_amp_scaling = True  # torch's word to GradScaler
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
        found_inf = getattr(self, "found_inf", None)  # GradScaler's, when it leaves unscaling to a fused optimizer
        if found_inf is not None and float(found_inf) != 0.0:
            return
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        options = [options_as_numbers(group) for group in self.param_groups]
        rule = self._rule()
        flags = [tuple(rule.flags(each).items()) for each in options]
        layout = self._layout
        if layout is None or not still_holds(layout, parameters, gradients, flags, self.state):
            layout = self._layout = self._lay_out(parameters, gradients, options, flags)
        work = [(bucket, *gradients_of(bucket, gradients)) for bucket in layout.buckets]
        scales = self._scales(work)
        for (bucket, here, present), scale in zip(work, scales, strict=True):
            if present is not None and not (present.any() or self.shared_count):
                continue
            given = {"g_scale": scale, **self._given(bucket)}
            rows, row_of = bucket.advance(options, present, given, self.shared_count)
            engines.engine(bucket.choice.engine).run(bucket, here, rows, row_of)

    # -- what happens to the gradients first ----------------------------------------------------------------------

    def _rule(self) -> Rule:
        """The rule with what the arguments put around it."""
        return modify(self.rule, self._modifiers())

    def _modifiers(self) -> Modifiers:
        clips = "clip_norm" in self.extras or "clip_each" in self.extras
        return Modifiers(
            scale=clips or self._loss_scale() != 1.0,
            bound="clip_value" in self.extras,
            low_precision=self.extras.get("low_precision", "nearest"),
        )

    def _given(self, bucket: Bucket) -> dict[str, Any]:
        """Numbers of this step that neither options nor state hold."""
        given: dict[str, Any] = {}
        if "clip_value" in self.extras:
            given["g_bound"] = self.extras["clip_value"]
        if self.extras.get("low_precision") == "stochastic":  # every parameter rounds with bits of its own
            given["place"] = np.array(bucket.indices, dtype=np.float64)
        return given

    def _loss_scale(self) -> float:
        """What the loss, and so every gradient, was multiplied by: GradScaler leaves it with fused optimizers."""
        scale = getattr(self, "grad_scale", None)
        return 1.0 if scale is None else float(scale)

    def _scales(self, work: list[_Work]) -> list[float | np.ndarray[Any, Any]]:
        """Factor of the gradients of each bucket: one number, or one a unit."""
        unscale = 1.0 / self._loss_scale()
        each, total = self.extras.get("clip_each"), self.extras.get("clip_norm")
        if each is None and total is None:
            return [unscale] * len(work)
        squares = [
            engines.engine(bucket.choice.engine).squared_norms(bucket, here) if here else np.zeros(0)
            for bucket, here, _ in work
        ]
        squares = [summed_over_shards(bucket, found) for (bucket, _, _), found in zip(work, squares, strict=True)]
        if each is not None:
            return [unscale * self._shrink(np.sqrt(found) * unscale, each) for found in squares]
        norm = np.sqrt(np.array([sum(found.sum() for found in squares)])) * unscale
        return [unscale * float(self._shrink(norm, float(total or 0.0))[0])] * len(work)

    def _shrink(self, norms: np.ndarray[Any, Any], limit: float) -> np.ndarray[Any, Any]:
        """Factors that bring norms down to a limit, 1 where they are below; NaN for NaN, 0 for infinity, as torch."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.minimum(1.0, limit / (norms + 1e-6))

    # -- laying out a step ----------------------------------------------------------------------------------------

    def _lay_out(
        self,
        parameters: list[torch.Tensor],
        gradients: list[torch.Tensor | None],
        options: list[dict[str, Any]],
        flags: list[FlagItems],
    ) -> StepLayout:
        group_of = [number for number, group in enumerate(self.param_groups) for _ in group["params"]]
        rule = self._rule()
        before = self._signatures(len(parameters))
        gathered: dict[Signature, list[Unit]] = {}
        fresh: set[int] = set()
        for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if gradient is None and index not in before:
                continue
            group = group_of[index]
            unit, first = self._unit(index, group, parameter, options[group])
            if first:
                fresh.add(index)
            if gradient is None:
                like, sparse = before[index].g, before[index].sparse
            else:
                like, sparse = real_view(gradient).dtype, self._takes_rows(index, gradient, options[group])
            self._check_precision(index, unit.theta.dtype)
            signature = Signature(
                rule,
                flags[group],
                unit.theta.device,
                unit.theta.dtype,
                like,
                tuple((s.name, t.dtype) for s, t in zip(rule.states(options[group]), unit.states, strict=True)),
                dense=is_dense(unit.theta),
                sparse=sparse,
                differentiable=bool(self.defaults.get("differentiable", False)),
                plain=is_plain(parameter) and (gradient is None or not gradient.is_sparse),
            )
            gathered.setdefault(signature, []).append(unit)
        buckets = [self._bucket(signature, units, fresh) for signature, units in gathered.items()]
        kinds = [None if g is None else (g.dtype, g.is_sparse) for g in gradients]
        if self._layout is not None:
            kinds = [new or old for new, old in zip(kinds, self._layout.kinds, strict=True)]
        owned = [
            (name, [unit.kept for unit in bucket.units], [unit.owned[place] for unit in bucket.units])
            for bucket in buckets
            for place, (name, _) in enumerate(bucket.signature.states)
        ]
        return StepLayout(buckets, parameters, addresses_of(parameters), flags, kinds, self.state, owned)

    def _check_precision(self, index: int, dtype: torch.dtype) -> None:
        wanted = self.extras.get("low_precision", "nearest")
        allowed = (torch.bfloat16,) if wanted == "stochastic" else (torch.bfloat16, torch.float16)
        if wanted != "nearest" and dtype not in allowed:
            raise RuntimeError(
                f"low_precision={wanted!r} is for {' and '.join(str(d)[6:] for d in allowed)} parameters, "
                f"{self._name_of(index)} is {str(dtype)[6:]}: leave it out, or give that parameter its own optimizer."
            )

    def _signatures(self, count: int) -> dict[int, Signature]:
        """Signature of each unit laid out so far: what a parameter without a gradient now had when it had one."""
        if self._layout is None or len(self._layout.parameters) != count:
            self._layout = None
            return {}
        return {unit.index: bucket.signature for bucket in self._layout.buckets for unit in bucket.units}

    def _takes_rows(self, index: int, gradient: torch.Tensor, options: Mapping[str, Any]) -> bool:
        """Whether the gradient is sparse and stays so. Raises RuntimeError when the rule cannot take it."""
        rule = self.rule
        handling = rule.sparse(options)
        if gradient.is_sparse and handling == "no":
            decay = " with weight_decay" if options.get("weight_decay", 0) != 0 else ""
            raise RuntimeError(
                f"{rule.name}{decay} needs dense gradients, parameter {self._name_of(index)} has a sparse one: "
                "use SparseAdam, Adagrad or SGD without decay, or build the embedding with sparse=False."
            )
        if not gradient.is_sparse and handling == "only":
            raise RuntimeError(
                f"{rule.name} needs sparse gradients, parameter {self._name_of(index)} has a dense one: "
                "use Adam, or build the embedding with sparse=True."
            )
        return gradient.is_sparse and handling in ("rows", "only")

    def _unit(self, index: int, group: int, parameter: torch.Tensor, options: Mapping[str, Any]) -> tuple[Unit, bool]:
        """The unit of a parameter, its state made on first use; and whether it has yet to step."""
        rule = self._rule()
        theta = real_view(parameter.detach())
        specs = rule.states(options)
        if not specs and not rule.counts_steps:
            return Unit(index, group, parameter, theta, (), (), {}), True
        state = self.state[parameter]
        first = not state
        for spec in specs:
            found = state.get(spec.name)
            if found is None:
                state[spec.name] = self._new_state(spec, parameter)
                first = True
            elif found.shape != parameter.shape:
                raise ValueError(
                    f"state {spec.name!r} of parameter {self._name_of(index)} must have the parameter's shape "
                    f"{tuple(parameter.shape)}, got {tuple(found.shape)}: it belongs to another model."
                )
            elif is_dense(theta):
                state[spec.name] = match_strides(found, parameter)
        owned = tuple(state[spec.name] for spec in specs)
        return Unit(index, group, parameter, theta, tuple(real_view(t) for t in owned), owned, state), first

    def _new_state(self, spec: State, parameter: torch.Tensor) -> torch.Tensor:
        dtype = spec.dtype or self.extras.get("state_dtype")
        if dtype is None or parameter.is_complex() or spec.name == "compensation":
            dtype = parameter.dtype
        made = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
        if spec.copies_theta:
            made.copy_(parameter.detach())
        elif spec.initial != 0.0:
            real_view(made).fill_(spec.initial)
        return made

    def _bucket(self, signature: Signature, units: list[Unit], fresh: set[int]) -> Bucket:
        """A bucket whose scalars gather those of its units; their state tensors become views of one array."""
        rule = signature.rule
        specs = list(rule.scalars)
        if rule.counts_steps:
            specs.insert(0, Scalar("step", lambda _: 0.0))
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        scalars: dict[str, np.ndarray[Any, Any]] = {}
        common = self._common_scalars(specs) if self.shared_count else {}
        for spec in specs:
            table = torch.empty(len(units), dtype=dtype)
            for place, unit in enumerate(units):
                value = unit.kept.get(spec.name, common.get(spec.name))
                group = options_as_numbers(self.param_groups[unit.group])
                table[place] = float(spec.initial(group) if value is None else value)
                unit.kept[spec.name] = table[place]
            scalars[spec.name] = table.numpy()
        return Bucket(
            signature,
            units,
            scalars,
            np.array([unit.index in fresh for unit in units]),
            np.array([unit.group for unit in units], dtype=np.int64),
            engines.choose(self.extras.get("engine", "auto"), signature),
        )

    def _common_scalars(self, specs: list[Scalar]) -> dict[str, float]:
        """The scalars of the parameter that has made most steps, where a latecomer begins."""
        counted = [state for state in self.state.values() if "step" in state]
        if not counted:
            return {}
        furthest = max(counted, key=lambda state: float(state["step"]))
        return {spec.name: float(furthest[spec.name]) for spec in specs}

    def _name_of(self, index: int) -> str:
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        return repr(names[index]) if names else f"number {index}"

    def explain(self) -> Explanation:
        """Which engine ran which parameters at the last step, and why the others did not."""
        return explain(self.rule.name, [] if self._layout is None else self._layout.buckets)

    def bytes_moved(self) -> int:
        """Fewest bytes a fused step moves: theta and states read and written, gradients read. 0 before a step."""
        total = 0
        for bucket in [] if self._layout is None else self._layout.buckets:
            signature = bucket.signature
            widths = 2 * signature.theta.itemsize + signature.g.itemsize
            widths += sum(2 * dtype.itemsize for _, dtype in signature.states)
            total += widths * sum(unit.theta.numel() for unit in bucket.units)
        return total

    # -- construction and state --------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; a parameter listed twice is an error (torch warns, then steps it twice)."""
        listed = param_group.get("params") if isinstance(param_group, dict) else None
        if listed is not None and not isinstance(listed, torch.Tensor | set):
            param_group["params"] = listed = list(listed)
            places: dict[int, int] = {}
            for place, each in enumerate(listed):
                tensor = each[1] if isinstance(each, tuple) else each
                before = places.setdefault(id(tensor), place)
                if before != place:
                    raise ValueError(f"parameter number {place} is parameter number {before} again: list each once.")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict()` of this optimizer, or of torch's of the same name, returned.

        Unlike torch's, states keep the dtype they were saved in. Raises ValueError when the state belongs to another
        optimizer or another model, before anything is changed.
        """
        check_state(self.rule, self.param_groups, self._name_of, state_dict)
        super().load_state_dict(state_dict)
        restore_dtypes(self.param_groups, self.state, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "extras": self.extras}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._layout = None
