"""What Keras' optimizers share: their common arguments, and steps counted for all parameters together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import torch

from tameopt.optim import checks
from tameopt.optim.arguments import Closure, Parameters
from tameopt.optim.modifiers import Modifiers
from tameopt.optim.plan import real_view
from tameopt.optim.torch_optimizer import RuleOptimizer

LearningRate = float | Callable[[int], float]


class WithoutDecay(TypedDict, total=False):
    """Keras' common arguments but weight_decay, and tameopt's `engine`.

    clipnorm, clipvalue,
    global_clipnorm: at most one, as in Keras (each parameter's norm, each element, the norm of all); use_ema,
    ema_momentum, ema_overwrite_frequency: keep an average of theta, write it back every so many steps;
    loss_scale_factor: divides the gradients; name: kept, without effect.
    """

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    name: str | None
    gradient_accumulation_steps: int | None
    engine: str


class Common(WithoutDecay, total=False):
    """Keras' common arguments: weight_decay (theta shrinks by learning_rate * weight_decay first), and the others."""

    weight_decay: float | None


_COMMON = (*WithoutDecay.__annotations__, *Common.__annotations__)


class KerasOptimizer(RuleOptimizer):
    """Keras' semantics around a rule.

    Like Keras, and unlike torch, steps are counted once for all parameters: one that gets its first gradient late
    starts at the common step count.
    """

    shared_count = True

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate,
        hyperparameters: dict[str, Any],
        **common: Unpack[Common],
    ) -> None:
        unknown = set(common) - set(_COMMON)
        if unknown:
            raise TypeError(
                f"unknown argument {sorted(unknown)[0]!r}: Keras' {type(self).__name__} takes "
                f"{', '.join([*hyperparameters, *_COMMON])}."
            )
        if common.get("gradient_accumulation_steps"):
            raise ValueError(
                "gradient_accumulation_steps must be None: PyTorch accumulates in .grad, so call backward() several "
                "times, divide the loss by their number, and step once."
            )
        self.schedule = learning_rate if callable(learning_rate) else None
        rate = float(learning_rate(0)) if callable(learning_rate) else learning_rate
        checks.in_ranges({"learning_rate": rate, **hyperparameters}, self.ranges)
        clips = {"clipnorm": "clip_each", "clipvalue": "clip_value", "global_clipnorm": "clip_norm"}
        given = {name: value for name, value in common.items() if name in clips and value}
        if len(given) > 1:
            raise ValueError(f"only one of {', '.join(clips)} can be set, got {', '.join(given)}: drop the others.")
        keep, every = common.get("ema_momentum", 0.99), common.get("ema_overwrite_frequency")
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"ema_overwrite_frequency must be a whole number >= 1 or None, got {every!r}.")
        self.use_ema = bool(common.get("use_ema", False))
        self.loss_scale_factor = common.get("loss_scale_factor")
        defaults = {
            "lr": rate,
            **hyperparameters,
            "weight_decay": common.get("weight_decay") or 0.0,
            "ema_momentum": keep,
            "ema_overwrite_frequency": every,
        }
        extras: Any = {clips[name]: value for name, value in given.items()}
        super().__init__(params, defaults, engine=common.get("engine", "auto"), **extras)

    def step(self, closure: Closure | None = None) -> Any:
        """One step, as `RuleOptimizer.step`; a learning_rate that is a schedule is asked for this step's rate."""
        if self.schedule is not None:
            rate = float(self.schedule(self.iterations))
            for group in self.param_groups:
                group["lr"] = rate
        return super().step(closure)

    @property
    def iterations(self) -> int:
        """How many steps have been made."""
        counts = [float(state["step"]) for state in self.state.values() if "step" in state]
        return int(max(counts, default=0.0))

    def finalize_variable_values(self) -> None:
        """Write the averages of theta (use_ema=True) into the parameters, as at the end of Keras' training."""
        for parameter, state in self.state.items():
            if "average" in state:
                real_view(parameter.detach()).copy_(real_view(state["average"]))

    def _modifiers(self) -> Modifiers:
        made = super()._modifiers()
        return Modifiers(made.scale or self.loss_scale_factor is not None, made.bound, True, self.use_ema)

    def _shrink(self, norms: torch.Tensor, limit: float) -> torch.Tensor:
        """Keras adds nothing to the norm, and a norm that is not finite makes every gradient NaN."""
        return limit * (1.0 / norms).clamp(max=1.0 / limit) + (norms - norms)

    def _unscale(self) -> float | torch.Tensor:
        return super()._unscale() / (self.loss_scale_factor or 1.0)

    def __getstate__(self) -> dict[str, Any]:
        own = {"schedule": self.schedule, "use_ema": self.use_ema, "loss_scale_factor": self.loss_scale_factor}
        return {**super().__getstate__(), **own}
