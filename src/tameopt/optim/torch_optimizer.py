"""From a rule to a torch.optim.Optimizer: groups, state, checkpoints, hooks, and which engine runs what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from torch._compile import _disable_dynamo  # the public `torch.compiler.disable` imports Dynamo at once

from tameopt.optim import checks, engines
from tameopt.optim.arguments import Closure, Extras, Parameters, check_parameters, checked_extras
from tameopt.optim.checkpoint import check_state, restore_dtypes, with_counts_at_home
from tameopt.optim.explanation import Explanation, explain
from tameopt.optim.layout import is_dense, match_strides
from tameopt.optim.modifiers import Modifiers, modify
from tameopt.optim.plan import (
    Bucket,
    FlagItems,
    Inputs,
    Numbered,
    Signature,
    Unit,
    numbers_of,
    real_view,
    summed_over_shards,
)
from tameopt.optim.rule import Rule, Scalar, State
from tameopt.optim.step_layout import (
    Gradients,
    StepLayout,
    addresses_of,
    current,
    gradients_of,
    is_plain,
)

_UNTRACED = (
    "a step of tameopt is a compiled kernel already, which torch.compile leaves as it is: leave out fullgraph=True, "
    "or compile the forward and backward pass and call optimizer.step() outside."
)


class RuleOptimizer(torch.optim.Optimizer):
    """An update rule as a torch.optim.Optimizer.

    Subclasses set `rule` and name their hyperparameters; everything else is here. Swapping `torch.optim.X` for
    `tame.optim.X` keeps parameter groups, state_dict (both ways), schedulers, closures, hooks and GradScaler.
    """

    rule: ClassVar[Rule]
    ranges: ClassVar[Mapping[str, str]] = {}  # of hyperparameters, where they are not `checks.RANGES`
    shared_count: ClassVar[bool] = False  # whether steps are counted for all parameters together

    def __init__(self, params: Parameters, defaults: dict[str, Any], **extras: Unpack[Extras]) -> None:
        checks.in_ranges(defaults, self.ranges)
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
        if torch.compiler.is_dynamo_compiling():
            torch._dynamo.graph_break(msg=_UNTRACED)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable", False))):
            self._step()
        return loss

    @_disable_dynamo  # torch.compile would trace the host's bookkeeping and lose what kernels write
    def _step(self) -> None:
        groups = self.param_groups
        parameters = groups[0]["params"] if len(groups) == 1 else [p for group in groups for p in group["params"]]
        options = [Numbered(group) for group in groups]
        rule = self._rule()
        flags = [tuple(rule.flags(each).items()) for each in options]
        layout, gradients = current(self._layout, parameters, flags, self.state)
        if layout is None:
            layout = self._layout = self._lay_out(list(parameters), gradients.tensors, options, flags)
        found_inf = self._found_inf(layout)
        if isinstance(found_inf, bool):
            return
        work = [(bucket, gradients_of(bucket, gradients)) for bucket in layout.buckets]
        scales = self._scales(work)
        for (bucket, here), scale in zip(work, scales, strict=True):
            if here.present is not None and not self.shared_count and not here.present.any():
                continue
            given = {"g_scale": scale, **self._given(bucket)}
            inputs = Inputs(options, given, self.shared_count, found_inf)
            engines.engine(bucket.choice.engine).run(bucket, here, inputs)
        layout.own_counts()

    def _found_inf(self, layout: StepLayout) -> torch.Tensor | Literal[True] | None:
        """GradScaler's, which leaves unscaling to a fused optimizer: a tensor that the engines read, or on the host
        whether it is set."""
        found: torch.Tensor | None = getattr(self, "found_inf", None)
        if found is None or all(engines.engine(bucket.choice.engine).FOLDS for bucket in layout.buckets):
            return found
        return True if float(found) != 0.0 else None

    # -- what happens to the gradients first ----------------------------------------------------------------------

    def _rule(self) -> Rule:
        """The rule with what the arguments put around it."""
        return modify(self.rule, self._modifiers())

    def _modifiers(self) -> Modifiers:
        clips = "clip_norm" in self.extras or "clip_each" in self.extras
        return Modifiers(
            scale=clips or getattr(self, "grad_scale", None) is not None,
            bound="clip_value" in self.extras,
            low_precision=self.extras.get("low_precision", "nearest"),
        )

    def _given(self, bucket: Bucket) -> dict[str, float | torch.Tensor]:
        """Numbers of this step that neither options nor state hold."""
        given: dict[str, float | torch.Tensor] = {}
        if "clip_value" in self.extras:
            given["g_bound"] = self.extras["clip_value"]
        if self.extras.get("low_precision") == "stochastic":  # every parameter rounds with bits of its own
            given["place"] = bucket.places
        return given

    def _unscale(self) -> float | torch.Tensor:
        """The factor that undoes what the loss was multiplied by: GradScaler leaves it to fused optimizers."""
        scale: torch.Tensor | None = getattr(self, "grad_scale", None)
        return 1.0 if scale is None else 1.0 / scale.to(torch.float64)

    def _scales(self, work: list[tuple[Bucket, Gradients]]) -> list[float | torch.Tensor]:
        """Factor of the gradients of each bucket: one number, or one a unit; a tensor is not read here."""
        each, total = self.extras.get("clip_each"), self.extras.get("clip_norm")
        if each is None and total is None:
            return [self._unscale()] * len(work)
        squares = [
            summed_over_shards(bucket, engines.engine(bucket.choice.engine).squared_norms(bucket, here))
            for bucket, here in work
        ]
        scales: list[float | torch.Tensor] = []
        for found in squares:
            unscale = self._unscale()
            if isinstance(unscale, torch.Tensor):
                unscale = unscale.to(found.device)
            if each is not None:
                scales.append(self._shrink(found.sqrt() * unscale, float(each)) * unscale)
                continue
            norm = torch.stack([other.sum().to(found.device) for other in squares]).sum().sqrt()
            scales.append(self._shrink(norm * unscale, float(total or 0.0)) * unscale)
        return scales

    def _shrink(self, norms: torch.Tensor, limit: float) -> torch.Tensor:
        """Factors that bring norms down to a limit, 1 where they are below; NaN for NaN, 0 for infinity, as torch."""
        return (limit / (norms + 1e-6)).clamp(max=1.0)

    # -- laying out a step ----------------------------------------------------------------------------------------

    def _lay_out(
        self,
        parameters: list[torch.Tensor],
        gradients: list[torch.Tensor | None],
        options: list[Numbered],
        flags: list[FlagItems],
    ) -> StepLayout:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{self.rule.name} must lay out its step outside a CUDA graph, and this one is being captured: make "
                "one step, with every gradient there, before the capture."
            )
        group_of = [number for number, group in enumerate(self.param_groups) for _ in group["params"]]
        rule = self._rule()
        before = self._signatures(len(parameters))
        alike: dict[Signature, list[Unit]] = {}
        fresh = self._fresh()
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
            alike.setdefault(signature, []).append(unit)
        buckets = [self._bucket(signature, units, fresh) for signature, units in alike.items()]
        kinds = [None if g is None else (g.dtype, g.is_sparse) for g in gradients]
        if self._layout is not None:
            kinds = [new or old for new, old in zip(kinds, self._layout.kinds, strict=True)]
        owned = [
            (name, [unit.kept for unit in bucket.units], [unit.owned[place] for unit in bucket.units])
            for bucket in buckets
            for place, (name, _) in enumerate(bucket.signature.states)
        ]
        return StepLayout(buckets, parameters, addresses_of(parameters), flags, kinds, self.state, owned)

    def _fresh(self) -> set[int]:
        """The parameters of the last layout that have yet to step: a scaler may have held them back."""
        buckets = [] if self._layout is None else self._layout.buckets
        return {
            u.index
            for bucket in buckets
            for u, first in zip(bucket.units, bucket.first.tolist(), strict=True)
            if first
        }

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
        choice = engines.choose(self.extras.get("engine", "auto"), signature)
        home = signature.device if engines.engine(choice.engine).FOLDS else torch.device("cpu")
        common = self._common_scalars(specs) if self.shared_count else {}
        options = [Numbered(group) for group in self.param_groups]
        counts: dict[str, torch.Tensor] = {}
        for spec in specs:
            found = [unit.kept.get(spec.name, common.get(spec.name)) for unit in units]
            values = numbers_of(
                [
                    spec.initial(options[unit.group]) if value is None else value
                    for unit, value in zip(units, found, strict=True)
                ]
            )
            counts[spec.name] = torch.tensor(values, dtype=dtype, device=home)
            for unit, element in zip(units, counts[spec.name].unbind(), strict=True):
                unit.kept[spec.name] = element
        first = torch.tensor([float(unit.index in fresh) for unit in units], dtype=dtype, device=home)
        groups = np.array([unit.group for unit in units], dtype=np.int64)
        return Bucket(signature, units, counts, first, groups, choice)

    def _common_scalars(self, specs: list[Scalar]) -> dict[str, float]:
        """The scalars of the parameter that has made most steps, where a latecomer begins."""
        counted = [state for state in self.state.values() if "step" in state]
        if not counted:
            return {}
        steps = numbers_of([state["step"] for state in counted])
        furthest = counted[steps.index(max(steps))]
        return dict(zip((s.name for s in specs), numbers_of([furthest[s.name] for s in specs]), strict=True))

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
        if isinstance(param_group, dict) and not isinstance(param_group.get("params"), torch.Tensor | set | None):
            param_group["params"] = list(param_group["params"])
            held = [p for group in self.param_groups for p in group["params"]]
            check_parameters(param_group["params"], held, bool(self.defaults.get("differentiable")))
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """As torch's. Counts that the engine keeps on the device come as tensors on the host, where torch expects
        them unless the group is `capturable` or `fused`."""
        buckets = [] if self._layout is None else self._layout.buckets
        return with_counts_at_home(super().state_dict(), buckets, self.param_groups)

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
