"""Keras' Adam: epsilon is added before the bias correction of the root."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, maximum, sqrt
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State


def states(options: Options) -> tuple[State, ...]:
    """m, v, and the largest v so far with amsgrad."""
    largest = (State("velocity_hat"),) if options["amsgrad"] else ()
    return (State("momentum"), State("velocity"), *largest)


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"amsgrad": options["amsgrad"]}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """alpha sqrt(1 - beta2^k) / (1 - beta1^k)."""
    beta1, beta2 = options["beta_1"], options["beta_2"]
    return {
        "alpha": options["lr"] * sqrt(1.0 - beta2**s.step) / (1.0 - beta1**s.step),
        "take1": 1.0 - beta1,
        "take2": 1.0 - beta2,
        "epsilon": options["epsilon"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta -= alpha_k m / (sqrt(v) + epsilon)."""
    m = state.momentum + (g - state.momentum) * c.take1
    v = state.velocity + (g * g - state.velocity) * c.take2
    new = {"momentum": m, "velocity": v}
    if on.amsgrad:
        v = new["velocity_hat"] = maximum(state.velocity_hat, v)
    return theta - m * c.alpha / (sqrt(v) + c.epsilon), new


RULE = Rule("keras.Adam", states, flags, coefficients, update)


class Adam(KerasOptimizer):
    """Adam as `keras.optimizers.Adam`: theta -= alpha sqrt(1 - beta2^k) / (1 - beta1^k) m / (sqrt(v) + epsilon).

    Where v is small epsilon weighs 1 / sqrt(1 - beta2^k) more than in torch's form: 31 times at the first step.
    learning_rate: alpha >= 0, or a schedule(k); beta_1, beta_2: in [0, 1); epsilon >= 0; amsgrad: divide by the
    largest v so far; for the rest see `Common`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "Adam",
    Adam,
    "theta = theta - alpha sqrt(1-b2^k) / (1-b1^k) m / (sqrt(v) + epsilon)",
    "Kingma and Ba 2015; Reddi et al. 2018 (amsgrad)",
    variants={"amsgrad": {"amsgrad": True, "weight_decay": 0.1, "beta_1": 0.5, "global_clipnorm": 1.0}},
)
